"""Files that only the node's own user may read, replaced in one step."""

import os
import sys
from pathlib import Path
from typing import Final

from ollama_dist.core.errors import ConfigError

_OTHERS: Final = 0o077


def make_private_folder(folder: Path) -> None:
    """Make ``folder`` for its owner only; one that was open to others is closed, and that is said.

    Raises `ConfigError` where it cannot be made or closed.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the state folder {folder} cannot be made: {error.strerror or error}") from error
    _close_to_others(folder, 0o700)


def read_private(path: Path) -> bytes | None:
    """What the file holds, None when there is none. Raises `ConfigError` when it cannot be read.

    A file that others could read is closed to them, and that is said: what it holds may be known by now.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    _close_to_others(path, 0o600)
    return data


def write_private(path: Path, content: bytes | str) -> None:
    """Replace the file in one step, on disk before this returns. Raises `OSError`, the old file untouched."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where folders can be synced at all."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _close_to_others(path: Path, mode: int) -> None:
    if sys.platform == "win32" or not path.stat().st_mode & _OTHERS:
        return
    try:
        path.chmod(mode)
    except OSError as error:
        raise ConfigError(
            f"others can read {path} and it cannot be closed to them: {error.strerror or error}; "
            f"run: chmod {mode:o} {path}"
        ) from error
    import structlog  # slow, and commands that only look around seldom come here

    structlog.get_logger().warning(
        "open_to_others", path=str(path), note="others could read it; closed to them now"
    )
