"""``python -m benchmarks.membership.joining``: many members join at once, all through one.

Only membership runs: driver, TLS and gRPC as in a node, several members to a process, for a hundred whole
nodes would measure nothing but how short of cores the machine is. The seed has a process of its own. All is
on loopback. A hundred members make 9,900 connections by and by, some 4 to 7 ms of a core each. Where there
are few cores, ``--at-once`` starts them in groups, each as soon as those before see each other, and
``--times 5`` gives them five times as long for everything.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import structlog

from benchmarks.relay.processes import cpu_s, own_kib
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.driver import Driver, GossipSettings
from ollama_dist.gossip.identity import Identity
from ollama_dist.gossip.keys import ClusterKey
from ollama_dist.gossip.protocol.config import LAN, GossipConfig

KEY_VARIABLE: Final = "MEMBERSHIP_BENCHMARK_KEY"
START_S: Final = 120.0
REST_S: Final = 10.0


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.membership.joining", description=__doc__)
    parser.add_argument("--members", type=int, default=100, help="the seed among them (100)")
    parser.add_argument("--per-process", type=int, default=11, help="members that share a process (11)")
    parser.add_argument("--at-once", type=int, default=0, help="members that join at a time, about (0: all)")
    parser.add_argument("--within", type=float, default=120, help="seconds after which it is given up (120)")
    parser.add_argument("--times", type=float, default=1, help="all times of the protocol, times this (1)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--host", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--seed", default="", help=argparse.SUPPRESS)
    wish = parser.parse_args(words)
    if wish.host is not None:
        asyncio.run(_host(wish.host, wish.seed, wish.members, LAN.scaled(wish.times)))
        return 0
    found = asyncio.run(_measure(wish))
    print(json.dumps(found, indent=1) if wish.json else _text(found))
    return 0 if found["late"] == 0 else 1


# Members


async def _host(count: int, seed: str, size: int, config: GossipConfig) -> None:
    """Run ``count`` members until standard input ends; say on standard output what they see."""
    # Standard output is for whoever measures.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    key = ClusterKey.parse(os.environ[KEY_VARIABLE])
    with tempfile.TemporaryDirectory() as made:
        drivers = [_driver(Path(made) / str(number), key, seed, config) for number in range(count)]
        _tell_what_is_seen(drivers, size)
        _say(ready=count)
        stdin = await _standard_input()
        await stdin.readline()
        began = time.monotonic()
        await asyncio.gather(*(driver.start() for driver in drivers))
        _say(began=began, addresses=[driver.addresses[0] for driver in drivers])
        await stdin.read()
        counters = [driver.counters() for driver in drivers]
        _say(
            suspicions=sum(each["event_suspect"] for each in counters),
            deaths=sum(each["event_dead"] for each in counters),
        )
        await asyncio.gather(*(driver.stop(leave=False) for driver in drivers))


def _driver(folder: Path, key: ClusterKey, seed: str, config: GossipConfig) -> Driver:
    settings = GossipSettings(
        host="127.0.0.1",
        seeds=(seed,) if seed else (),
        mdns=False,
        memory=folder / "memory",
        config=config,
    )
    return Driver(Credentials(Identity.load(folder, key)), settings)


def _tell_what_is_seen(drivers: Sequence[Driver], size: int) -> None:
    """How many each of the members sees alive at least, and when one sees them all."""
    seen = [0] * len(drivers)

    def look(number: int, _: object) -> None:
        if seen[number] == size:
            return
        before, alive = min(seen), sum(view.state is MemberState.ALIVE for view in drivers[number].members())
        seen[number] = alive
        if alive == size:
            _say(whole=time.monotonic())
        if min(seen) != before:
            _say(sees=min(seen))

    for number, driver in enumerate(drivers):
        driver.subscribe(partial(look, number))


def _say(**what: Any) -> None:
    print(json.dumps(what), flush=True)


async def _standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    return reader


# Who measures


class Host:
    """A process with some members."""

    def __init__(self, process: asyncio.subprocess.Process, count: int) -> None:
        self._process = process
        self.count = count
        """Members in it."""
        self.sees = 0
        """How many others, and itself, each of them sees alive at least."""
        self.pid = process.pid
        self.said: dict[str, Any] = {}
        self.whole: list[float] = []
        """When its members saw all others, monotonic."""

    @classmethod
    async def begin(cls, count: int, seed: str, wish: argparse.Namespace, key: str) -> "Host":
        words = ("--host", str(count), "--seed", seed, "--members", str(wish.members))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "benchmarks.membership.joining", *words, "--times", str(wish.times)),
            env=os.environ | {KEY_VARIABLE: key},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return cls(process, count)

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")

    async def until(self, what: str) -> Any:
        """Listen until it has said ``what``."""
        assert self._process.stdout is not None
        while what not in self.said:
            line = await self._process.stdout.readline()
            if not line:
                raise RuntimeError(f"process {self.pid} ended before it said {what!r}")
            said = json.loads(line)
            if "whole" in said:
                self.whole.append(said["whole"])
            elif "sees" in said:
                self.sees = said["sees"]
            else:
                self.said |= said
        return self.said[what]

    async def end(self) -> None:
        """Have it say its counters, and be over."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self.until("deaths")
        await asyncio.wait_for(self._process.wait(), 30)

    def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()


async def _measure(wish: argparse.Namespace) -> dict[str, Any]:
    key, size = ClusterKey.make().text, wish.members
    load = os.getloadavg()[0]
    hosts: list[Host] = []
    try:
        async with asyncio.timeout(START_S):
            hosts.append(await Host.begin(1, "", wish, key))
            await hosts[0].until("ready")
            hosts[0].go()
            (seed,) = await hosts[0].until("addresses")
            rest = size - 1
            while rest > 0:
                hosts.append(await Host.begin(min(rest, wish.per_process), seed, wish, key))
                rest -= wish.per_process
            for host in hosts[1:]:
                await host.until("ready")
        kib, spent = own_kib([hosts[0].pid]), cpu_s([hosts[0].pid])
        all_spent = cpu_s([host.pid for host in hosts])
        listening = [asyncio.create_task(host.until("deaths"), name=f"host {host.pid}") for host in hosts]
        first = began = time.monotonic()
        with contextlib.suppress(TimeoutError):  # how many came too late is told
            async with asyncio.timeout(wish.within):
                for together in _groups(hosts[1:], wish.at_once or size):
                    began = time.monotonic()
                    for host in together:
                        host.go()
                    await _all_see(hosts[: hosts.index(together[-1]) + 1])
                await _all_whole(hosts, size)
        took = time.monotonic() - first
        joined = cpu_s([hosts[0].pid]) - spent, cpu_s([host.pid for host in hosts]) - all_spent
        await asyncio.sleep(REST_S)
        seed_kib = own_kib([hosts[0].pid]) - kib
        for each in listening:
            each.cancel()
        await asyncio.gather(*listening, return_exceptions=True)
        await asyncio.gather(*(host.end() for host in hosts))
    finally:
        for host in hosts:
            host.kill()
    times = sorted(at - began for host in hosts for at in host.whole)
    return {
        "members": size,
        "processes": len(hosts),
        "cores": os.cpu_count(),
        "times": wish.times,
        "at_once": wish.at_once or size,
        "load_before": round(load, 2),
        "took_s": round(took, 2),
        "sees_all_s": {"p50": round(statistics.median(times), 2), "last": round(times[-1], 2)}
        if times
        else {},
        "late": size - len(times),
        "seed_cpu_s": round(joined[0], 2),
        "cpu_s": round(joined[1], 2),
        "seed_kib_per_member": round(seed_kib / (size - 1)),
        "suspicions": sum(host.said["suspicions"] for host in hosts),
        "deaths": sum(host.said["deaths"] for host in hosts),
    }


def _groups(hosts: Sequence[Host], at_once: int) -> Iterator[list[Host]]:
    """So that about so many members are in each, and one process at least."""
    together: list[Host] = []
    for host in hosts:
        if together and sum(each.count for each in [*together, host]) > at_once:
            yield together
            together = []
        together.append(host)
    if together:
        yield together


async def _all_see(hosts: Sequence[Host]) -> None:
    """Until the members of these processes see each other."""
    size = sum(host.count for host in hosts)
    while min(host.sees for host in hosts) < size:  # noqa: ASYNC110 - as below
        await asyncio.sleep(0.05)


async def _all_whole(hosts: Sequence[Host], size: int) -> None:
    while sum(len(host.whole) for host in hosts) < size:  # noqa: ASYNC110 - they say so in other processes
        await asyncio.sleep(0.05)


def _text(found: dict[str, Any]) -> str:
    times = found["sees_all_s"]
    return "\n".join(
        [
            f"{found['members']} members in {found['processes']} processes on {found['cores']} cores, "
            f"{found['at_once']} at once, load before {found['load_before']}, times x {found['times']:g}",
            f"  a member sees all       p50 {times['p50']} s, last {times['last']} s"
            if times
            else "  nobody saw all",
            f"  did not see all         {found['late']}; all of it took {found['took_s']} s",
            f"  CPU until then          {found['cpu_s']} s, of it the seed {found['seed_cpu_s']} s",
            f"  seed's memory           {found['seed_kib_per_member']} KiB for each other member",
            f"  suspicions, deaths      {found['suspicions']}, {found['deaths']}",
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
