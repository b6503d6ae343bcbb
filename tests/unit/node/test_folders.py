import sys
from pathlib import Path

import platformdirs
import pytest

from ollama_dist.node.folders import config_folder, state_folder


@pytest.mark.parametrize("named", [None, "", "/elsewhere", "~/mine"])
def test_folders_are_those_platformdirs_names(named: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    for variable in ("XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
        if named is not None:
            monkeypatch.setenv(variable, named)
    assert state_folder() == platformdirs.user_state_path("ollama-dist", appauthor=False)
    assert config_folder() == platformdirs.user_config_path("ollama-dist", appauthor=False)


@pytest.mark.skipif(sys.platform != "linux", reason="these are the folders on Linux")
def test_nobody_needs_to_set_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert state_folder() == Path("/home/ada/.local/state/ollama-dist")
