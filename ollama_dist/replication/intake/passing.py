"""Names that models have in an Ollama only while they are on their way in or out."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import structlog

from ollama_dist.backends.target import Target
from ollama_dist.core.errors import DistError, NoCandidate, UpstreamFailed
from ollama_dist.core.names import ModelName, parse_model_name
from ollama_dist.replication.intake.journal import Journal
from ollama_dist.replication.intake.ollama_calls import OllamaCalls

log = structlog.get_logger()

TIDY_S: Final = 10.0
"""For taking names away while everybody waits."""


class NotNoted(DistError):
    """A name that could not be written down is not made: after a crash nobody would know whose it was."""

    code = "name_not_noted"


@dataclass(slots=True)
class Held:
    """Names that are in use."""

    is_settled: bool = False
    """Nothing can make them any more: who finds them gone need not look again."""


class Passing:
    """Makes sure that the names go away again. ``engine`` is the local Ollama; None while there is none."""

    def __init__(self, engine: Callable[[], Target | None], journal: Journal) -> None:
        self._engine = engine
        self._journal = journal
        self._live: set[str] = set()

    def calls(self) -> OllamaCalls:
        """Raises `NoCandidate`."""
        target = self._engine()
        if target is None:
            raise NoCandidate("this node has no Ollama")
        return OllamaCalls(target)

    @asynccontextmanager
    async def hold(self, *names: ModelName) -> AsyncIterator[Held]:
        """While inside, there may be models of these names; afterwards they are deleted.

        What cannot be deleted now stands in the journal, for `tidy`. Raises `NotNoted`.
        """
        texts = [name.short for name in names]
        held = Held()
        self._live.update(texts)
        try:
            await self._note(texts)
            yield held
        finally:
            await _in_peace(self._tidy(texts, forget_absent=held.is_settled))
            self._live.difference_update(texts)

    async def _note(self, texts: Sequence[str]) -> None:
        try:
            await self._journal.add(*texts)
        except OSError as error:
            raise NotNoted(f"the journal of names cannot be written: {error.strerror or error}") from error

    async def tidy(self) -> None:
        """Take away what an earlier life of this node has left; once, and again after a failure."""
        if left := [name for name in self._journal.names if name not in self._live]:
            log.info("tidying_names", names=left)
            await self._tidy(left, forget_absent=True)

    async def _tidy(self, names: Sequence[str], *, forget_absent: bool) -> None:
        calls = self.calls()
        for name in names:
            if await calls.delete(parse_model_name(name)) or forget_absent:
                await self._journal.remove(name)


async def _in_peace(work: Awaitable[None]) -> None:
    """Done though its caller is cancelled, within `TIDY_S`; what fails is left to `Passing.tidy`."""
    task = asyncio.ensure_future(work)
    with contextlib.suppress(UpstreamFailed, NoCandidate, TimeoutError, OSError):
        try:
            async with asyncio.timeout(TIDY_S):
                await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task}, timeout=TIDY_S)
            raise
