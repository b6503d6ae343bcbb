"""The state folder: what lies where, who may read it, and that only one node uses it."""

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ollama_dist.core.errors import ConfigError

_LOCK_PATIENCE_S: Final = 1.0
"""A command that looks whether the node runs holds the lock for a moment; a starting node waits that out."""


@dataclass(frozen=True, slots=True)
class StatePaths:
    """Where a node keeps what it has to remember."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by the running node."""
        return self.root / "lock"

    @property
    def runtime(self) -> Path:
        """Where the node listens and what it last knew: `runtime_file`."""
        return self.root / "runtime.json"

    @property
    def node_key(self) -> Path:
        """The node's own private key: its identity."""
        return self.root / "node.key"

    @property
    def cluster_key(self) -> Path:
        return self.root / "cluster.key"

    @property
    def admin_token(self) -> Path:
        return self.root / "admin.token"

    @property
    def client_keys(self) -> Path:
        """What is kept of the keys of clients: `client_keys`."""
        return self.root / "client-keys.json"

    @property
    def membership(self) -> Path:
        """Generation and last known peers."""
        return self.root / "membership.json"

    @property
    def seeds(self) -> Path:
        """Members named by the code this machine joined with: `seeds`."""
        return self.root / "seeds"

    @property
    def models(self) -> Path:
        """GGUF files for the embedded engine."""
        return self.root / "models"


def make_state_dir(root: Path) -> StatePaths:
    """Make the folder, for its owner only, if it is not there. Raises `ConfigError` where it is no use."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"state_dir {root} cannot be made: {error.strerror}") from error
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        raise ConfigError(f"state_dir {root} belongs to someone else; give it to this user or name another")
    return StatePaths(root)


def others_may_read(path: Path) -> bool:
    """Whether other users of this machine can read it; False where that is not told by mode bits."""
    return sys.platform != "win32" and bool(path.stat().st_mode & 0o077)


class StateLock:
    """The claim of one running node on its state folder; it ends with the process, however that ends."""

    def __init__(self, paths: StatePaths) -> None:
        self._path = paths.lock
        self._descriptor: int | None = None

    def take(self) -> None:
        """Raises `ConfigError` when another node has the folder."""
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while not self._try():
            if time.monotonic() > deadline:
                raise ConfigError(
                    f"state_dir {self._path.parent} is in use by another node; stop that one, or give "
                    "this one a folder of its own"
                )
            time.sleep(0.02)

    def release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _try(self) -> bool:
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        if not _lock(descriptor):
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        return True


def is_in_use(paths: StatePaths) -> bool:
    """Whether a node runs from this folder right now."""
    try:
        descriptor = os.open(paths.lock, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> bool:
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True
