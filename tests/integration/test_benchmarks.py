"""The benchmarks work: what they need builds, and their figures are there, however high."""

import json
from pathlib import Path

import pytest

from benchmarks.membership import report as membership
from benchmarks.membership.events import Log
from benchmarks.relay.__main__ import main
from benchmarks.relay.build import NoCompiler, compiler
from benchmarks.relay.passes import Figures
from benchmarks.relay.report import BEGIN, END, put_between_marks, ratio
from benchmarks.scale import measure
from benchmarks.transfer.__main__ import main as measure_transfers


@pytest.fixture
def _compiler() -> None:
    try:
        compiler()
    except NoCompiler as why:
        pytest.skip(str(why))


def _measured(folder: Path, *words: str) -> dict[str, Figures]:
    out = folder / "relay"
    assert main(["--tiny", "--passes", "1", "--out", str(out), *words]) == 0
    assert "| CPU per streamed chunk, µs |" in out.with_suffix(".md").read_text()
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["about"]["missing"] == []
    return {front: passes[0] for front, passes in found["passes"].items()}


@pytest.mark.usefixtures("_compiler")
def test_a_tiny_pass_has_every_figure(tmp_path: Path) -> None:
    found = _measured(tmp_path, "--only", "direct,plain")
    plain, direct = found["plain aiohttp"], found["direct"]
    for chunks in ("chunks", "chunks_openai"):
        assert 0 < plain[chunks] <= 36  # 4 streams of 10, without those that came before the last had begun
    for figure in ("cpu_us_embed", "cpu_us_chat", "cpu_us_tags", "cpu_us_openai", "cpu_us_chunk"):
        assert plain[figure] > 0, figure
        assert direct[figure] == 0, figure
    for each in (plain, direct):
        assert 0 < each["delay_us_p50"] <= each["delay_us_p99"]
        assert 0 < each["first_byte_us_p50"] <= each["first_byte_us_p99"]
        assert each["leave_flowing_unheard"] == each["leave_silent_unheard"] == 0
        assert each["leave_silent_us_p50"] > 0
    assert plain["upload_cpu_s_per_gb"] > 0
    assert plain["kib_per_stream"] >= 0


@pytest.mark.usefixtures("_compiler")
def test_streams_and_connections_leave_nothing_behind() -> None:
    found = measure(streams=60, connections=120, per_s=20, seconds=1.5)
    assert found["flowing"]["errors"] == 0
    assert found["flowing"]["chunks"] > 60 * 20
    assert 0 < found["silent"]["descriptors_per_stream"] <= 2.1
    assert found["silent"]["descriptors_left_by_streams"] <= 2  # the node's own look at its engine
    assert found["waiting"]["descriptors_per_connection"] == pytest.approx(1.0, abs=0.05)
    assert found["waiting"]["descriptors_left_by_connections"] <= 2


@pytest.mark.usefixtures("_compiler")
def test_a_soak_tells_what_is_left_after_each_round() -> None:
    found = measure(streams=20, connections=0, per_s=20, seconds=0.5, rounds=4)["soaked"]
    assert (found["rounds"], found["errors"]) == (4, 0)
    assert found["descriptors_most"] - found["descriptors_least"] <= 2  # the node's own look at its engine
    assert len(found["kib_after_each"]) == 4


def test_a_ratio_is_taken_within_each_pass() -> None:
    passes = {"a": [{"x": 2.0}, {"x": 30.0}, {}], "b": [{"x": 1.0}, {"x": 10.0}, {"x": 5.0}]}
    assert ratio(passes, "a", "b", "x") == 2.5
    assert ratio(passes, "a", "c", "x") is None


def test_figures_go_between_the_marks(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    put_between_marks(document, "new")
    assert document.read_text() == f"before\n{BEGIN}\n\nnew\n{END}\nafter\n"


def test_the_document_has_its_marks() -> None:
    text = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()
    assert text.count(BEGIN) == text.count(END) == 1


# Membership


def _line(event: str, at: str, **said: str) -> str:
    return json.dumps({**said, "event": event, "level": "debug", "timestamp": f"2026-11-21T10:00:{at}Z"})


def test_what_a_node_came_to_believe_is_read_from_its_log_as_it_grows(tmp_path: Path) -> None:
    path = tmp_path / "desk.log"
    log = Log("desk", path)
    assert log.news() == []
    path.write_text(
        _line("membership_started", "00.500000", node="aa", port="1")
        + "\n"
        + _line("member_joined", "01.000000", member="bb", detail="")
        + "\n"
        + _line("member_suspect", "02.000000", member="bb", detail="")[:30]
    )
    (joined,) = log.news()
    assert (joined.observer, joined.member, joined.state) == ("desk", "bb", "alive")
    assert joined.at - log.started_at == 0.5
    assert log.node_id == "aa"
    with path.open("a") as more:
        more.write(_line("member_suspect", "02.000000", member="bb", detail="")[30:] + "\n")
    assert [change.state for change in log.news()] == ["suspect"]
    assert log.beliefs == {"bb": "suspect"}


def test_the_table_of_membership_has_the_bars_and_the_worst_of_few(tmp_path: Path) -> None:
    found = {
        5: {"kill -9: suspect everywhere": [0.25, 0.5, 1.0], "idle: own memory, KiB": [1000.0, 2000.0]},
        20: {"idle: own memory, KiB": [4500.0]},
    }
    text = membership.markdown(found, ["a note"])
    assert "| kill -9: suspect everywhere | p99 3 | 0.50 / 1.00 (3) | – |" in text
    assert membership.per_peer_kib(found) == 200
    assert json.loads(membership.as_json(found, {}))["per_peer_kib"] == 200


def test_a_small_transfer_has_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "transfer.json"
    assert measure_transfers(["--mib", "3", "--passes", "1", "--out", str(out)]) == 0
    ways = json.loads(out.read_text())["ways"]
    for way in ("node to node, 16 ranges", "node to file, in order, hashed"):
        assert ways[way]["seconds"] > 0
        assert ways[way]["taking_cpu_s_per_gb"] > 0
    assert "| node to node, 16 ranges |" in capsys.readouterr().out
