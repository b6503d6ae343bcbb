"""Reading own blobs again from time to time: a disk that forgot something says so only when it is asked."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson
import structlog

from ollama_dist.core.errors import DistError
from ollama_dist.core.ids import Digest, is_digest
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.disk.store import Store
from ollama_dist.runtime.private_files import write_private
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

FILE_NAME: Final = "scrubbed.json"
LOOK_S: Final = 600.0
"""Between two looks at what is due."""

WEEK_S: Final = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class Scrub:
    """How far it is."""

    is_running: bool
    blobs: int
    """Known now."""
    waiting: int
    """Of those, not read within the period, or asked for."""
    bytes_total: int
    """Of those read this time, or the last time."""
    bytes_done: int
    corrupt: tuple[Digest, ...]


def due(
    checked: Mapping[Digest, float], blobs: Iterable[Digest], now: float, period_s: float
) -> list[Digest]:
    """The blobs not checked for so long, the longest ago first. Pure; times are Unix times."""
    late = [digest for digest in blobs if not now - period_s < checked.get(digest, 0.0) <= now]
    return sorted(late, key=lambda digest: (checked.get(digest, 0.0), digest))


class Scrubber:
    """Has each blob checked once in ``period_s`` (0: only when asked) by ``check``, at that one's pace.

    What was checked when is kept in ``folder``. ``forget`` hears which blobs there are.
    """

    def __init__(
        self,
        giver: Giver,
        folder: Path,
        period_s: float = WEEK_S,
        forget: Callable[[set[Digest]], Awaitable[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._giver = giver
        self._file = folder / FILE_NAME
        self._period_s = period_s
        self._forget = forget
        self._clock = clock
        self._checked: dict[Digest, float] = {}
        self._known: frozenset[Digest] = frozenset()
        self._asked = asyncio.Event()
        self._is_running = False
        self._total = 0
        self._began_at = 0
        """What had been checked, in bytes, when this time began."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = background(self._run(), "scrub")

    async def stop(self) -> None:
        await end(self._task)

    def ask(self) -> None:
        """Check everything now."""
        self._checked.clear()
        self._asked.set()

    @property
    def state(self) -> Scrub:
        waiting = due(self._checked, self._known, self._clock(), self._period_s or WEEK_S)
        is_running = self._is_running or self._asked.is_set()
        done = min(self._giver.checked - self._began_at, self._total) if self._is_running else self._total
        corrupt = tuple(sorted(self._giver.corrupt))
        return Scrub(is_running, len(self._known), len(waiting), self._total, done, corrupt)

    async def _run(self) -> None:
        checked = await asyncio.to_thread(_read, self._file)
        self._checked = {} if self._asked.is_set() else checked
        while True:
            if self._period_s or self._asked.is_set():
                self._is_running = True  # before it is asked for no more: who looks is to see no gap
                self._asked.clear()
                try:
                    await self.round()
                finally:
                    self._is_running = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._asked.wait()

    async def round(self) -> None:
        """Check what is due, one after the other."""
        try:
            blobs = await asyncio.to_thread(self._giver.store.blobs)
        except DistError as error:
            log.debug("nothing_to_scrub", reason=str(error))
            return
        self._known = frozenset(blobs)
        self._checked = {digest: at for digest, at in self._checked.items() if digest in self._known}
        if self._forget is not None:
            await self._forget(set(blobs))
        wanted = due(self._checked, blobs, self._clock(), self._period_s or WEEK_S)
        if wanted:
            self._began_at = self._giver.checked
            self._total = await asyncio.to_thread(_sizes, self._giver.store, wanted)
        for digest in wanted:
            with contextlib.suppress(DistError):  # gone meanwhile
                await self._giver.check(digest, at_leisure=True)
            self._checked[digest] = self._clock()
            await asyncio.to_thread(_write, self._file, dict(self._checked))


def _sizes(store: Store, digests: Iterable[Digest]) -> int:
    size = 0
    for digest in digests:
        with contextlib.suppress(DistError):
            size += store.blob(digest).size
    return size


def _read(file: Path) -> dict[Digest, float]:
    try:
        said = orjson.loads(file.read_bytes())
        return {Digest(digest): float(at) for digest, at in said.items() if is_digest(digest)}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("scrub_record_lost", path=str(file), error=str(error))
        return {}  # they are checked again


def _write(file: Path, checked: Mapping[Digest, float]) -> None:
    try:
        write_private(file, orjson.dumps(checked))
    except OSError as error:
        log.warning("scrub_record_not_kept", path=str(file), error=str(error))
