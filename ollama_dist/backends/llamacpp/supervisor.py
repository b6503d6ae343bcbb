"""Keeps the runners: one per loaded model, started when it is asked for, gone when its time is up.

Loads happen one after another. A runner that dies takes its answers with it and is started anew by the next
request, never by itself.
"""

import asyncio
import contextlib
import math
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import psutil
import structlog

from ollama_dist.backends.llamacpp.client import RunnerClient
from ollama_dist.backends.llamacpp.errors import LoadFailed, NotEnoughMemory, TooManyWaiting
from ollama_dist.backends.llamacpp.folder import Installed
from ollama_dist.backends.llamacpp.process import RunnerProcess, start_runner
from ollama_dist.backends.llamacpp.residency import Impossible, Occupant, next_to_go
from ollama_dist.backends.llamacpp.runner import Job
from ollama_dist.backends.llamacpp.settings import GIB, LlamaCppSettings
from ollama_dist.runtime.tasks import background
from ollama_dist.wire.llamacpp.options import RunnerOptions

log = structlog.get_logger()

MEMORY_SHARE: Final = 0.9

FAR_FUTURE_S: Final = 9_000_000_000.0
"""What stands for "never" where a time is to be told: some centuries from now, as Ollama tells it."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in memory, as ``/api/ps`` tells it."""

    model: Installed
    options: RunnerOptions
    bytes: int
    gpu_bytes: int
    expires_at: float
    """Unix time."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A place in a runner, until the block that took it is left."""

    client: RunnerClient
    options: RunnerOptions


class _Resident:
    """A runner and who uses it."""

    def __init__(self, model: Installed, options: RunnerOptions, size: int, slots: int) -> None:
        self.model = model
        self.options = options
        self.bytes = size
        self.slots = asyncio.Semaphore(slots)
        self.process: RunnerProcess | None = None
        self.in_use = 0
        self.is_leaving = False
        """Nobody new may use it: it ends as soon as it is idle."""
        self.is_over = asyncio.Event()
        """It has ended, whether it was told to or died."""
        self.keep_alive_s = 0.0
        self.expires_at = 0.0
        self.timer: asyncio.TimerHandle | None = None

    @property
    def occupant(self) -> Occupant:
        return Occupant(self.model.path, self.keep_alive_s, self.in_use, self.bytes)

    def suits(self, model: Installed, options: RunnerOptions) -> bool:
        wanted = options if options.num_gpu >= 0 else replace(options, num_gpu=self.options.num_gpu)
        return not self.is_leaving and self.model.digest == model.digest and self.options == wanted


class Supervisor:
    """Lends out runners. Close it to end them all.

    ``changed`` is called when `loaded` is another than before.
    """

    def __init__(self, settings: LlamaCppSettings, changed: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._changed = changed
        self._residents: dict[Path, _Resident] = {}
        self._loading = asyncio.Lock()
        self._waiting = 0
        self._is_closed = False
        self._endings: set[asyncio.Task[None]] = set()
        self._budget = settings.memory_bytes or int(psutil.virtual_memory().total * MEMORY_SHARE)
        self._threads = settings.threads or _cores()

    @property
    def loaded(self) -> list[Loaded]:
        """Longest remaining life first."""
        found = [
            Loaded(
                resident.model,
                resident.options,
                resident.bytes,
                resident.bytes if resident.process.uses_gpu else 0,
                resident.expires_at,
            )
            for resident in self._residents.values()
            if resident.process is not None and not resident.is_leaving
        ]
        return sorted(found, key=lambda each: -each.expires_at)

    @contextlib.asynccontextmanager
    async def lease(
        self, model: Installed, options: RunnerOptions, keep_alive_s: float | None
    ) -> AsyncIterator[Lease]:
        """A place in the runner of ``model``, loaded with ``options`` first where that has to be.

        Waits for a free place as long as it takes. ``keep_alive_s`` None leaves what is set. The load belongs
        to this request: cancelled, it is given up. Raises `EngineMissing`, `LoadFailed`, `NotEnoughMemory`
        or `TooManyWaiting`.
        """
        while True:
            resident = await self._take(model, options)
            try:
                self._keep(resident, keep_alive_s)
                async with resident.slots:
                    assert resident.process is not None
                    if resident.process.has_ended:  # while this request waited for its turn, or just now
                        await resident.is_over.wait()
                        continue
                    yield Lease(resident.process.client, resident.options)
                    return
            finally:
                self._give_back(resident)

    def let_go(self, model: Installed) -> None:
        """Unload ``model`` as soon as nobody uses it; nothing happens if it is not loaded."""
        resident = self._residents.get(model.path)
        if resident is not None:
            resident.keep_alive_s = 0.0
            if not resident.in_use:
                self._expire(resident)

    def end_stuck(self, lease: Lease) -> None:
        """The runner behind ``lease`` does not answer any more: end it, with whatever it was doing."""
        for resident in self._residents.values():
            if resident.process and resident.process.client is lease.client:
                log.error("runner_stuck", model=resident.model.name.short, pid=resident.process.pid)
                self._begin_ending(resident, at_once=True)
                return

    async def close(self) -> None:
        """End every runner, and load none any more; answers under way break off."""
        self._is_closed = True
        for resident in list(self._residents.values()):
            self._begin_ending(resident)
        if self._endings:
            await asyncio.wait(self._endings)

    # Taking and giving back

    async def _take(self, model: Installed, options: RunnerOptions) -> _Resident:
        resident = self._residents.get(model.path)
        if resident is None or not resident.suits(model, options):
            if self._waiting >= self._settings.max_waiting:
                raise TooManyWaiting
            self._waiting += 1
            try:
                async with self._loading:
                    return self._hold(await self._suitable(model, options))
            finally:
                self._waiting -= 1
        return self._hold(resident)

    def _hold(self, resident: _Resident) -> _Resident:
        resident.in_use += 1
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None
        return resident

    def _give_back(self, resident: _Resident) -> None:
        resident.in_use -= 1
        if resident.in_use or resident.is_over.is_set():
            return
        if resident.is_leaving:
            self._begin_ending(resident)
            return
        self._note_expiry(resident)
        if math.isfinite(resident.keep_alive_s):
            loop = asyncio.get_running_loop()
            resident.timer = loop.call_later(resident.keep_alive_s, self._expire, resident)

    def _keep(self, resident: _Resident, keep_alive_s: float | None) -> None:
        if keep_alive_s is not None:
            resident.keep_alive_s = keep_alive_s
            self._note_expiry(resident)

    def _note_expiry(self, resident: _Resident) -> None:
        resident.expires_at = time.time() + min(resident.keep_alive_s, FAR_FUTURE_S)

    # Loading

    async def _suitable(self, model: Installed, options: RunnerOptions) -> _Resident:
        """The runner for ``model``, loaded now unless somebody did meanwhile. Called by one at a time."""
        if self._is_closed:
            raise LoadFailed("the engine is stopping")
        resident = self._residents.get(model.path)
        if resident is not None and resident.suits(model, options):
            return resident
        if resident is not None:
            await self._make_leave(resident)
        needed = model.size + options.num_ctx * self._settings.slots * model.card.cache_bytes_per_token
        await self._make_room(needed)
        return await self._load(model, options, needed)

    async def _make_room(self, needed: int) -> None:
        while True:
            occupants = {resident.occupant: resident for resident in self._residents.values()}
            match next_to_go(
                list(occupants),
                needed=needed,
                budget=self._budget,
                max_loaded=self._settings.max_loaded,
            ):
                case None:
                    return
                case Impossible(needed, budget):
                    wants, has = f"{needed / GIB:.1f} GiB", f"{budget / GIB:.1f} GiB"
                    raise NotEnoughMemory(
                        f"model requires more system memory ({wants}) than is available ({has})"
                    )
                case Occupant() as victim:
                    log.info("model_evicted", model=occupants[victim].model.name.short)
                    await self._make_leave(occupants[victim])

    async def _make_leave(self, resident: _Resident) -> None:
        """Let nobody new use it, and wait until it has ended, which it does once it is idle."""
        resident.is_leaving = True
        if not resident.in_use:
            self._begin_ending(resident)
        await resident.is_over.wait()

    async def _load(self, model: Installed, options: RunnerOptions, size: int) -> _Resident:
        began = asyncio.get_running_loop().time()
        resident = _Resident(model, options, size, self._settings.slots)
        resident.keep_alive_s = self._settings.keep_alive_s
        resident.process = await start_runner(
            self._job(model, options),
            lambda reason: self._note_death(resident, reason),
            timeout=self._settings.load_timeout_s,
        )
        if self._is_closed:
            await resident.process.stop()
            raise LoadFailed("the engine is stopping")
        self._note_expiry(resident)
        self._residents[model.path] = resident
        self._changed()
        took = asyncio.get_running_loop().time() - began
        log.info("model_loaded", model=model.name.short, pid=resident.process.pid, seconds=round(took, 3))
        return resident

    def _job(self, model: Installed, options: RunnerOptions) -> Job:
        slots = self._settings.slots
        return Job(
            key=secrets.token_urlsafe(32),
            path=str(model.path),
            context=options.num_ctx * slots,
            slots=slots,
            threads=options.num_thread or self._threads,
            batch=options.num_batch,
            gpu_layers=options.num_gpu,
            main_gpu=options.main_gpu,
            mmap=options.use_mmap,
            shift=options.shift,
            embedding="embedding" in model.card.capabilities,
            template=model.card.notes.template,
            warmup=self._settings.warmup,
        )

    # Ending

    def _expire(self, resident: _Resident) -> None:
        resident.timer = None
        if not resident.in_use and not resident.is_leaving:
            log.info("model_unloaded", model=resident.model.name.short)
            self._begin_ending(resident)

    def _begin_ending(self, resident: _Resident, *, at_once: bool = False) -> None:
        """End its runner in the background; it is listed no more from now on."""
        if resident.process is None or resident.is_over.is_set():
            return
        self._drop(resident)
        work = self._end(resident, resident.process, at_once)
        task = background(work, f"ending-{resident.model.name.short}")
        self._endings.add(task)
        task.add_done_callback(self._endings.discard)

    async def _end(self, resident: _Resident, process: RunnerProcess, at_once: bool) -> None:
        try:
            await (process.kill() if at_once else process.stop())
        finally:
            resident.is_over.set()

    def _note_death(self, resident: _Resident, reason: str) -> None:
        log.error("model_lost", model=resident.model.name.short, reason=reason)
        self._drop(resident)
        resident.is_over.set()

    def _drop(self, resident: _Resident) -> None:
        resident.is_leaving = True
        if resident.timer is not None:
            resident.timer.cancel()
            resident.timer = None
        if self._residents.get(resident.model.path) is resident:
            del self._residents[resident.model.path]
            self._changed()


def _cores() -> int:
    """Physical cores this process may use: a second thread on one core slows a runner down."""
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        return min(cores, len(os.sched_getaffinity(0)))
    return cores
