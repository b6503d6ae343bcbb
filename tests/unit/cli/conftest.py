import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from ollama_dist.cli.main import main


@dataclass(frozen=True)
class Ended:
    """What a command left behind."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is set and nobody has a file: its state folder."""
    for name in list(os.environ):
        if name.startswith("OLLAMA") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    state = tmp_path / "state"
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("OLLAMA_DIST_STATE_DIR", str(state))
    monkeypatch.setenv("COLUMNS", "80")
    return state


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs ``ollama-dist`` with these words."""

    def run(*words: str) -> Ended:
        code = main(list(words))
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return run
