"""Passing a blob on while it comes: this node stands in line for it, and gives those behind what it has."""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import structlog
from blake3 import blake3

from ollama_dist.backends.bulk import Tanks
from ollama_dist.core.errors import UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.replication.disk.giving import Partial
from ollama_dist.replication.disk.pieces import PIECE, piece_count, piece_size
from ollama_dist.replication.disk.store import BlobNotFound
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.transfer.asking import Reach, ask_line, reached
from ollama_dist.replication.transfer.machine import Piece, Transfer
from ollama_dist.runtime.tasks import Tasks

log = structlog.get_logger()

WORTH_PIECES: Final = 16
"""Smaller blobs are had from who holds them."""

FIRST_STAND_S: Final = 0.05
STAND_S: Final = 1.0
"""Between two words that this node takes a blob: sooner at first, when others may be beginning as well."""

JOIN_S: Final = 0.5
"""How long a first reader waits to hear who else takes it."""

ASKED: Final = 4
"""Holders that are asked who else does."""

KEPT: Final = 8
"""Pieces kept after they were handed over: those just behind us want them next."""

SOON: Final = 16
"""Pieces behind one that is on its way are worth waiting for."""

UNWRITTEN: Final = 64
"""So many pieces may have been handed over to an Ollama and lie in its buffers, or in ours before it."""

WRITTEN_S: Final = 0.1
"""Between two looks whether it has written one."""

WAIT_S: Final = 2.0
"""How long; who asks gives up a little earlier."""


@dataclass(frozen=True)
class Share:
    """What a node lends for that. ``me`` is its id."""

    me: Callable[[], NodeId]
    offer: Callable[[Digest, Partial], AbstractContextManager[None]]
    """Members are given what it has of a blob, while inside."""
    lies_at: Callable[[Digest], Path | None]
    """Where the engine writes a blob while it comes, which may be read; None where it may not."""


class Sharing:
    """The blobs of one model. ``expected`` says what a piece hashes to, ``tanks`` are what pieces lie in."""

    def __init__(
        self,
        manifest: Manifest,
        transfer: Transfer,
        reach: Reach,
        share: Share | None,
        expected: Callable[[Piece], Awaitable[bytes]],
        tasks: Tasks,
        tanks: Tanks,
    ) -> None:
        self._manifest = manifest
        self._transfer = transfer
        self._reach = reach
        self._share = share
        self._expected = expected
        self._tasks = tasks
        self._tanks = tanks
        self._since_ms = round(time.time() * 1000)
        self._offers: dict[Digest, Offer] = {}
        self._leaving = ExitStack()

    async def join(self, digest: Digest) -> None:
        """Stand in line for a blob from now on, and hear who else does, where that is soon."""
        share = self._share
        if share is None or digest in self._offers:
            return
        if piece_count(self._manifest.blobs[digest]) < WORTH_PIECES:
            return
        offer = self._offers[digest] = Offer(
            digest, self._manifest.blobs[digest], self._expected, share.lies_at, self._tanks
        )
        self._leaving.enter_context(share.offer(digest, offer))
        heard = asyncio.Event()
        self._tasks.start(self._stand(share, digest, heard), "line")
        try:
            async with asyncio.timeout(JOIN_S):
                await heard.wait()
        except TimeoutError:
            log.info("line_not_heard_of", digest=digest)

    def expect(self, piece: Piece, landed: "asyncio.Future[memoryview]") -> None:
        """A piece is on its way: ``landed`` when it is here and right."""
        if (offer := self._offers.get(piece.digest)) is not None:
            offer.expect(piece.index, landed)

    def handed_over(self, piece: Piece, data: memoryview) -> None:
        if (offer := self._offers.get(piece.digest)) is not None:
            offer.handed_over(piece.index, data)

    def let_go(self, piece: Piece) -> None:
        """Nobody here waits for it any more."""
        if (offer := self._offers.get(piece.digest)) is not None:
            offer.let_go(piece.index)

    def close(self) -> None:
        self._leaving.close()

    async def _stand(self, share: Share, digest: Digest, heard: asyncio.Event) -> None:
        pause = FIRST_STAND_S
        while True:
            holders = self._transfer.candidates(digest, asyncio.get_running_loop().time())[:ASKED]
            said = await asyncio.gather(*(self._ask(share, node, digest) for node in holders))
            ahead = sorted({each for line in said for each in line}, reverse=True)
            self._transfer.set_line(digest, list(dict.fromkeys(node for _, node in ahead)))
            heard.set()
            await asyncio.sleep(pause)
            pause = min(STAND_S, 2 * pause)

    async def _ask(self, share: Share, node: NodeId, digest: Digest) -> list[tuple[int, NodeId]]:
        own = self._since_ms, share.me()
        try:
            line = await ask_line(reached(self._reach, node), digest, share.me(), self._since_ms)
        except UpstreamFailed as error:  # older versions know of no line
            log.debug("line_not_told", source=node, error=str(error))
            return []
        return [each for each in line if each < own and each[1] != own[1]]


class Offer:
    """What this node has of one blob. See `Partial`."""

    def __init__(
        self,
        digest: Digest,
        size: int,
        expected: Callable[[Piece], Awaitable[bytes]],
        lies_at: Callable[[Digest], Path | None],
        tanks: Tanks,
    ) -> None:
        self.digest = digest
        self.size = size
        self._expected = expected
        self._lies_at = lies_at
        self._tanks = tanks
        self._coming: dict[int, asyncio.Future[memoryview]] = {}
        self._kept: OrderedDict[int, memoryview] = OrderedDict()
        self._handed = bytearray(piece_count(size))
        self._lately: deque[int] = deque(maxlen=UNWRITTEN)
        self._moved = asyncio.Event()

    def expect(self, index: int, landed: "asyncio.Future[memoryview]") -> None:
        self._coming[index] = landed
        self._move()

    def handed_over(self, index: int, data: memoryview) -> None:
        self._handed[index] = 1
        self._lately.append(index)
        self._kept[index] = data
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def let_go(self, index: int) -> None:
        self._coming.pop(index, None)
        self._move()

    async def piece(self, index: int) -> memoryview:
        """Waits for one that is here soon. Raises `BlobNotFound` for others."""
        try:
            async with asyncio.timeout(WAIT_S):
                found = await self._find(index)
        except TimeoutError:
            found = None
        if found is None:
            raise BlobNotFound(f"piece {index} of sha256:{self.digest} is not here, nor soon")
        return found

    async def _find(self, index: int) -> memoryview | None:
        while True:
            if (kept := self._kept.get(index)) is not None:
                return kept
            if (landed := self._coming.get(index)) is not None:
                if (data := await _landed(landed)) is not None:
                    return data
            elif self._handed[index]:
                if (written := await self._read_again(index)) is not None or index not in self._lately:
                    return written
                await asyncio.sleep(WRITTEN_S)
            elif any(0 < index - coming <= SOON for coming in self._coming):
                await self._moved.wait()
            else:
                return None

    async def _read_again(self, index: int) -> memoryview | None:
        """From where the engine writes it; None where it has not, or where that may not be read."""
        path, piece = self._lies_at(self.digest), Piece(self.digest, index)
        if path is None:
            return None
        size = piece_size(self.size, index)
        try:
            expected = await self._expected(piece)
            return await asyncio.to_thread(_read, path, index, size, expected, self._tanks)
        except (OSError, UpstreamFailed) as error:
            log.debug("piece_not_read_again", path=str(path), error=str(error))
            return None

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


async def _landed(landed: "asyncio.Future[memoryview]") -> memoryview | None:
    await asyncio.wait({landed})
    return None if landed.cancelled() or landed.exception() is not None else landed.result()


def _read(path: Path, index: int, size: int, expected: bytes, tanks: Tanks) -> memoryview | None:
    with path.open("rb", buffering=0) as file:
        file.seek(index * PIECE)
        tank = tanks.take(size)
        is_right = file.readinto(tank) == size and blake3(tank).digest() == expected
    read = memoryview(tank).toreadonly() if is_right else None
    tanks.give_back(tank)  # it is used again once nobody looks at it
    return read
