"""``python -m benchmarks.scale``: what thousands of streams and connections cost a node, and if it stays so.

A node stands before the fake engine of `benchmarks.relay`. First silent streams, then connections that wait,
then streams that flow for a while: memory and descriptors of each, what is left afterwards, whether it grows.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import psutil

from benchmarks.relay.answers import MODEL, chat_body, prompt, write_answers
from benchmarks.relay.build import NoCompiler, build
from benchmarks.relay.fronts import STARTERS, Ground, started
from benchmarks.relay.passes import CHUNK_BYTES, SILENT_US
from benchmarks.relay.processes import cpu_s, own_kib
from benchmarks.relay.tools import Ask, Pins, Tools

GROUP: Final = 200
"""Streams of one client program; each asks for a model of its own, of which a node may have 256 slots."""

CROWD: Final = 500
"""Connections of one client program."""

SETTLE_S: Final = 1.0
PROBES: Final = 200
SAMPLE_S: Final = 2.0

Figures = dict[str, float]


class Node:
    """The node that is looked at."""

    def __init__(self, port: int, pids: Sequence[int]) -> None:
        self.port = port
        self._pids = pids

    def look(self) -> tuple[int, int]:
        """KiB of its own memory, and open descriptors."""
        return own_kib(self._pids), sum(psutil.Process(pid).num_fds() for pid in self._pids)

    def cpu_s(self) -> float:
        return cpu_s(self._pids)

    def probe(self) -> float:
        """Milliseconds within which 99 of 100 new connections have their answer."""
        took = []
        for _ in range(PROBES):
            began = time.perf_counter()
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/api/version", timeout=30) as answer:
                answer.read()
            took.append((time.perf_counter() - began) * 1000)
        return statistics.quantiles(took, n=100)[98]


class Scale:
    """Measures one node. Each client program has a folder, for the body it sends lies there."""

    def __init__(self, node: Node, tools: Sequence[Tools]) -> None:
        self._node = node
        self._tools = tools

    def silent(self, streams: int) -> Figures:
        """Streams that have begun and say nothing more."""
        before = self._node.look()
        with ExitStack() as held:
            for tools, ask in self._asks(streams, 2, SILENT_US):
                held.enter_context(tools.held(self._node.port, ask))
            during = self._node.look()
        return _per("stream", streams, before, during, self._after())

    def waiting(self, connections: int) -> Figures:
        """Connections that have had an answer and ask nothing more."""
        before = self._node.look()
        with ExitStack() as held:
            for at in range(0, connections, CROWD):  # all at once would wait too long for their turn to ask
                count = min(CROWD, connections - at)
                ask = Ask("/api/version", count, count, "GET")
                held.enter_context(self._tools[0].held(self._node.port, ask))
            during = self._node.look()
            probe = self._node.probe()
        found = _per("connection", connections, before, during, self._after())
        return found | {"memory_mib_with_connections": during[0] / 1024, "new_request_ms_p99": probe}

    def flowing(self, streams: int, per_s: float, seconds: float) -> Figures:
        """Streams that flow for so long; growth is that of the second half, when all have begun."""
        asks = self._asks(streams, max(2, int(per_s * seconds)), int(1e6 / per_s))
        samples: list[tuple[float, int, int]] = []
        with ThreadPoolExecutor(len(asks)) as pool:
            began, used = time.monotonic(), self._node.cpu_s()
            running = [pool.submit(tools.load, self._node.port, ask) for tools, ask in asks]
            while not all(each.done() for each in running):
                time.sleep(min(SAMPLE_S, seconds / 10))
                samples.append((time.monotonic() - began, *self._node.look()))
            took, used = time.monotonic() - began, self._node.cpu_s() - used
        seen = [each.result() for each in running]
        for complaint in filter(None, (each["complaint"] for each in seen)):
            print(complaint, file=sys.stderr)
        chunks = sum(each["chunk_delay"]["count"] for each in seen)
        later = [each for each in samples if each[0] >= seconds / 2 and each[0] <= seconds * 0.95]
        return {
            "errors": sum(each["errors"] for each in seen),
            "chunks": chunks,
            "cores": used / took,
            "delay_ms_p50": statistics.median(each["chunk_delay"].get("p50", 0.0) for each in seen) / 1000,
            "delay_ms_p99": max(each["chunk_delay"].get("p99", 0.0) for each in seen) / 1000,
            "kib_most": max(each[1] for each in samples),
            "descriptors_most": max(each[2] for each in samples),
            "kib_per_minute": _slope([(each[0], each[1]) for each in later]) * 60,
            "descriptors_per_minute": _slope([(each[0], each[2]) for each in later]) * 60,
        }

    def soaked(self, streams: int, per_s: float, seconds: float, rounds: int) -> Mapping[str, Any]:
        """The same again and again, with a look at rest after each; growth is that of the second half."""
        began, errors, rest = time.monotonic(), 0.0, []
        for _ in range(rounds):
            errors += self.flowing(streams, per_s, seconds)["errors"]
            rest.append((time.monotonic() - began, *self._after()))
        later = rest[len(rest) // 2 :]
        return {
            "rounds": rounds,
            "minutes": rest[-1][0] / 60,
            "errors": errors,
            "kib_after_each": [each[1] for each in rest],
            "kib_per_minute": _slope([(each[0], each[1]) for each in later]) * 60,
            "descriptors_least": min(each[2] for each in later),
            "descriptors_most": max(each[2] for each in later),
        }

    def _after(self) -> tuple[int, int]:
        time.sleep(SETTLE_S)
        return self._node.look()

    def _asks(self, streams: int, chunks: int, pace_us: int) -> list[tuple[Tools, Ask]]:
        groups = [min(GROUP, streams - at) for at in range(0, streams, GROUP)]
        body = chat_body(prompt(chunks, CHUNK_BYTES, pace_us), stream=True)
        return [
            (
                self._tools[number],
                Ask(
                    "/api/chat",
                    count,
                    count,
                    body=body.replace(json.dumps(MODEL).encode(), f'"{MODEL}-{number}"'.encode(), 1),
                    ramp_us=2000,
                ),
            )
            for number, count in enumerate(groups)
        ]


def _per(
    what: str, count: int, before: tuple[int, int], during: tuple[int, int], after: tuple[int, int]
) -> Figures:
    return {
        f"kib_per_{what}": (during[0] - before[0]) / count,
        f"descriptors_per_{what}": (during[1] - before[1]) / count,
        f"descriptors_left_by_{what}s": after[1] - before[1],
    }


def _slope(samples: Sequence[tuple[float, float]]) -> float:
    """How much the second figure grows with the first."""
    if len(samples) < 3:
        return 0.0
    times, values = zip(*samples, strict=True)
    return float(statistics.linear_regression(times, values).slope)


@contextmanager
def _grounds(streams: int) -> Iterator[tuple[Node, list[Tools]]]:
    with tempfile.TemporaryDirectory(prefix="scale-benchmark-") as made, ExitStack() as stack:
        folder = Path(made)
        build(folder)
        write_answers(folder / "answers")
        pins = Pins.of(sorted(os.sched_getaffinity(0)))
        tools = []
        for number in range(-(-streams // GROUP)):
            own = folder / f"client-{number}"
            own.mkdir()
            for program in ("load", "upstream"):
                (own / program).symlink_to(folder / program)
            tools.append(Tools(own, pins))
        upstream = stack.enter_context(tools[0].upstream(folder / "answers"))
        front = stack.enter_context(
            started(STARTERS["node"], Ground(folder / "node", upstream.port, pins.fronts))
        )
        yield Node(front.port, front.pids), tools


def measure(
    streams: int, connections: int, per_s: float, seconds: float, rounds: int = 0
) -> Mapping[str, Any]:
    """All figures, or with ``rounds`` those of a soak. Raises `NoCompiler`."""
    with _grounds(streams) as (node, tools):
        scale = Scale(node, tools)
        scale.flowing(min(streams, 20), 20, 0.5)  # what is made once is made now
        if rounds:
            return {"soaked": scale.soaked(streams, per_s, seconds, rounds)}
        found = {"silent": scale.silent(streams), "waiting": scale.waiting(connections)}
        return found | {"flowing": scale.flowing(streams, per_s, seconds)}


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--streams", type=int, default=2000)
    parser.add_argument("--connections", type=int, default=9900, help="a listener takes 10000 at most")
    parser.add_argument("--per-s", type=float, default=5.0, help="chunks a second and stream")
    parser.add_argument("--seconds", type=float, default=40.0, help="how long they flow; at most 45")
    parser.add_argument(
        "--rounds", type=int, default=0, help="flow so often instead, and see whether it grows"
    )
    wish = parser.parse_args(words)
    try:
        found = measure(wish.streams, wish.connections, wish.per_s, min(wish.seconds, 45.0), wish.rounds)
    except NoCompiler as error:
        print(f"cannot measure: {error}", file=sys.stderr)
        return 2
    print(json.dumps({"load": os.getloadavg()[0], **found}, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
