"""What the pieces of a model are to hash to: had from their sources, and settled where these differ."""

import asyncio
from typing import Final

import structlog

from ollama_dist.core.errors import UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.replication.disk.pieces import piece_count
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.transfer.asking import LIST_S, Lacking, Reach, ask_check, ask_hashes, reached
from ollama_dist.replication.transfer.claims import Claims
from ollama_dist.replication.transfer.machine import Failure, Piece, Transfer
from ollama_dist.runtime.tasks import Tasks

log = structlog.get_logger()

SECOND_OPINION_S: Final = 2.0
"""How long the list of a second source is waited for."""

SEGMENT: Final = 64
"""Pieces whose hashes are asked for at once."""


class Lists:
    """Asks the sources of ``transfer``, which hears who lacks a blob and who is not to be believed."""

    def __init__(self, manifest: Manifest, transfer: Transfer, reach: Reach, tasks: Tasks) -> None:
        self._manifest = manifest
        self._transfer = transfer
        self._reach = reach
        self._tasks = tasks
        self._clock = asyncio.get_running_loop().time
        self._claims: dict[Digest, Claims] = {}
        self._segments: dict[tuple[Digest, int], asyncio.Task[None]] = {}

    async def expected(self, piece: Piece) -> bytes:
        """What the piece hashes to, as its sources say; raises `UpstreamFailed` where none does."""
        claims = self._claims.setdefault(piece.digest, Claims())
        expected = claims.expected(piece.index)
        if expected is None:
            await self._have_segment(piece.digest, piece.index // SEGMENT)
            expected = claims.expected(piece.index)
        if expected is None:
            raise UpstreamFailed("the sources do not say what the piece is to be")
        return expected

    def blame(self, digest: Digest) -> None:
        """The finished blob was wrong: those whose list it was checked against are not believed again."""
        claims = self._claims.pop(digest, None)
        count = piece_count(self._manifest.blobs[digest])
        for node in {node for index in range(count) for node in (claims.witnesses(index) if claims else ())}:
            self._transfer.quarantine(node, "a blob that matched its list was wrong")
        for key in [key for key in self._segments if key[0] == digest]:
            del self._segments[key]

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
        try:
            hashes = await ask_hashes(reached(self._reach, node), digest, first, stop)
        except Lacking:
            self._transfer.failed(Piece(digest, -1), node, Failure.LACKS, self._clock())
        except UpstreamFailed as error:
            log.info("piece_list_not_given", source=node, error=str(error))
        else:
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
        verdicts = await asyncio.gather(*(self._is_right_at(node, digest) for node in suspects))
        for node, is_right in zip(suspects, verdicts, strict=True):
            if not is_right:
                self._distrust(node, "its blob is not what its digest says")

    async def _is_right_at(self, node: NodeId, digest: Digest) -> bool:
        try:
            return await ask_check(reached(self._reach, node), digest)
        except UpstreamFailed as error:
            log.info("blob_not_checked", source=node, error=str(error))
            return False

    def _distrust(self, node: NodeId, reason: str) -> None:
        log.warning("source_quarantined", source=node, reason=reason)
        self._transfer.quarantine(node, reason)
        for claims in self._claims.values():
            claims.drop(node)
