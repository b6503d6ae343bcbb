"""What is installed on this machine, as files: an Ollama's store, read and never written.

Layout from Ollama's ``manifest`` package: ``manifests/<host>/<namespace>/<model>/<tag>`` and
``blobs/sha256-<64 hex>``. Names are compared without regard to case and stored as spelt.
"""

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from ollama_dist.core.errors import DistError, ModelNotFound, NotFound
from ollama_dist.core.ids import Digest, is_digest
from ollama_dist.core.names import ModelName
from ollama_dist.replication.manifest import MANIFEST_LIMIT, Manifest, read_manifest

ENTRIES_LIMIT: Final = 10_000
"""Of one folder that are looked at."""


class StoreUnreadable(DistError):
    """This node may not read its engine's store, or has none that it could read."""

    status = 503
    code = "store_unreadable"


class BlobNotFound(NotFound):
    """No blob of this digest is here."""

    code = "blob_not_found"


@dataclass(frozen=True, slots=True)
class BlobFile:
    """A blob as it was found; another size, time or number means that it is another file."""

    digest: Digest
    path: Path
    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def at(cls, digest: Digest, path: Path) -> "BlobFile":
        """Raises `BlobNotFound` where no file is, and `StoreUnreadable` where we may not look."""
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            raise BlobNotFound(f"no blob sha256:{digest} is here") from None
        except OSError as error:
            raise StoreUnreadable(f"{path} cannot be read: {error.strerror}") from error
        if not stat.S_ISREG(found.st_mode):
            raise BlobNotFound(f"no blob sha256:{digest} is here")
        return cls(digest, path, found.st_size, found.st_mtime_ns, found.st_ino)


class Store(Protocol):
    """Models as files. Nothing of it is for the event loop: every method looks at the disk."""

    @property
    def root(self) -> Path:
        """Where it lies; copies made for it need room there."""
        ...

    @property
    def id(self) -> str:
        """The same on all nodes before one store and on no others; empty while nothing is in it."""
        ...

    def manifest(self, name: ModelName) -> Manifest:
        """Raises `ModelNotFound`, `StoreUnreadable` or `BadManifest`."""
        ...

    def blob(self, digest: Digest) -> BlobFile:
        """Raises `BlobNotFound` or `StoreUnreadable`."""
        ...

    def coming(self, digest: Digest) -> Path:
        """Where a blob lies while it comes, as far as it has."""
        ...

    def blobs(self) -> list[Digest]:
        """Every blob that is here; raises `StoreUnreadable`."""
        ...


class OllamaStore:
    """See `Store`. ``root`` is what Ollama calls OLLAMA_MODELS."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def root(self) -> Path:
        return self._root

    @property
    def id(self) -> str:
        """Of the oldest blob: its number and time of writing are seen alike by all who share a folder.

        Two stores that were copied from each other differ in the number.
        """
        try:
            oldest = min(map(self.blob, self.blobs()), key=lambda blob: (blob.mtime_ns, blob.digest))
        except (ValueError, NotFound, StoreUnreadable):
            return ""
        return store_id(oldest)

    def manifest(self, name: ModelName) -> Manifest:
        path = self._root / "manifests"
        for part in (name.host, name.namespace, name.model, name.tag):
            path = _child(path, part, name)
        try:
            found = path.stat()
            if not stat.S_ISREG(found.st_mode):  # or a device: on Windows there is a ``nul`` in every folder
                raise ModelNotFound(f"model '{name.short}' not found")
            if found.st_size > MANIFEST_LIMIT:
                raise StoreUnreadable(f"{path} is too long for a manifest")
            return read_manifest(path.read_bytes())
        except FileNotFoundError:
            raise ModelNotFound(f"model '{name.short}' not found") from None
        except OSError as error:
            raise StoreUnreadable(f"{path} cannot be read: {error.strerror}") from error

    def blob(self, digest: Digest) -> BlobFile:
        return BlobFile.at(digest, self._root / "blobs" / f"sha256-{digest}")

    def coming(self, digest: Digest) -> Path:
        """Ollama's downloader writes each part where it belongs in this file."""
        return self._root / "blobs" / f"sha256-{digest}-partial"

    def blobs(self) -> list[Digest]:
        return [
            Digest(entry.removeprefix("sha256-"))
            for entry in _entries(self._root / "blobs")
            if entry.startswith("sha256-") and is_digest(entry.removeprefix("sha256-"))
        ]


def store_id(blob: BlobFile) -> str:
    """The id of the store whose oldest blob this is."""
    said = f"{blob.digest} {blob.inode} {blob.mtime_ns}"
    return hashlib.sha256(said.encode()).hexdigest()[:16]


def _child(folder: Path, part: str, name: ModelName) -> Path:
    """The entry of ``folder`` that is spelt as ``part``, or else but for case."""
    exact = folder / part
    if not part.endswith(".") and os.path.lexists(exact):  # Windows leaves dots at the end of names away
        return exact
    wanted = part.casefold()
    found = next((entry for entry in _entries(folder) if entry.casefold() == wanted), None)
    if found is None:
        raise ModelNotFound(f"model '{name.short}' not found")
    return folder / found


def _entries(folder: Path) -> list[str]:
    """Names in ``folder``, none where it is missing; raises `StoreUnreadable`."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry, _ in zip(entries, range(ENTRIES_LIMIT), strict=False))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise StoreUnreadable(f"{folder} cannot be read: {error.strerror}") from error
