"""The benchmarks work: what they need builds, and their figures are there, however high."""

import json
from pathlib import Path

import pytest

from benchmarks.relay.__main__ import main
from benchmarks.relay.build import NoCompiler, compiler
from benchmarks.relay.passes import Figures
from benchmarks.relay.report import BEGIN, END, put_between_marks, ratio
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


def test_a_small_transfer_has_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "transfer.json"
    assert measure_transfers(["--mib", "3", "--passes", "1", "--out", str(out)]) == 0
    ways = json.loads(out.read_text())["ways"]
    for way in ("node to node, 16 ranges", "node to file, in order, hashed"):
        assert ways[way]["seconds"] > 0
        assert ways[way]["taking_cpu_s_per_gb"] > 0
    assert "| node to node, 16 ranges |" in capsys.readouterr().out
