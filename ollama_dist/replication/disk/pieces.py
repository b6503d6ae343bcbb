"""Pieces of blobs and the list of what each of them hashes to, made where the blob lies and kept there.

A SHA-256 tells of one wrong byte only after the last one; a piece can be checked, and had again elsewhere,
before anybody sees it. A list is what its maker says, no more: see `claims`.
"""

import asyncio
import contextlib
import os
from collections import OrderedDict
from pathlib import Path
from typing import Final

import orjson
import structlog
from blake3 import blake3

from ollama_dist.core.ids import Digest
from ollama_dist.replication.disk.store import BlobFile, StoreUnreadable

log = structlog.get_logger()

PIECE: Final = 2**20
"""Bytes of every piece but the last."""

HASH_BYTES: Final = 32
"""Of a BLAKE3 hash; a list is these, one after the other."""

_AT_ONCE: Final = 16
"""Pieces read and hashed without looking whether somebody still wants them."""

_LISTS: Final = 64
"""Kept in memory; the one of a blob of 40 GB has a megabyte."""


def piece_count(size: int) -> int:
    """Pieces of a blob of ``size`` bytes."""
    return -(-size // PIECE)


def piece_size(size: int, index: int) -> int:
    """Bytes of piece ``index`` of a blob of ``size`` bytes."""
    return min(PIECE, size - index * PIECE)


class _List:
    """What is known of one blob's pieces."""

    def __init__(self, blob: BlobFile) -> None:
        self.blob = blob
        self.hashes = bytearray(HASH_BYTES * piece_count(blob.size))
        self.known = bytearray(piece_count(blob.size))
        self.lock = asyncio.Lock()

    @property
    def is_whole(self) -> bool:
        return 0 not in self.known


class PieceLists:
    """The lists of the blobs that lie here. Kept in ``folder`` once they are whole."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lists: OrderedDict[Digest, _List] = OrderedDict()

    async def hashes(self, blob: BlobFile, first: int, stop: int) -> bytes:
        """The hashes of the pieces ``first`` to ``stop`` (excluded), worked out where they are not known.

        Raises `StoreUnreadable` where the file cannot be read, or is not what it was.
        """
        known = await self._list(blob)
        async with known.lock:
            was_whole = known.is_whole
            for start in range(first, stop, _AT_ONCE):
                end = min(start + _AT_ONCE, stop)
                if 0 in known.known[start:end]:
                    await asyncio.to_thread(_fill, known, start, end)
            if not was_whole and known.is_whole:
                await asyncio.to_thread(self._save, known)
            return bytes(known.hashes[first * HASH_BYTES : stop * HASH_BYTES])

    def forget(self, digest: Digest) -> None:
        """Make this list anew when it is asked for again."""
        self._lists.pop(digest, None)
        with contextlib.suppress(OSError):
            (self._folder / digest).unlink(missing_ok=True)

    async def forget_all_but(self, digests: set[Digest]) -> None:
        """Drop the lists of blobs that are gone."""
        for digest in [digest for digest in self._lists if digest not in digests]:
            del self._lists[digest]
        await asyncio.to_thread(self._sweep, digests)

    async def _list(self, blob: BlobFile) -> _List:
        known = self._lists.get(blob.digest)
        if known is None or known.blob != blob:
            loaded = await asyncio.to_thread(self._load, blob)
            known = self._lists.get(blob.digest)
            if known is None or known.blob != blob:
                known = self._lists[blob.digest] = loaded
        self._lists.move_to_end(blob.digest)
        while len(self._lists) > _LISTS:
            self._lists.popitem(last=False)
        return known

    # Files: not for the event loop

    def _load(self, blob: BlobFile) -> _List:
        found = _List(blob)
        try:
            head, _, hashes = (self._folder / blob.digest).read_bytes().partition(b"\n")
        except FileNotFoundError:
            return found
        except OSError as error:
            log.warning("piece_list_lost", digest=blob.digest, error=str(error))
            return found
        if head == _stamp(blob) and len(hashes) == len(found.hashes):
            found.hashes[:] = hashes
            found.known[:] = b"\1" * len(found.known)
        return found

    def _save(self, known: _List) -> None:
        path = self._folder / known.blob.digest
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary.write_bytes(_stamp(known.blob) + b"\n" + known.hashes)
            temporary.replace(path)
        except OSError as error:  # it is made again next time
            log.warning("piece_list_not_kept", digest=known.blob.digest, error=str(error))
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _sweep(self, digests: set[Digest]) -> None:
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder.iterdir():
                if path.name not in digests:
                    path.unlink(missing_ok=True)


def _stamp(blob: BlobFile) -> bytes:
    """What the kept list is true of: a file that was written anew has another."""
    return orjson.dumps([blob.size, blob.mtime_ns, blob.inode])


def _fill(known: _List, start: int, end: int) -> None:
    blob = known.blob
    try:
        with blob.path.open("rb", buffering=0) as file:
            for index in range(start, end):
                if not known.known[index]:
                    file.seek(index * PIECE)
                    data = file.read(piece_size(blob.size, index))
                    if len(data) != piece_size(blob.size, index):
                        raise StoreUnreadable(f"{blob.path} is shorter than it was")
                    known.hashes[index * HASH_BYTES : (index + 1) * HASH_BYTES] = blake3(data).digest()
                    known.known[index] = 1
    except OSError as error:
        raise StoreUnreadable(f"{blob.path} cannot be read: {error.strerror}") from error
