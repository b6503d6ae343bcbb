"""Models in memory: loading one at a time, slots, keep-alive and eviction, as Ollama's scheduler has them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from ollama_dist.wire.durations import FOREVER
from tests.support.fake_ollama.journal import Journal

DEFAULT_KEEP_ALIVE_S = 300.0
MAX_LOADED = 3
"""Ollama's limit on a machine without a GPU."""


class QueueFull(Exception):
    """Too many requests wait for a load."""


@dataclass
class Runner:
    """A loaded model. Aliases of the same weights share it."""

    weights: str
    name: str
    """The model that brought it in."""
    slots: asyncio.Semaphore
    keep_alive_s: float = DEFAULT_KEEP_ALIVE_S
    active: int = 0
    idle_since: float = field(default_factory=time.monotonic)

    @property
    def remaining_s(self) -> float:
        return self.keep_alive_s - (time.monotonic() - self.idle_since)


class Runners:
    def __init__(self, journal: Journal, *, slots: int, load_s: float, max_queue: int) -> None:
        self.slots = slots
        self.load_s = load_s
        self.max_queue = max_queue
        self._journal = journal
        self._runners: dict[str, Runner] = {}
        self._loading = asyncio.Lock()
        self._queued = 0

    def loaded(self) -> list[Runner]:
        """What is in memory, longest remaining life first."""
        for weights, runner in list(self._runners.items()):
            if not runner.active and runner.remaining_s <= 0:
                del self._runners[weights]
        return sorted(self._runners.values(), key=lambda runner: -runner.remaining_s)

    def unload(self, weights: str) -> None:
        self._runners.pop(weights, None)

    async def load(self, weights: str, name: str, keep_alive_s: float | None) -> Runner:
        """The runner for ``weights``, brought in if need be. Raises `QueueFull`."""
        self.loaded()
        if weights not in self._runners:
            if self._queued >= self.max_queue:
                raise QueueFull
            self._queued += 1
            try:
                async with self._loading:
                    await self._bring_in(weights, name)
            finally:
                self._queued -= 1
        runner = self._runners[weights]
        runner.idle_since = time.monotonic()
        if keep_alive_s is not None:
            runner.keep_alive_s = keep_alive_s
        return runner

    @contextlib.asynccontextmanager
    async def slot(self, runner: Runner) -> AsyncIterator[None]:
        """A turn at the runner; it may go when the last one leaves and its time is up."""
        runner.active += 1
        self._journal.waiting += 1
        try:
            async with runner.slots:
                self._journal.waiting -= 1
                self._journal.in_slots += 1
                self._journal.most_in_slots = max(self._journal.most_in_slots, self._journal.in_slots)
                try:
                    yield
                finally:
                    self._journal.in_slots -= 1
                    self._journal.waiting += 1
        finally:
            self._journal.waiting -= 1
            runner.active -= 1
            runner.idle_since = time.monotonic()
            if not runner.active and runner.keep_alive_s <= 0:
                self._runners.pop(runner.weights, None)

    async def _bring_in(self, weights: str, name: str) -> None:
        if weights in self._runners:
            return
        self._journal.loads_begun += 1
        if self.load_s:
            await asyncio.sleep(self.load_s)
        while len(self._runners) >= MAX_LOADED:
            victim = min(
                self._runners.values(),
                key=lambda other: (other.active > 0, other.keep_alive_s, other.weights),
            )
            del self._runners[victim.weights]
        self._runners[weights] = Runner(weights, name, asyncio.Semaphore(self.slots))


def expires_in_s(runner: Runner) -> float:
    """Seconds from now; Ollama shows for ever as 292 years."""
    return 2**63 / 1e9 if runner.keep_alive_s == FOREVER else runner.remaining_s
