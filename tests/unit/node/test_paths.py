import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ollama_dist.core.errors import ConfigError
from ollama_dist.node.paths import (
    StateLock,
    StatePaths,
    is_in_use,
    make_state_dir,
    others_may_read,
)


def test_the_state_folder_is_its_owners_alone(tmp_path: Path) -> None:
    paths = make_state_dir(tmp_path / "a" / "state")
    assert stat.S_IMODE(paths.root.stat().st_mode) == 0o700
    assert not others_may_read(paths.root)
    assert make_state_dir(paths.root) == paths


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"file/state cannot be made: Not a directory"):
        make_state_dir(tmp_path / "file" / "state")


def test_a_folder_of_someone_else_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(ConfigError, match="belongs to someone else"):
        make_state_dir(tmp_path)


def test_one_folder_serves_one_node_at_a_time(tmp_path: Path) -> None:
    paths = make_state_dir(tmp_path / "state")
    assert not is_in_use(paths)
    first = StateLock(paths)
    first.take()
    assert is_in_use(paths)
    with pytest.raises(ConfigError, match="in use by another node"):
        StateLock(paths).take()
    first.release()
    assert not is_in_use(paths)
    second = StateLock(paths)
    second.take()
    second.release()


def test_a_killed_node_leaves_its_folder_free(tmp_path: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from ollama_dist.node.paths import *; "
        "StateLock(make_state_dir(Path(sys.argv[1]))).take(); print('taken', flush=True); time.sleep(60)"
    )
    paths = StatePaths(tmp_path / "state")
    with subprocess.Popen(
        [sys.executable, "-c", program, str(paths.root)], stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == "taken\n"
        assert is_in_use(paths)
        node.kill()
        node.wait(timeout=10)
    assert not is_in_use(paths)
