"""The Ollama of this machine as a `LocalEngine`: found or started, then watched."""

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import structlog

from ollama_dist.backends.local import Changed, Snapshot
from ollama_dist.backends.ollama.finder import (
    WELL_KNOWN,
    KeepLooking,
    Listening,
    Start,
    Use,
    choose,
    find_program,
    who_listens,
)
from ollama_dist.backends.ollama.process import OllamaProcess
from ollama_dist.backends.ollama.slots import (
    DEFAULT_SLOTS,
    UNSEEN_WIDTH,
    processes_behind,
    slots_of,
    width_of,
)
from ollama_dist.backends.poller import EnginePoller
from ollama_dist.backends.target import Target
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import Engine, EngineKind, EngineState
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

LOOK_AGAIN_S: Final = 1.5
"""Between two searches while there is none."""

START_S: Final = 30.0
"""A program just started is "starting" for so long; after that it is unreachable."""


@dataclass(frozen=True, slots=True)
class OllamaSettings:
    """Where the Ollama is, as far as anybody said."""

    node: NodeId
    address: tuple[str, int] | None = None
    """Host and port of one that somebody else keeps running."""
    program: str = "ollama"
    slots: int = 0
    """Slots per model: what to start it with, or what a foreign one is said to have. 0: find out."""
    log_file: Path = Path("ollama.log")


class OllamaEngine:
    """See `LocalEngine`. Finds its Ollama once and then stays with it, however often it goes and comes."""

    def __init__(self, settings: OllamaSettings) -> None:
        self._settings = settings
        self._target: Target | None = None
        self._poller: EnginePoller | None = None
        self._process: OllamaProcess | None = None
        self._started_at = float("-inf")
        self._changed: Changed = lambda: None
        self._search: asyncio.Task[None] | None = None
        self._slots_task: asyncio.Task[None] | None = None
        self._reason = "looked for just now"
        self.slots = settings.slots or DEFAULT_SLOTS
        """Requests one loaded model answers at once."""
        self.width = settings.slots or UNSEEN_WIDTH
        """Requests for one model that it is sent at once."""

    @property
    def target(self) -> Target | None:
        return self._target

    @property
    def snapshot(self) -> Snapshot:
        if self._poller is None:
            return Snapshot(Engine(EngineKind.NONE), self._reason)
        known = self._poller.snapshot
        if known.engine.state is not EngineState.UNREACHABLE:
            return known
        if asyncio.get_running_loop().time() - self._started_at >= START_S:
            return known
        return replace(known, engine=replace(known.engine, state=EngineState.STARTING), error="is starting")

    def nudge(self) -> None:
        if self._poller is not None:
            self._poller.nudge()

    async def start(self, changed: Changed) -> None:
        """Look for an Ollama; where there is none yet, go on looking in the background."""
        self._changed = changed
        if not await self._find():
            self._search = background(self._keep_looking(), "ollama-search")

    async def stop(self) -> None:
        await end(self._search, self._slots_task)
        if self._poller is not None:
            await self._poller.stop()
        if self._process is not None:
            await self._process.stop()

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            if await self._find():
                return self._changed()

    async def _find(self) -> bool:
        told = self._settings.address
        well_known = Listening.NOBODY if told else await who_listens(*WELL_KNOWN)
        match choose(told, well_known, find_program(self._settings.program)):
            case Use(host, port):
                self._watch(host, port)
            case Start(program):
                self._process = OllamaProcess(
                    program, self._settings.slots, self._settings.log_file, self._note_life
                )
                self._process.start()
                self._note_life()
                self._watch(self._process.host, self._process.port)
            case KeepLooking(reason):
                self._reason = reason
                return False
        return True

    def _note_life(self) -> None:
        """The program was started, or has died and will be started again: it is about to be there."""
        self._started_at = asyncio.get_running_loop().time()
        self.nudge()

    def _watch(self, host: str, port: int) -> None:
        log.info("engine_found", kind="ollama", address=f"{host}:{port}", started=self._process is not None)
        self._target = Target(self._settings.node, host, port)
        # Looking has connections of its own: a busy relay must not make the engine seem slow.
        self._poller = EnginePoller(Target(self._settings.node, host, port), EngineKind.OLLAMA, self._looked)
        self._poller.start()

    def _looked(self) -> None:
        if self._slots_task is None or self._slots_task.done():
            self._slots_task = background(self._find_slots(), "ollama-slots")
        self._changed()

    async def _find_slots(self) -> None:
        assert self._target is not None
        lines, environment = await asyncio.to_thread(processes_behind, self._target.port)
        started_with = self._settings.slots if self._process is not None else 0
        slots = slots_of(lines, environment, started_with=started_with, configured=self._settings.slots)
        width = width_of(slots, environment, told=bool(self._settings.slots))
        if (slots, width) != (self.slots, self.width):
            log.info("engine_slots", slots=slots, width=width)
            self.slots, self.width = slots, width
            self._changed()
