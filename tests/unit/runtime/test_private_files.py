import os
from pathlib import Path

import pytest
import structlog

from ollama_dist.core.errors import ConfigError
from ollama_dist.runtime.private_files import make_private_folder, read_private, write_private


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_a_folder_is_made_for_its_owner_only(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "state")
    assert mode(tmp_path / "a" / "state") == 0o700


def test_a_folder_others_can_read_is_closed_and_that_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    with structlog.testing.capture_logs() as logs:
        make_private_folder(tmp_path)
    assert mode(tmp_path) == 0o700
    assert [(line["event"], line["log_level"]) for line in logs] == [("open_to_others", "warning")]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="file/state cannot be made"):
        make_private_folder(tmp_path / "file" / "state")


def test_what_is_written_is_read_again_and_is_private(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    write_private(path, b"first")
    write_private(path, b"second")
    assert read_private(path) == b"second"
    assert mode(path) == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["node.key"]


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert read_private(tmp_path / "node.key") is None


def test_an_open_file_is_closed_and_that_is_said(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(b"secret")
    path.chmod(0o644)
    with structlog.testing.capture_logs() as logs:
        assert read_private(path) == b"secret"
    assert mode(path) == 0o600
    assert logs[0]["path"] == str(path)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "membership"
    write_private(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_private(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["membership"]
