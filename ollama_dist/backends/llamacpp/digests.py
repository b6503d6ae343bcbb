"""SHA-256 of large files, computed once and remembered by path, size and time of change."""

import hashlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import structlog

from ollama_dist.core.ids import Digest

log = structlog.get_logger()

FILE_NAME: Final = "engine-digests.json"

_STEP_BYTES: Final = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Stamp:
    """What changes when a file does."""

    size: int
    mtime_ns: int

    @classmethod
    def of(cls, path: Path) -> "Stamp":
        """Raises OSError."""
        stat = path.stat()
        return cls(stat.st_size, stat.st_mtime_ns)


class DigestStore:
    """What was computed, kept in a file. Not for the event loop: every method may take its time."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME
        self._known: dict[str, tuple[Stamp, Digest]] = self._read()
        self._stop = threading.Event()

    def known(self, path: Path, stamp: Stamp) -> Digest | None:
        entry = self._known.get(str(path))
        return entry[1] if entry is not None and entry[0] == stamp else None

    def note(self, path: Path, stamp: Stamp, digest: Digest) -> None:
        """Somebody else has computed it."""
        self._known[str(path)] = (stamp, digest)

    def compute(self, path: Path, stamp: Stamp) -> Digest | None:
        """The digest of the file, None when it changes meanwhile or `stop` was called. Raises OSError."""
        sha256 = hashlib.sha256()
        with path.open("rb", buffering=0) as file:
            while data := file.read(_STEP_BYTES):
                sha256.update(data)
                if self._stop.is_set():
                    return None
        if Stamp.of(path) != stamp:
            return None
        digest = Digest(sha256.hexdigest())
        self._known[str(path)] = (stamp, digest)
        return digest

    def save(self, paths: set[Path]) -> None:
        """Keep what is known of ``paths`` for the next start, and forget all else."""
        kept = {name: entry for name, entry in self._known.items() if Path(name) in paths}
        self._known = kept
        rows = {name: [stamp.size, stamp.mtime_ns, digest] for name, (stamp, digest) in sorted(kept.items())}
        temporary = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(orjson.dumps(rows, option=orjson.OPT_INDENT_2))
            temporary.replace(self._file)
        except OSError as error:
            log.warning("digests_not_saved", path=str(self._file), error=str(error))

    def stop(self) -> None:
        """Let a computation under way end soon, without a result."""
        self._stop.set()

    def _read(self) -> dict[str, tuple[Stamp, Digest]]:
        try:
            rows = orjson.loads(self._file.read_bytes())
            return {
                name: (Stamp(int(size), int(mtime_ns)), Digest(str(digest)))
                for name, (size, mtime_ns, digest) in rows.items()
            }
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("digests_lost", path=str(self._file), error=str(error))
            return {}  # they are computed again
