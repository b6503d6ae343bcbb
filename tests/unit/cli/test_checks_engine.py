import socket
from dataclasses import replace

import pytest

from ollama_dist.cli.answers import read_status
from ollama_dist.cli.checks_engine import (
    ask_version,
    check_embedded_engine,
    check_ollama,
    check_ollama_version,
    judge_version,
)
from ollama_dist.cli.examination import Result, Situation
from ollama_dist.node.config import EngineSettings
from ollama_dist.node.setting_values import Address, EngineChoice
from tests.support.fake_node import STATUS, FakeNode
from tests.unit.cli.test_examination import SITUATION


def with_engine(engine: EngineSettings) -> Situation:
    return replace(SITUATION, settings=replace(SITUATION.settings, engine=engine))


def running(**engine: object) -> Situation:
    return replace(SITUATION, status=read_status(STATUS | {"engine": engine}))


@pytest.mark.parametrize(
    ("version", "result"),
    [
        ("0.17.1", Result.PASS),
        ("v0.33.0-rc2", Result.PASS),
        ("1.0.0", Result.PASS),
        ("0.17.0", Result.WARN),
        ("0.5.13", Result.WARN),
        ("0.0.0", Result.WARN),
        ("", Result.WARN),
        ("latest", Result.WARN),
    ],
)
def test_the_floor_of_safe_versions(version: str, result: Result) -> None:
    assert judge_version(version).result is result


def test_an_ollama_that_answers_passes() -> None:
    with FakeNode({"GET /api/version": (200, {"version": "0.33.0"})}) as ollama:
        situation = with_engine(EngineSettings(ollama=Address("127.0.0.1", ollama.port)))
        assert check_ollama(situation).evidence == f"Ollama 0.33.0 answers at {ollama.address}"
        assert check_ollama_version(situation).result is Result.PASS


def test_an_ollama_that_was_named_and_is_not_there_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/ollama")
    situation = with_engine(EngineSettings(ollama=Address("127.0.0.1", 1)))
    verdict = check_ollama(situation)
    assert (verdict.result, verdict.fix) == (Result.FAIL, "ollama serve")
    assert verdict.evidence == "127.0.0.1:1: nobody is listening"
    assert check_ollama_version(situation).result is Result.SKIP


def test_an_ollama_the_node_can_start_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_dist.cli.checks_engine.ask_version", lambda _: (None, "nobody is listening"))
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/ollama")
    assert check_ollama(SITUATION).evidence == "none is listening; the node will start /usr/bin/ollama"


@pytest.mark.parametrize(("installed", "result"), [(True, Result.WARN), (False, Result.FAIL)])
def test_a_machine_without_ollama(installed: bool, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_dist.cli.checks_engine.ask_version", lambda _: (None, "nobody is listening"))
    monkeypatch.setattr("ollama_dist.cli.checks_engine.find_spec", lambda _: object() if installed else None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert check_ollama(SITUATION).result is result


@pytest.mark.parametrize("choice", [EngineChoice.NONE, EngineChoice.LLAMACPP])
def test_an_ollama_that_is_not_wanted_is_not_looked_for(choice: EngineChoice) -> None:
    situation = with_engine(EngineSettings(engine=choice))
    assert check_ollama(situation).result is Result.SKIP
    assert check_ollama_version(situation).result is Result.SKIP


def test_the_embedded_engine_has_to_be_there_only_when_it_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = with_engine(EngineSettings(engine=EngineChoice.LLAMACPP))
    monkeypatch.setattr("ollama_dist.cli.checks_engine.find_spec", lambda _: None)
    assert check_embedded_engine(SITUATION).result is Result.SKIP
    assert check_embedded_engine(chosen).result is Result.FAIL
    monkeypatch.setattr("ollama_dist.cli.checks_engine.find_spec", lambda _: object())
    assert check_embedded_engine(chosen).result is Result.PASS


def test_a_running_node_knows_its_engine_best() -> None:
    ready = running(kind="ollama", address="127.0.0.1:5", version="0.5.13", state="ready")
    assert check_ollama(ready).evidence == "ollama 0.5.13 at 127.0.0.1:5 is ready"
    assert check_ollama_version(ready).result is Result.WARN
    gone = running(kind="ollama", address="127.0.0.1:5", version="", state="unreachable", error="refused")
    assert check_ollama(gone).evidence == "refused"
    assert check_ollama(gone).result is Result.FAIL
    assert check_ollama(running(kind="none")).result is Result.WARN
    assert check_ollama_version(running(kind="llama.cpp", version="1")).result is Result.SKIP


@pytest.mark.parametrize("answer", [(200, b"Ollama is running"), (200, []), (404, {"error": "x"})])
def test_something_else_there_is_no_ollama(answer: tuple[int, object]) -> None:
    with FakeNode({"GET /api/version": answer}) as other:
        assert ask_version(Address("127.0.0.1", other.port)) == (None, "what answers there is no Ollama")


def test_one_that_hangs_is_not_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_dist.cli.checks_engine._PATIENCE_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        assert ask_version(Address("127.0.0.1", deaf.getsockname()[1])) == (None, "no answer within 0.1 s")
