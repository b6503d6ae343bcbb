"""What befalls the machines, and how long it takes until all know. Seconds throughout."""

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from benchmarks.membership.machines import Machine, Machines
from benchmarks.relay.processes import cpu_s, own_kib

Figures = dict[str, list[float]]
"""What was measured, by name; one entry for each time it was."""

HEADERS: Final = 14 + 20 + 32
"""Bytes of Ethernet, IPv4 and TCP (with timestamps) around what TLS sends, or around nothing, in an ACK."""

REST_S: Final = 1.0
"""After a trial, until the last news has gone round."""


class Trials:
    """Plays each trial with one member or another of a cluster."""

    def __init__(self, machines: Machines, rng: random.Random) -> None:
        self.machines = machines
        self._rng = rng
        self.figures: Figures = {}

    def note(self, figure: str, value: float) -> None:
        self.figures.setdefault(figure, []).append(value)

    async def recover(self) -> None:
        """A trial failed: make the cluster whole. Raises `Late` where that does not come to be either."""
        await self.machines.cable.mend()
        for machine in self.machines.all:
            if machine.is_up:
                machine.send(signal.SIGCONT)
            else:
                await machine.start(*self.machines.seed)
        await self.machines.until(self.machines.is_whole, 120)

    def _victim(self) -> Machine:
        """Anybody but the first, by whom others join."""
        return self._rng.choice(self.machines.all[1:])

    def _note_times(self, what: str, state: str, victim: str, others: list[Machine], since: float) -> None:
        times = self.machines.times(others, victim, state, since)
        if len(times) == len(others):
            self.note(f"{what}: first {state}", min(times))
            self.note(f"{what}: {state} everywhere", max(times))
        else:
            self.note(f"{what}: not {state} everywhere", 1)

    async def join(self) -> None:
        """One leaves, forgets who it was, and joins as somebody new: by a seed, then by multicast alone."""
        machines = self.machines
        for how, flags in (("seed", ("--no-mdns", *machines.seed)), ("mDNS", ())):
            one = self._victim()
            others = machines.others(one)
            known_as = one.log.node_id
            at = await one.end(signal.SIGTERM)
            await machines.until_all(others, known_as, "left", 20)
            self._note_times("leave", "left", known_as, others, at)
            one.lose_disk()
            began = time.time()
            await one.start(*flags)
            await machines.until(machines.is_whole, 60)
            up = one.log.started_at
            times = machines.times(others, one.log.node_id, "alive", up)
            self.note(f"join by {how}: alive everywhere", max(times))
            self.note("process started → listens", up - began)
            await asyncio.sleep(REST_S)

    async def kill(self) -> None:
        """kill -9: the machine is there and refuses connections; then it is started again."""
        machines, one = self.machines, self._victim()
        others, known_as = machines.others(one), one.log.node_id
        await asyncio.sleep(self._rng.random())
        at = await one.end()
        await machines.until_all(others, known_as, "dead", 60)
        self._note_times("kill -9", "suspect", known_as, others, at)
        self._note_times("kill -9", "dead", known_as, others, at)
        await one.start(*machines.seed)
        await machines.until(machines.is_whole, 60)
        times = machines.times(others, known_as, "alive", one.log.started_at)
        self.note("started again: alive everywhere", max(times))
        await asyncio.sleep(REST_S)

    async def vanish(self) -> None:
        """The cable is out: nothing answers, not even with a refusal; then it is in again."""
        machines, one = self.machines, self._victim()
        others, known_as = machines.others(one), one.log.node_id
        await asyncio.sleep(self._rng.random())
        at = time.time()
        await machines.cable.part([one.host])
        await machines.until_all(others, known_as, "dead", 60)
        self._note_times("cable out", "suspect", known_as, others, at)
        self._note_times("cable out", "dead", known_as, others, at)
        await asyncio.sleep(10)
        await self._heal("cable in again")

    async def halves(self) -> None:
        """A partition in halves."""
        machines = self.machines
        chosen = self._rng.sample(machines.all, len(machines.all) // 2)
        await machines.cable.part([each.host for each in chosen])
        rest = [each for each in machines.all if each not in chosen]
        for here, there in ((chosen, rest), (rest, chosen)):
            for one in there:
                await machines.until_all(here, one.log.node_id, "dead", 90)
        await asyncio.sleep(3)
        await self._heal("partition healed")

    async def _heal(self, what: str) -> None:
        machines = self.machines
        at = time.time()
        await machines.cable.mend()
        await machines.until(machines.is_whole, 60)
        self.note(f"{what}: one view", max(each.at for each in machines.changes) - at)
        await asyncio.sleep(REST_S)
        machines.look()
        self.note(f"{what}: deaths after it", machines.deaths(at))

    async def freeze(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after ``seconds``."""
        machines, one = self.machines, self._victim()
        others, known_as = machines.others(one), one.log.node_id
        what = f"SIGSTOP {seconds:g} s"
        at = one.send(signal.SIGSTOP)
        await asyncio.sleep(seconds)
        woke = one.send(signal.SIGCONT)
        await asyncio.sleep(REST_S)
        await machines.until(machines.is_whole, 60)
        if machines.times(others, known_as, "dead", at):
            self._note_times(what, "dead", known_as, others, at)
            back = machines.times(others, known_as, "alive", woke)
            self.note(f"{what}: back everywhere", max(back, default=0.0))
        self.note(f"{what}: deaths", machines.deaths(at))
        self.note(f"{what}: deaths that it declared", self._declared_by(one, at))
        await asyncio.sleep(REST_S)

    def _declared_by(self, one: Machine, since: float) -> int:
        return sum(
            each.observer == one.name and each.state == "dead" and each.at >= since
            for each in self.machines.changes
        )

    async def idle(self, seconds: float) -> None:
        """Nothing happens."""
        machines = self.machines
        await asyncio.sleep(5)
        machines.look()
        began = time.time()
        pids = [machine.pid for machine in machines.all]
        spent, sent = [cpu_s([pid]) for pid in pids], self._wire()
        await asyncio.sleep(seconds)
        for before, pid in zip(spent, pids, strict=True):
            self.note("idle: part of a core, %", 100 * (cpu_s([pid]) - before) / seconds)
            self.note("idle: own memory, KiB", own_kib([pid]))
        for (bytes_then, packets_then), (bytes_now, packets_now) in zip(sent, self._wire(), strict=True):
            told, packets = bytes_now - bytes_then, packets_now - packets_then
            self.note("idle: on the wire, both ways, KB/s", told / seconds / 1000)
            self.note("idle: of it TLS, KB/s", (told - packets * HEADERS) / seconds / 1000)
        machines.look()
        self.note(
            "idle: suspicions", sum(each.state == "suspect" and each.at > began for each in machines.changes)
        )
        self.note("idle: deaths", machines.deaths(began))

    def _wire(self) -> list[tuple[int, int]]:
        """Bytes, from Ethernet's header on, and packets that went in and out of each host."""
        return [(_counted(machine, "bytes"), _counted(machine, "packets")) for machine in self.machines.all]


def _counted(machine: Machine, what: str) -> int:
    folder = Path(f"/sys/class/net/{machine.host.veth}/statistics")
    return sum(int((folder / f"{way}_{what}").read_text()) for way in ("rx", "tx"))


Trial = Callable[[Trials], Awaitable[None]]


def plan(rounds: int, rng: random.Random, *, idle_s: float) -> list[Trial]:
    """What is done, in an order by chance; idleness is measured first, before anybody was gone."""
    each: list[tuple[int, Trial]] = [
        (rounds, Trials.join),
        (rounds, Trials.kill),
        (max(1, rounds // 2), Trials.vanish),
        (max(1, rounds // 5), Trials.halves),
        (max(1, rounds // 3), lambda trials: trials.freeze(2)),
        (max(1, rounds // 5), lambda trials: trials.freeze(15)),
    ]
    trials = [trial for count, trial in each for _ in range(count)]
    rng.shuffle(trials)
    return [lambda trials: trials.idle(idle_s), *trials]
