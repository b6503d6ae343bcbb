"""What this node gives other members: the manifests and blobs of its own models, as they are on its disk."""

import asyncio
import contextlib
import hashlib
import io
import os
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from ollama_dist.core.errors import Busy, NotFound
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import ModelName
from ollama_dist.replication.disk.line import Line
from ollama_dist.replication.disk.pieces import PIECE, PieceLists
from ollama_dist.replication.disk.store import BlobFile, BlobNotFound, Store, StoreUnreadable
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.pace import COARSE_BYTES, Pace
from ollama_dist.runtime.files import opened
from ollama_dist.runtime.tasks import end

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

log = structlog.get_logger()


class Partial(Protocol):
    """What this node has of a blob that is on its way to it."""

    size: int
    """Of all of it."""

    async def piece(self, index: int) -> bytes | memoryview:
        """Right, as far as the lists of pieces tell. Raises `BlobNotFound` where it is not here, nor soon."""
        ...


READERS: Final = 256
"""Ranges given at once, each with a buffer of a step or two."""

PASSED_ON: Final = 12
"""Ranges of what comes in that are given at once, each with a piece in memory, for three takers behind us."""

_HASH_STEP: Final = 4 * 2**20


class BlobCorrupt(NotFound):
    """The blob is here, but its bytes are not what its digest says."""

    status = 410
    code = "blob_corrupt"


class Giver:
    """Reads ``store()``; None while none is known. All that waits for the disk does so in threads."""

    def __init__(
        self,
        store: Callable[[], Store | None],
        lists: PieceLists,
        pace: Pace,
        scrub_pace: Pace | None = None,
    ) -> None:
        self._store = store
        self._lists = lists
        self._pace = pace
        self._scrub_pace = scrub_pace or Pace()
        self._readers = 0
        self._passing = 0
        self._checks: dict[Digest, asyncio.Task[bool]] = {}
        self.corrupt: dict[Digest, BlobFile] = {}
        """Blobs whose bytes were found wrong; they are not given as long as the file is the same."""
        self._partials: dict[Digest, list[Partial]] = {}
        self.line = Line()
        """Who takes what from here."""
        self.checked = 0
        """Bytes that were read to be compared with their digests."""
        self.given = 0
        """Bytes of blobs given since the start."""
        self._counting = threading.Lock()

    @property
    def store(self) -> Store:
        """Raises `StoreUnreadable`."""
        store = self._store()
        if store is None:
            raise StoreUnreadable("this node does not know where its engine keeps its models")
        return store

    async def manifest(self, name: ModelName) -> Manifest:
        """Raises `ModelNotFound`, `StoreUnreadable` or `BadManifest`."""
        return await asyncio.to_thread(self.store.manifest, name)

    async def blob(self, digest: Digest) -> BlobFile:
        """Raises `BlobNotFound`, `BlobCorrupt` or `StoreUnreadable`."""
        blob = await asyncio.to_thread(self.store.blob, digest)
        if self.corrupt.get(digest) == blob:
            raise BlobCorrupt(f"the bytes of sha256:{digest} are wrong here")
        self.corrupt.pop(digest, None)
        return blob

    async def source(self, digest: Digest) -> BlobFile | Partial:
        """`blob`, or what is here of it while it comes; raises as `blob` does."""
        try:
            return await self.blob(digest)
        except (BlobNotFound, StoreUnreadable):
            if partials := self._partials.get(digest):
                return partials[-1]
            raise

    @contextlib.contextmanager
    def offer(self, digest: Digest, partial: Partial) -> Iterator[None]:
        """Give members what ``partial`` has, while inside."""
        self._partials.setdefault(digest, []).append(partial)
        try:
            yield
        finally:
            self._partials[digest].remove(partial)
            if not self._partials[digest]:
                del self._partials[digest]

    async def hashes(self, blob: BlobFile, first: int, stop: int) -> bytes:
        """Of the pieces ``first`` to ``stop`` (excluded); raises `StoreUnreadable`."""
        return await self._lists.hashes(blob, first, stop)

    async def read(self, blob: BlobFile, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The bytes ``start`` to ``stop`` (excluded), no faster than may be.

        Raises `Busy`, or `StoreUnreadable` where the file ends early or cannot be read.
        """
        if self._readers >= READERS:
            raise Busy("this node gives as many models away as it can")
        self._readers += 1
        try:
            async with opened(lambda: _open(blob)) as file:
                while start < stop:
                    step = min(self._pace.step, stop - start)
                    await self._pace.take(step)
                    data = _read_cached(file, start, step)
                    if data is None:
                        data = await asyncio.to_thread(_read, file, blob, start, step)
                    start += step
                    self._count(step)
                    yield data
        finally:
            self._readers -= 1

    async def pass_on(
        self, partial: Partial, start: int, stop: int
    ) -> AsyncGenerator[bytes | memoryview, None]:
        """`read`, of what comes in; raises `Busy` and `BlobNotFound`."""
        if self._passing >= PASSED_ON:
            raise Busy("this node passes on as much as it can")
        self._passing += 1
        try:
            while start < stop:
                index, at = divmod(start, PIECE)
                part = memoryview(await partial.piece(index))[at : at + stop - start]
                while part:
                    step = self._pace.step if self._pace.is_capped else len(part)
                    await self._pace.take(len(part[:step]))
                    start += len(part[:step])
                    self._count(len(part[:step]))
                    yield part[:step]
                    part = part[step:]
                del part  # no piece stays in memory because the next one is waited for
        finally:
            self._passing -= 1

    def give(self, blob: BlobFile, start: int, stop: int) -> Iterator[memoryview]:
        """`read`, for a thread: each part lasts until the next is asked for. Raises `StoreUnreadable`."""
        room = memoryview(bytearray(min(COARSE_BYTES, stop - start)))
        with _open(blob) as file:
            while start < stop:
                part = room[: min(self._pace.step, stop - start)]
                self._pace.take_in_thread(len(part))
                _read_into(file, blob, start, part)
                start += len(part)
                self._count(len(part))
                yield part

    def _count(self, size: int) -> None:
        with self._counting:
            self.given += size

    async def check(self, digest: Digest, *, at_leisure: bool = False) -> bool:
        """Whether the blob is what its digest says, read as a whole; asked twice at once, it is read once.

        ``at_leisure``: nobody waits for it, so it is read at the pace of scrubbing.
        The list of its pieces is made anew afterwards. Raises `BlobNotFound` or `StoreUnreadable`.
        """
        task = self._checks.get(digest)
        if task is None:
            task = self._checks[digest] = asyncio.create_task(
                self._check(digest, at_leisure), name="blob-check"
            )
            task.add_done_callback(lambda _: self._checks.pop(digest, None))
        return await asyncio.shield(task)

    async def stop(self) -> None:
        """End the checks under way."""
        await end(*self._checks.values())

    async def _check(self, digest: Digest, at_leisure: bool) -> bool:
        pace = self._scrub_pace if at_leisure else self._pace
        blob = await asyncio.to_thread(self.store.blob, digest)
        sha256, start = hashlib.sha256(), 0
        async with opened(lambda: _open(blob)) as file:
            while start < blob.size:
                step = min(_HASH_STEP, blob.size - start)
                await pace.take(step)
                sha256 = await asyncio.to_thread(_hash_on, sha256, file, blob, start, step)
                start += step
                self.checked += step
        self._lists.forget(digest)
        is_right = sha256.hexdigest() == digest
        if is_right:
            self.corrupt.pop(digest, None)
        else:
            self.corrupt[digest] = blob
            log.error("blob_corrupt", digest=digest, path=str(blob.path))
        return is_right


def _open(blob: BlobFile) -> io.FileIO:
    with _telling(blob):
        return blob.path.open("rb", buffering=0)


def _hash_on(sha256: "Hash", file: io.FileIO, blob: BlobFile, start: int, size: int) -> "Hash":
    sha256.update(_read(file, blob, start, size))
    return sha256


def _read_cached(file: io.FileIO, start: int, size: int) -> bytes | None:
    """The bytes if they can be had without waiting for a disk, which only Linux tells; else None.

    Handing a read to a thread costs more than the read of what is in memory.
    """
    if sys.platform != "linux":
        return None
    buffer = bytearray(size)
    try:
        count = os.preadv(file.fileno(), [buffer], start, os.RWF_NOWAIT)
    except OSError:  # it would wait, or this file system cannot tell
        return None
    return bytes(buffer) if count == size else None


def _read(file: io.FileIO, blob: BlobFile, start: int, size: int) -> bytes:
    with _telling(blob):
        file.seek(start)
        data = file.read(size)
    _check_whole(blob, len(data), size)
    return data


def _read_into(file: io.FileIO, blob: BlobFile, start: int, room: memoryview) -> None:
    with _telling(blob):
        file.seek(start)
        count = file.readinto(room)
    _check_whole(blob, count, len(room))


@contextlib.contextmanager
def _telling(blob: BlobFile) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreUnreadable(f"{blob.path} cannot be read: {error.strerror}") from error


def _check_whole(blob: BlobFile, count: int | None, size: int) -> None:
    if count != size:
        raise StoreUnreadable(f"{blob.path} is shorter than it was")
