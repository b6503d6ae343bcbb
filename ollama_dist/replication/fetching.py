"""The bytes of a model from the members that hold it: what `transfer` decides, done."""

import asyncio
import hashlib
from collections import deque
from collections.abc import AsyncGenerator, Callable, Collection
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import orjson
import structlog
from blake3 import blake3

from ollama_dist.backends.fetch import fetch
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import ModelNotFound, UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName
from ollama_dist.replication.claims import Claims
from ollama_dist.replication.manifest import MANIFEST_LIMIT, BadManifest, Manifest, read_manifest
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.pieces import HASH_BYTES, PIECE, piece_count, piece_size
from ollama_dist.replication.sources import BlobLost
from ollama_dist.replication.transfer import Ask, Failure, Piece, Transfer
from ollama_dist.runtime.tasks import Tasks, background, end

log = structlog.get_logger()

LOOK_S: Final = 0.2
"""Between two looks at what stalls and who is there."""

MANIFEST_S: Final = 3.0
ROUNDS: Final = 2
"""How often a holder that does not answer is asked for the manifest: a busy machine may miss once."""

LACKS: Final = (404, 410, 416)
"""Statuses of a source that does not have what it was asked for, or has it wrong."""

LIST_S: Final = 5.0
SECOND_OPINION_S: Final = 2.0
"""How long the list of a second source is waited for."""

HEAD_S: Final = 5.0
CHECK_S: Final = 600.0
"""For reading a whole blob at its source."""

SEGMENT: Final = 64
"""Pieces whose hashes are asked for at once."""

HELD_PIECES: Final = 32
"""Wanted at once by all readers together: a bound of the memory of a transfer, in MiB."""

AHEAD: Final = 16
"""Pieces that one reader alone has on their way."""

Reach = Callable[[NodeId], Target | None]
"""Where a member is asked; None where that is not known now."""


@dataclass(slots=True)
class _Arrival:
    """A piece on its way."""

    size: int
    parts: list[bytes] = field(default_factory=list)
    have: int = 0
    readers: int = 0
    landed: asyncio.Future[bytes] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


async def open_peers(
    name: ModelName,
    identity: Digest | None,
    holders: Callable[[], Collection[NodeId]],
    reach: Reach,
    pace: Pace | None = None,
) -> "PeerSource":
    """A source of the model ``name`` as the ``holders`` of the moment have it; close it in the end.

    ``identity``: which content is meant, where it matters. Raises `ModelNotFound` when no holder gives a
    manifest of it; what was wrong with each is in the message.
    """
    complaints: dict[NodeId, str] = {}
    asked = sorted(holders())
    for _ in range(ROUNDS):
        silent = []
        for node in asked:
            try:
                manifest = await _ask_manifest(reach(node), name)
            except (_Lacking, BadManifest) as error:
                complaints[node] = str(error)
            except UpstreamFailed as error:
                complaints[node] = str(error)
                silent.append(node)
            else:
                if identity is None or manifest.identity == identity:
                    return PeerSource(manifest, holders, reach, pace)
                complaints[node] = "has another content under this name"
        asked = silent
    reasons = "; ".join(f"{node}: {said}" for node, said in complaints.items())
    raise ModelNotFound(f"no member gives {name.short}: {reasons or 'nobody holds it'}")


async def _ask_manifest(target: Target | None, name: ModelName) -> Manifest:
    if target is None:
        raise UpstreamFailed("it cannot be reached")
    path = f"/replication/manifest?model={quote(name.full, safe='')}"
    answer = await fetch(target, "GET", path, timeout=MANIFEST_S, limit=MANIFEST_LIMIT)
    if answer.status != 200:
        said = _said(answer.status, answer.body)
        raise _Lacking(said) if answer.status in LACKS else UpstreamFailed(said)
    return read_manifest(answer.body)


class PeerSource:
    """See `BlobSource`. Every piece is checked before it is given; `close` it when it is needed no more."""

    def __init__(
        self,
        manifest: Manifest,
        holders: Callable[[], Collection[NodeId]],
        reach: Reach,
        pace: Pace | None = None,
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
        self._claims: dict[Digest, Claims] = {}
        self._segments: dict[tuple[Digest, int], asyncio.Task[None]] = {}
        self._readers = 0
        self._pumping: asyncio.TimerHandle | None = None
        self._tasks = Tasks()
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
        await end(self._watch)
        await self._tasks.stop()
        for arrival in self._arrivals.values():
            arrival.landed.cancel()

    async def read(self, digest: Digest, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """See `BlobSource`."""
        size = self._manifest.blobs.get(digest)
        if size is None or not 0 <= start <= stop <= size:
            raise BlobLost(f"no such bytes in this model: {start} to {stop} of sha256:{digest}")
        if start == stop:
            return
        ahead = deque(Piece(digest, index) for index in range(start // PIECE, -(-stop // PIECE)))
        held: deque[Piece] = deque()
        self._readers += 1
        try:
            while ahead or held:
                while ahead and len(held) < self._window():
                    held.append(ahead.popleft())
                    self._hold(held[-1], size)
                self._pump()
                data = await asyncio.shield(self._arrivals[held[0]].landed)
                begin = held[0].index * PIECE
                yield data[max(0, start - begin) : stop - begin]
                self._release(held.popleft())
        finally:
            self._readers -= 1
            for piece in held:
                self._release(piece)

    def blame(self, digest: Digest) -> None:
        """The finished blob was wrong: those whose list it was checked against are not believed again."""
        claims = self._claims.pop(digest, None)
        count = piece_count(self._manifest.blobs[digest])
        for node in {node for index in range(count) for node in (claims.witnesses(index) if claims else ())}:
            self._transfer.quarantine(node, "a blob that matched its list was wrong")
        for key in [key for key in self._segments if key[0] == digest]:
            del self._segments[key]

    # Readers

    def _window(self) -> int:
        return max(1, min(AHEAD, HELD_PIECES // max(1, self._readers)))

    def _hold(self, piece: Piece, size: int) -> None:
        arrival = self._arrivals.get(piece)
        if arrival is None:
            arrival = self._arrivals[piece] = _Arrival(piece_size(size, piece.index))
            self._transfer.want(piece, arrival.size, self._clock())
        arrival.readers += 1

    def _release(self, piece: Piece) -> None:
        arrival = self._arrivals.get(piece)
        if arrival is None:
            return
        arrival.readers -= 1
        if arrival.readers == 0:
            del self._arrivals[piece]
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
            ask = self._transfer.next_ask(now)
            if ask is None:
                return
            self._pace.spend(self._arrivals[ask.piece].size - ask.start, now)
            self._fetches[ask.piece] = self._tasks.start(self._fetch(ask), "piece")
        if self._pumping is None:
            self._pumping = asyncio.get_running_loop().call_later(wait, self._pump_again)

    def _pump_again(self) -> None:
        self._pumping = None
        self._pump()

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._transfer.set_sources(self._holders())
            now = self._clock()
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
        fetch = self._fetches.pop(ask.piece, None)
        if fetch is not None:
            fetch.cancel()

    async def _fetch(self, ask: Ask) -> None:
        arrival = self._arrivals[ask.piece]
        if ask.start == 0:  # what came before, if anything, was wrong
            arrival.parts.clear()
            arrival.have = 0
        try:
            await self._receive(ask, arrival)
            await self._judge(ask.piece, arrival)
        except _Lacking as error:
            self._note_failure(ask, Failure.LACKS, error)
        except UpstreamFailed as error:
            self._note_failure(ask, Failure.GONE, error)
        finally:
            if self._fetches.get(ask.piece) is asyncio.current_task():
                del self._fetches[ask.piece]
        self._pump()

    def _note_failure(self, ask: Ask, failure: Failure, error: Exception) -> None:
        log.info("piece_not_given", source=ask.source, piece=ask.piece.index, error=str(error))
        self._transfer.failed(ask.piece, ask.source, failure, self._clock())

    async def _receive(self, ask: Ask, arrival: _Arrival) -> None:
        """Add what ``ask.source`` gives to ``arrival``, as far as it comes."""
        if ask.start == arrival.size:
            return
        target = self._target(ask.source)
        first = ask.piece.index * PIECE + ask.start
        headers = [("Range", f"bytes={first}-{first + arrival.size - ask.start - 1}")]
        path = f"/replication/blobs/sha256:{ask.piece.digest}"
        connection, head = await target.open("GET", path, headers, b"", head_timeout=HEAD_S)
        try:
            if head.status != 206:
                raise _refusal(head.status)
            while arrival.have < arrival.size:
                data = await connection.read(self._clock() + HEAD_S)
                if not data or arrival.have + len(data) > arrival.size:
                    raise UpstreamFailed("the source gave another number of bytes than it was asked for")
                arrival.parts.append(data)
                arrival.have += len(data)
                self.fetched += len(data)
                self._transfer.received(ask.piece, ask.source, len(data), self._clock())
            await connection.read(self._clock() + HEAD_S)
        finally:
            target.give_back(connection)

    async def _judge(self, piece: Piece, arrival: _Arrival) -> None:
        data = b"".join(arrival.parts)
        if await self._is_right(piece, data):
            arrival.parts.clear()
            self._transfer.good(piece)
            if not arrival.landed.done():
                arrival.landed.set_result(data)
            return
        self.wrong_pieces += 1
        blamed = self._transfer.bad(piece)
        log.warning("piece_wrong", digest=piece.digest, piece=piece.index, sources=sorted(blamed))

    async def _is_right(self, piece: Piece, data: bytes) -> bool:
        if self._manifest.blobs[piece.digest] <= PIECE:
            return hashlib.sha256(data).hexdigest() == piece.digest
        return await self._expected(piece) == blake3(data).digest()

    # Lists

    async def _expected(self, piece: Piece) -> bytes | None:
        """What the piece hashes to, as its sources say; raises `UpstreamFailed` where none does."""
        claims = self._claims.setdefault(piece.digest, Claims())
        expected = claims.expected(piece.index)
        if expected is None:
            await self._have_segment(piece.digest, piece.index // SEGMENT)
            expected = claims.expected(piece.index)
        if expected is None:
            raise UpstreamFailed("the sources do not say what the piece is to be")
        return expected

    async def _have_segment(self, digest: Digest, segment: int) -> None:
        key = (digest, segment)
        task = self._segments.get(key)
        if task is None or task.done():
            task = self._segments[key] = self._tasks.start(self._ask_segment(digest, segment), "piece-list")
        await asyncio.shield(task)

    async def _ask_segment(self, digest: Digest, segment: int) -> None:
        """Have the lists of two sources, where there are two; where they differ, have them looked at."""
        claims = self._claims.setdefault(digest, Claims())
        first = segment * SEGMENT
        stop = min(first + SEGMENT, piece_count(self._manifest.blobs[digest]))
        asked = self._transfer.candidates(digest, self._clock())[:2]
        lists = [self._tasks.start(self._ask_list(node, digest, first, stop), "list") for node in asked]
        if not lists:
            return
        await asyncio.wait(lists, timeout=LIST_S, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(lists, timeout=SECOND_OPINION_S)
        if any(claims.is_disputed(index) for index in range(first, stop)):
            await self._settle(digest, first, stop, asked)

    async def _ask_list(self, node: NodeId, digest: Digest, first: int, stop: int) -> None:
        wanted = (stop - first) * HASH_BYTES
        headers = [("Range", f"bytes={first * HASH_BYTES}-{stop * HASH_BYTES - 1}")]
        path = f"/replication/pieces/sha256:{digest}"
        try:
            answer = await fetch(
                self._target(node), "GET", path, headers=headers, timeout=LIST_S, limit=wanted
            )
            if answer.status != 206:
                raise _refusal(answer.status)
            if len(answer.body) != wanted:
                raise UpstreamFailed("its list of pieces has another length than it should")
        except _Lacking:
            self._transfer.failed(Piece(digest, -1), node, Failure.LACKS, self._clock())
            return
        except UpstreamFailed as error:
            log.info("piece_list_not_given", source=node, error=str(error))
            return
        hashes = [answer.body[at : at + HASH_BYTES] for at in range(0, wanted, HASH_BYTES)]
        self._claims.setdefault(digest, Claims()).add(node, first, hashes)

    async def _settle(self, digest: Digest, first: int, stop: int, asked: list[NodeId]) -> None:
        """Sources disagree: ask one more; where that does not settle it, have each read the whole blob."""
        claims = self._claims[digest]
        others = [n for n in self._transfer.candidates(digest, self._clock()) if n not in asked]
        if others:
            await self._ask_list(others[0], digest, first, stop)
            for node in {n for index in range(first, stop) for n in claims.outvoted(index)}:
                self._distrust(node, "its list of pieces differs from the others'")
        if not any(claims.is_disputed(index) for index in range(first, stop)):
            return
        log.warning("piece_lists_differ", digest=digest, sources=asked)
        suspects = sorted({n for index in range(first, stop) for n in claims.witnesses(index)})
        verdicts = await asyncio.gather(*(self._ask_check(node, digest) for node in suspects))
        for node, is_right in zip(suspects, verdicts, strict=True):
            if not is_right:
                self._distrust(node, "its blob is not what its digest says")

    async def _ask_check(self, node: NodeId, digest: Digest) -> bool:
        path = f"/replication/checks/sha256:{digest}"
        try:
            answer = await fetch(self._target(node), "POST", path, timeout=CHECK_S, limit=4096)
            return answer.status == 200 and orjson.loads(answer.body).get("right") is True
        except (UpstreamFailed, orjson.JSONDecodeError, AttributeError) as error:
            log.info("blob_not_checked", source=node, error=str(error))
            return False

    def _distrust(self, node: NodeId, reason: str) -> None:
        log.warning("source_quarantined", source=node, reason=reason)
        self._transfer.quarantine(node, reason)
        for claims in self._claims.values():
            claims.drop(node)

    def _target(self, node: NodeId) -> Target:
        target = self._reach(node)
        if target is None:
            raise UpstreamFailed("the source cannot be reached")
        return target


class _Lacking(UpstreamFailed):
    """The source does not have it, or has it wrong."""


def _refusal(status: int) -> UpstreamFailed:
    if status in LACKS:
        return _Lacking(f"the source answered {status}")
    return UpstreamFailed(f"the source answered {status}")


def _said(status: int, body: bytes) -> str:
    """What a node says in our own form of errors."""
    try:
        said = orjson.loads(body)
        return f"it answered {status}: {str(said['error'])[:200]}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return f"it answered {status}"
