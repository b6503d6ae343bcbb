"""Machines to measure: a process each, without an engine, on a host of its own."""

import asyncio
import contextlib
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.membership.events import Change, Log
from ollama_dist.gossip.keys import new_cluster_key
from tests.support.hosts import Cable, Namespace
from tests.support.real_nodes import command, environment_of

STEP_S: Final = 0.02
ALIVE_OR_SUSPECT: Final = ("alive", "suspect")


class Late(Exception):
    """Something did not come to be in time."""


class Machine:
    """One node on one host."""

    def __init__(self, name: str, folder: Path, host: Namespace, key: str) -> None:
        self.name = name
        self.host = host
        self.log = Log(name, folder / f"{name}.log")
        self._folder = folder / name
        self._key = key
        self._process: asyncio.subprocess.Process | None = None

    @property
    def is_up(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self, *flags: str) -> None:
        """Begin it; it is up some time after."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with self.log.path.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *("ip", "netns", "exec", self.host.name),
                *command("serve", "--name", self.name, "--state-dir", str(self._folder / "state")),
                *("--engine", "none", "--log-level", "debug", "--log-format", "json", *flags),
                env=environment_of(self._folder) | {"OLLAMA_DIST_CLUSTER_KEY": self._key},
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
            )

    async def end(self, how: signal.Signals = signal.SIGKILL) -> float:
        """When it was told to, in Unix seconds."""
        assert self._process is not None
        at = time.time()
        self._process.send_signal(how)
        await asyncio.wait_for(self._process.wait(), 30)
        self._process = None
        self.log.forget()
        return at

    def send(self, what: signal.Signals) -> float:
        """When, in Unix seconds."""
        assert self._process is not None
        self._process.send_signal(what)
        return time.time()

    def lose_disk(self) -> None:
        """What it knew, and who it was."""
        shutil.rmtree(self._folder / "state", ignore_errors=True)


class Machines:
    """A cluster, and everything its members came to believe."""

    def __init__(self, cable: Cable, folder: Path) -> None:
        self.cable = cable
        self.changes: list[Change] = []
        self._folder = folder
        self._key = new_cluster_key()
        self.all: list[Machine] = []

    @property
    def running(self) -> list[Machine]:
        return [machine for machine in self.all if machine.is_up]

    def others(self, machine: Machine) -> list[Machine]:
        return [each for each in self.running if each is not machine]

    @property
    def seed(self) -> tuple[str, ...]:
        """Flags that name the first machine as the one to join by."""
        return ("--join", f"{self.all[0].host.address}:11436")

    async def grow(self, size: int, *, at_once: int = 4) -> None:
        """So many machines, that joined by the first."""
        while len(self.all) < size:
            number = len(self.all)
            host = self.cable.hosts[number] if number < len(self.cable.hosts) else await self.cable.host()
            machine = Machine(f"m{number}", self._folder, host, self._key)
            self.all.append(machine)
            await machine.start(*(self.seed if number else ()))
            if len(self.all) % at_once == 0 or number == 0:
                await self.until(self.is_whole, 120)
        await self.until(self.is_whole, 120)

    def look(self) -> None:
        for machine in self.all:
            self.changes += machine.log.news()

    async def until(self, holds: Callable[[], bool], seconds: float) -> None:
        """Raises `Late`."""
        end = time.monotonic() + seconds
        self.look()
        while not holds():
            if time.monotonic() > end:
                raise Late(f"not within {seconds} s: {self.views()}")
            await asyncio.sleep(STEP_S)
            self.look()

    async def until_all(self, observers: list[Machine], member: str, state: str, seconds: float) -> None:
        await self.until(lambda: all(each.log.beliefs.get(member) == state for each in observers), seconds)

    def is_whole(self) -> bool:
        """Whether all that run are alive to all that run, and nobody else is."""
        ids = {machine.log.node_id for machine in self.running}
        return "" not in ids and all(
            ids == {member for member, state in machine.log.beliefs.items() if state in ALIVE_OR_SUSPECT}
            and "suspect" not in machine.log.beliefs.values()
            for machine in self.running
        )

    def times(self, observers: list[Machine], member: str, state: str, since: float) -> list[float]:
        """When each of these first came to believe that after ``since``, in seconds from it."""
        names = {each.name for each in observers}
        first: dict[str, float] = {}
        for change in self.changes:
            if change.member == member and change.state == state and change.at >= since:
                first.setdefault(change.observer, change.at - since)
        return [first[name] for name in names if name in first]

    def deaths(self, since: float) -> int:
        return sum(change.state == "dead" and change.at >= since for change in self.changes)

    def views(self) -> dict[str, dict[str, str]]:
        return {machine.name: machine.log.beliefs for machine in self.running}

    async def stop(self) -> None:
        for machine in self.running:
            with contextlib.suppress(ProcessLookupError):  # it may have ended by itself: that is in its log
                await machine.end()
