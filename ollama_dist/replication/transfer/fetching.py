"""The bytes of a model from the members that hold it: what `transfer` decides, done."""

import asyncio
import contextlib
import functools
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog
from blake3 import blake3

from ollama_dist.backends.bulk import Line, Lines, Tanks
from ollama_dist.core.errors import ModelNotFound, UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName
from ollama_dist.replication.disk.pieces import PIECE, piece_size
from ollama_dist.replication.manifest import BadManifest, Manifest
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.sources import BlobLost
from ollama_dist.replication.transfer.asking import Lacking, Reach, ask_manifest, reached, refusal
from ollama_dist.replication.transfer.lists import Lists
from ollama_dist.replication.transfer.machine import IN_FLIGHT, RUN, Ask, Failure, Piece, Transfer
from ollama_dist.replication.transfer.sharing import KEPT, Share, Sharing
from ollama_dist.runtime.tasks import Tasks, background, end

log = structlog.get_logger()

LOOK_S: Final = 0.2
"""Between two looks at what stalls and who is there."""

PAUSES_S: Final = (0.0, 0.5, 1.0, 2.0)
"""Before each time that holders are asked for the manifest who did not answer: busy machines may miss one."""

SILENCE_S: Final = 5.0
"""Nothing came from a source for so long: it failed."""

HELD_PIECES: Final = 16
"""On their way or not yet read, in MiB of memory; a long run and one more for each reader may come on top."""

AHEAD: Final = 16
"""Pieces that one reader alone wants at once; where there are several each wants a run at the least."""


@dataclass(slots=True)
class _Arrival:
    """A piece on its way."""

    size: int
    data: bytearray | None = None
    """Room for all of it, from when some of it is here and no thread has it."""
    readers: int = 0
    awaited: int = 0
    """By so many of them now."""
    landed: asyncio.Future[memoryview] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


@dataclass(slots=True)
class _Filling:
    """A piece that a thread is having."""

    ask: Ask
    line: Line
    data: bytearray | None
    """Where its beginning is, if any came before; else it gets room when its turn comes."""
    room: Callable[[], bytearray]
    hashed: Callable[[bytearray], bytes]
    came: int = 0
    noted: int = 0
    """Of what came, what was told."""

    def fill(self) -> bytes:
        """In the thread."""
        data = self.data = self.data or self.room()
        self.line.fill(memoryview(data)[self.ask.start :], self._hear)
        return self.hashed(data)

    def _hear(self, count: int) -> None:
        self.came += count


def _received(line: Line, fillings: Sequence[_Filling], total: int) -> Iterator[bytes]:
    """What each piece hashes to, as soon as it is there. In a thread."""
    ask = fillings[0].ask
    first = ask.piece.index * PIECE + ask.start
    headers = [("Range", f"bytes={first}-{first + total - 1}")]
    status = line.begin(f"/replication/blobs/sha256:{ask.piece.digest}", headers)
    if status != 206:
        raise refusal(status)
    if line.left != total:
        raise UpstreamFailed("the source gives another number of bytes than it was asked for")
    for filling in fillings:
        yield filling.fill()


async def open_peers(
    name: ModelName,
    identity: Digest | None,
    holders: Callable[[], Collection[NodeId]],
    reach: Reach,
    pace: Pace | None = None,
    share: Share | None = None,
) -> "PeerSource":
    """A source of the model ``name`` as the ``holders`` of the moment have it; close it in the end.

    ``identity``: which content is meant, where it matters. Raises `ModelNotFound` when no holder gives a
    manifest of it; what was wrong with each is in the message.
    """
    complaints: dict[NodeId, str] = {}
    asked = sorted(holders())
    for pause in PAUSES_S:
        if not asked:
            break
        await asyncio.sleep(pause)
        silent = []
        for node in asked:
            try:
                manifest = await ask_manifest(reached(reach, node), name)
            except (Lacking, BadManifest) as error:
                complaints[node] = str(error)
            except UpstreamFailed as error:
                complaints[node] = str(error)
                silent.append(node)
            else:
                if identity is None or manifest.identity == identity:
                    return PeerSource(manifest, holders, reach, pace, share)
                complaints[node] = "has another content under this name"
        asked = silent
    reasons = "; ".join(f"{node}: {said}" for node, said in complaints.items())
    raise ModelNotFound(f"no member gives {name.short}: {reasons or 'nobody holds it'}")


class PeerSource:
    """See `BlobSource`. Every piece is checked before it is given; `close` it when it is needed no more."""

    def __init__(
        self,
        manifest: Manifest,
        holders: Callable[[], Collection[NodeId]],
        reach: Reach,
        pace: Pace | None = None,
        share: Share | None = None,
    ) -> None:
        self._manifest = manifest
        self._holders = holders
        self._reach = reach
        self._pace = pace or Pace()
        self._clock = asyncio.get_running_loop().time
        self._transfer = Transfer(self._clock())
        self._transfer.set_sources(holders())
        self._arrivals: dict[Piece, _Arrival] = {}
        self._fetches: dict[Piece, asyncio.Task[None]] = {}
        self._readers = 0
        self._is_held_back = False
        self._pumping: asyncio.TimerHandle | None = None
        self._tasks = Tasks()
        self._lines = Lines(IN_FLIGHT, SILENCE_S)
        self._tanks = Tanks(PIECE, HELD_PIECES + KEPT)
        self._filling: dict[Piece, _Filling] = {}
        self._lists = Lists(manifest, self._transfer, reach, self._tasks)
        self._sharing = Sharing(
            manifest, self._transfer, reach, share, self._lists.expected, self._tasks, self._tanks
        )
        self._watch = background(self._look(), "transfer-watch")
        self.fetched = 0
        """Bytes of pieces that came in, wrong ones included."""
        self.wrong_pieces = 0

    @property
    def manifest(self) -> Manifest:
        return self._manifest

    @property
    def bytes_per_s(self) -> float:
        return self._transfer.rate(self._clock())

    @property
    def givers(self) -> tuple[NodeId, ...]:
        """Who gives lately."""
        return self._transfer.givers(self._clock())

    @property
    def silent_s(self) -> float:
        """How long readers wait and nothing comes."""
        return self._transfer.silent_s(self._clock())

    @property
    def quarantined(self) -> dict[NodeId, str]:
        """Sources that are asked for nothing more, and why."""
        return self._transfer.quarantined

    async def close(self) -> None:
        if self._pumping is not None:
            self._pumping.cancel()
        self._sharing.close()
        await end(self._watch)
        await self._tasks.stop()
        await self._lines.close()
        for arrival in self._arrivals.values():
            arrival.landed.cancel()

    async def read(self, digest: Digest, start: int, stop: int) -> AsyncGenerator[memoryview, None]:
        """See `BlobSource`."""
        size = self._manifest.blobs.get(digest)
        if size is None or not 0 <= start <= stop <= size:
            raise BlobLost(f"no such bytes in this model: {start} to {stop} of sha256:{digest}")
        if start == stop:
            return
        await self._sharing.join(digest)
        ahead = deque(Piece(digest, index) for index in range(start // PIECE, -(-stop // PIECE)))
        held: deque[Piece] = deque()
        self._readers += 1
        try:
            while ahead or held:
                run = self._transfer.run()
                window = max(run, min(AHEAD, HELD_PIECES // self._readers))
                if ahead and len(held) <= window - min(run, len(ahead)):
                    while ahead and len(held) < window:
                        held.append(ahead.popleft())
                        self._hold(held[-1], size)
                    self._pump()
                data = await self._landed(self._arrivals[held[0]])
                begin = held[0].index * PIECE
                yield data[max(0, start - begin) : stop - begin]
                self._sharing.handed_over(held[0], data)
                del data  # what it lies in is used again
                self._release(held.popleft())
                if self._is_held_back:
                    self._pump()
        finally:
            self._readers -= 1
            for piece in held:
                self._release(piece)

    def blame(self, digest: Digest) -> None:
        """The finished blob was wrong: those whose list it was checked against are not believed again."""
        self._lists.blame(digest)

    # Readers

    async def _landed(self, arrival: _Arrival) -> memoryview:
        if not arrival.landed.done():
            arrival.awaited += 1
            if self._is_held_back:
                self._pump()
            try:
                await asyncio.shield(arrival.landed)
            finally:
                arrival.awaited -= 1
        return arrival.landed.result()

    def _hold(self, piece: Piece, size: int) -> None:
        arrival = self._arrivals.get(piece)
        if arrival is None:
            arrival = self._arrivals[piece] = _Arrival(piece_size(size, piece.index))
            self._transfer.want(piece, arrival.size, self._clock())
            self._sharing.expect(piece, arrival.landed)
        arrival.readers += 1

    def _release(self, piece: Piece) -> None:
        arrival = self._arrivals.get(piece)
        if arrival is None:
            return
        arrival.readers -= 1
        if arrival.readers == 0:
            del self._arrivals[piece]
            self._sharing.let_go(piece)
            if (filling := self._filling.pop(piece, None)) is not None:
                self._note(filling)
            elif arrival.data is not None:
                self._tanks.give_back(arrival.data)
            self._transfer.unwant(piece)
            fetch = self._fetches.pop(piece, None)
            if fetch is not None:
                fetch.cancel()
            arrival.landed.cancel()

    # The machine's shell

    def _pump(self) -> None:
        """Begin what is to be begun and may be, at our own pace."""
        now = self._clock()
        while (wait := self._pace.wait_s(now)) <= 0:
            if not (run := self._next_run(now)):
                return
            self._pace.spend(sum(self._arrivals[ask.piece].size - ask.start for ask in run), now)
            fetch = self._tasks.start(self._fetch(run), "pieces")
            for ask in run:
                self._fetches[ask.piece] = fetch
        if self._pumping is None:
            self._pumping = asyncio.get_running_loop().call_later(wait, self._pump_again)

    def _next_run(self, now: float) -> list[Ask]:
        """What is to be asked for: where much lies here unread, only what a reader is waiting for."""
        unread = sum(arrival.landed.done() for arrival in self._arrivals.values())
        self._is_held_back = unread + self._transfer.in_flight > HELD_PIECES - RUN
        if not self._is_held_back:
            return self._transfer.next_run(now)
        awaited = [piece for piece, arrival in self._arrivals.items() if arrival.awaited]
        if not awaited:
            self._transfer.held_back(now)
        is_idle = self._transfer.in_flight < RUN
        ask = self._transfer.next_ask(now, awaited) if is_idle else None
        return [ask] if ask is not None else []

    def _pump_again(self) -> None:
        self._pumping = None
        self._pump()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._transfer.set_sources(self._holders())
            now = self._clock()
            for filling in self._filling.values():
                self._note(filling)
            for ask in self._transfer.overdue(now):
                self._break_off(ask)
            for piece, arrival in list(self._arrivals.items()):
                reason = self._transfer.lost(piece, now)
                if reason and not arrival.landed.done():
                    arrival.landed.set_exception(BlobLost(reason))
                    arrival.landed.exception()  # a reader may have left meanwhile
            self._pump()

    def _break_off(self, ask: Ask) -> None:
        log.info("source_switched", source=ask.source, piece=ask.piece.index, at=ask.start)
        filling = self._filling.get(ask.piece)
        if filling is not None:
            self._disown(filling)
        fetch = self._fetches.pop(ask.piece, None)
        if fetch is not None:
            fetch.cancel()

    async def _fetch(self, run: list[Ask]) -> None:
        """Have the pieces of ``run``, one after the other, and judge each as soon as it is whole."""
        source = run[0].source
        try:
            await self._receive(source, run)
        except Lacking as error:
            self._note_failure(run, Failure.LACKS, error)
        except UpstreamFailed as error:
            self._note_failure(run, Failure.GONE, error)
        finally:
            for ask in self._unfinished(run):  # only of one that was broken off
                self._finish(ask)
                self._transfer.failed(ask.piece, source, Failure.SLOW, self._clock())
        self._pump()

    def _unfinished(self, run: list[Ask]) -> list[Ask]:
        """What of ``run`` this task is still to have."""
        return [ask for ask in run if self._fetches.get(ask.piece) is asyncio.current_task()]

    def _finish(self, ask: Ask) -> None:
        if self._fetches.get(ask.piece) is asyncio.current_task():
            del self._fetches[ask.piece]

    def _note_failure(self, run: list[Ask], failure: Failure, error: Exception) -> None:
        for ask in self._unfinished(run):
            log.info("piece_not_given", source=ask.source, piece=ask.piece.index, error=str(error))
            self._finish(ask)
            self._transfer.failed(ask.piece, ask.source, failure, self._clock())

    async def _receive(self, source: NodeId, run: list[Ask]) -> None:
        """Have what ``source`` gives, as far as it comes."""
        sizes = [self._arrivals[ask.piece].size for ask in run]
        total = sum(sizes) - run[0].start
        if not total:  # whole already: it is only to be judged
            whole = self._arrivals[run[0].piece].data
            assert whole is not None
            await self._judge(run[0], self._hash_of(run[0].piece)(whole))
            return
        line = self._lines.take(reached(self._reach, source))
        fillings = [self._filled_by(line, ask) for ask in run]
        try:
            parts = self._lines.each(line, _received(line, fillings, total))
            async with contextlib.aclosing(parts):
                for filling in fillings:
                    hashed = await anext(parts)
                    self._note(filling)
                    if self._filling.get(filling.ask.piece) is filling:
                        del self._filling[filling.ask.piece]
                        self._arrivals[filling.ask.piece].data = filling.data
                    await self._judge(filling.ask, hashed)
                await anext(parts, None)
        finally:
            for filling in fillings:
                self._disown(filling)
            self._lines.give_back(line)

    def _filled_by(self, line: Line, ask: Ask) -> "_Filling":
        """The rest of one piece is to land where its beginning is, if any came."""
        arrival = self._arrivals[ask.piece]
        room = functools.partial(self._tanks.take, arrival.size)
        filling = _Filling(ask, line, arrival.data, room, self._hash_of(ask.piece))
        self._filling[ask.piece] = filling
        return filling

    def _note(self, filling: "_Filling") -> None:
        """Tell the machine how much more has come."""
        count = filling.came - filling.noted
        if count:
            filling.noted += count
            self.fetched += count
            self._transfer.received(filling.ask.piece, filling.ask.source, count, self._clock())

    def _disown(self, filling: "_Filling") -> None:
        """Its thread may write a little more: from now on where nobody looks."""
        piece = filling.ask.piece
        if self._filling.get(piece) is not filling:
            return
        self._note(filling)
        del self._filling[piece]
        if (arrival := self._arrivals.get(piece)) is not None:
            data = filling.data if filling.ask.start + filling.noted else None
            arrival.data = bytearray(data) if data is not None else None

    async def _judge(self, ask: Ask, hashed: bytes) -> None:
        piece, arrival = ask.piece, self._arrivals[ask.piece]
        assert arrival.data is not None
        is_right = hashed == await self._expected(piece)
        self._finish(ask)
        if is_right:
            self._transfer.good(piece)
            if not arrival.landed.done():
                arrival.landed.set_result(memoryview(arrival.data).toreadonly())
            return
        self.wrong_pieces += 1
        blamed = self._transfer.bad(piece)
        log.warning("piece_wrong", digest=piece.digest, piece=piece.index, sources=sorted(blamed))

    def _is_whole(self, piece: Piece) -> bool:
        """Whether it is all of its blob, so that the digest itself says what it is to be."""
        return self._manifest.blobs[piece.digest] <= PIECE

    def _hash_of(self, piece: Piece) -> Callable[[bytearray], bytes]:
        return _sha256 if self._is_whole(piece) else _blake3

    async def _expected(self, piece: Piece) -> bytes:
        return bytes.fromhex(piece.digest) if self._is_whole(piece) else await self._lists.expected(piece)


def _sha256(data: bytearray) -> bytes:
    return hashlib.sha256(data).digest()


def _blake3(data: bytearray) -> bytes:
    return blake3(data).digest()
