from dataclasses import replace
from pathlib import Path

import pytest

from ollama_dist.cli.checks_machine import (
    check_secret_files,
    check_settings,
    check_state_dir,
    judge_clock,
    judge_open_files,
    judge_proxies,
    judge_space,
)
from ollama_dist.cli.examination import Result, Situation
from ollama_dist.node.config import NodeSettings, Settings
from ollama_dist.node.paths import make_state_dir
from ollama_dist.runtime.private_files import write_private
from tests.unit.cli.test_examination import SITUATION


def situation_in(folder: Path) -> Situation:
    return replace(SITUATION, settings=Settings(node=NodeSettings("desk", folder)))


def test_a_mistake_in_the_settings_is_passed_on() -> None:
    verdict = check_settings(replace(SITUATION, config_error="node.yaml:3: 'lissten' is not a setting"))
    assert (verdict.result, verdict.evidence) == (Result.FAIL, "node.yaml:3: 'lissten' is not a setting")
    assert check_settings(SITUATION).evidence == "all as by default"


def test_a_state_folder_is_for_its_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    assert check_state_dir(situation_in(folder)).result is Result.PASS
    assert not folder.exists(), "looking makes nothing"
    make_state_dir(folder)
    assert check_state_dir(situation_in(folder)).result is Result.PASS
    folder.chmod(0o755)
    verdict = check_state_dir(situation_in(folder))
    assert (verdict.result, verdict.fix) == (Result.WARN, f"chmod 700 {folder}")


def test_a_state_folder_that_cannot_be_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)
    missing = check_state_dir(situation_in(tmp_path / "a" / "b"))
    assert (missing.result, missing.evidence) == (
        Result.FAIL,
        f"{tmp_path}/a/b cannot be made: {tmp_path} is not writable",
    )
    assert check_state_dir(situation_in(tmp_path)).fix.startswith("sudo chown -R ")


def test_a_secret_that_others_can_read_fails(tmp_path: Path) -> None:
    situation = situation_in(tmp_path)
    assert check_secret_files(situation).result is Result.SKIP
    write_private(tmp_path / "cluster.key", "odk1-x")
    assert check_secret_files(situation).result is Result.PASS
    (tmp_path / "cluster.key").chmod(0o640)
    verdict = check_secret_files(situation)
    assert (verdict.result, verdict.fix) == (Result.FAIL, f"chmod 600 {tmp_path}/cluster.key")


@pytest.mark.parametrize(
    ("soft", "hard", "result", "fix"),
    [
        (-1, -1, Result.PASS, ""),
        (4096, 4096, Result.PASS, ""),
        (1024, 524288, Result.WARN, "ulimit -n 4096"),
        (1024, -1, Result.WARN, "ulimit -n 4096"),
        (1024, 1024, Result.WARN, "raise LimitNOFILE"),
    ],
)
def test_room_for_connections(soft: int, hard: int, result: Result, fix: str) -> None:
    verdict = judge_open_files(soft, hard)
    assert verdict.result is result
    assert verdict.fix.startswith(fix)


@pytest.mark.parametrize(
    ("environ", "result"),
    [
        ({}, Result.PASS),
        ({"https_proxy": "http://p:1"}, Result.PASS),
        ({"http_proxy": "http://p:1"}, Result.WARN),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "localhost"}, Result.WARN),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "localhost, 127.0.0.1"}, Result.PASS),
        ({"ALL_PROXY": "http://p:1", "no_proxy": "*"}, Result.PASS),
    ],
)
def test_proxies_that_would_catch_loopback(environ: dict[str, str], result: Result) -> None:
    assert judge_proxies(environ).result is result


def test_the_fix_for_a_proxy_keeps_what_was_excepted() -> None:
    verdict = judge_proxies({"http_proxy": "http://p:1", "no_proxy": ".lan,localhost"})
    assert verdict.fix == "export NO_PROXY=.lan,localhost,127.0.0.1"


def test_a_clock_cannot_be_earlier_than_what_was_written() -> None:
    assert judge_clock(1_000_000.0, [999_000.0, 1_000_060.0]).result is Result.PASS
    verdict = judge_clock(1_000_000.0, [1_003_600.0])
    assert verdict.result is Result.WARN
    assert verdict.evidence == "it shows 1970-01-12 13:46 UTC, earlier than files written 60 min later"


@pytest.mark.parametrize(("free", "result"), [(5, Result.FAIL), (50, Result.WARN), (500, Result.PASS)])
def test_space(free: int, result: Result) -> None:
    verdict = judge_space(Path("/m"), free * 10**9, (10 * 10**9, 100 * 10**9))
    assert verdict.result is result
    assert verdict.evidence.startswith(f"{free}")
