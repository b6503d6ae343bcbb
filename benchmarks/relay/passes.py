"""What is measured of one front, and how often: figures by name, one row for each pass."""

import time
from collections.abc import Callable, Container, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Final

from benchmarks.relay.answers import chat_body, embed_body, prompt
from benchmarks.relay.fronts import Front
from benchmarks.relay.processes import cpu_s, own_kib
from benchmarks.relay.tools import Ask, Tools, Upstream

Figures = dict[str, float]

BLOB: Final = "/api/blobs/sha256:" + "0" * 64
CHUNK_BYTES: Final = 160
"""About what Ollama writes for one token of a chat."""

PACE_US: Final = 20_000
"""50 chunks a second and stream."""

RAMP_US: Final = 5000
"""Between the beginnings of two streams: people do not ask all at the same moment."""

SILENT_US: Final = 600_000_000
"""A stream whose second chunk does not come while anybody looks."""

SETTLE_S: Final = 0.3


@dataclass(frozen=True)
class Sizes:
    """How much of everything one pass has."""

    requests: int = 5000
    connections: int = 32
    streams: int = 200
    chunks: int = 150
    few_streams: int = 100
    """Where delays count: the cores are not full."""
    first_bytes: int = 300
    leaving: int = 20
    held: int = 200
    upload: int = 128 * 2**20

    def smaller(self, by: int) -> "Sizes":
        """For a front that takes long: the figures are per request and chunk all the same."""
        return replace(
            self,
            requests=max(1, self.requests // by),
            connections=min(self.connections, max(1, self.requests // by)),
            streams=max(1, self.streams // by),
            few_streams=max(1, self.few_streams // by),
            first_bytes=max(1, self.first_bytes // by),
        )


TINY: Final = Sizes(
    requests=20,
    connections=4,
    streams=4,
    chunks=10,
    few_streams=2,
    first_bytes=5,
    leaving=2,
    held=4,
    upload=2**20,
)
"""Enough to see that everything works."""


KINDS: Final = ("short", "chunks", "delays", "first", "leaving", "uploads", "memory")
"""What a pass can be made of."""


class Failed(Exception):
    """Not every request was answered: no figure of that run would mean anything."""


class Pass:
    """Measures one front once."""

    def __init__(
        self, front: Front, tools: Tools, upstream: Upstream, sizes: Sizes, kinds: Container[str] = KINDS
    ) -> None:
        self._front = front
        self._kinds = kinds
        self._tools = tools
        self._upstream = upstream
        self._sizes = sizes
        self._chat = "/v1/chat/completions" if front.openai_only else "/api/chat"

    def measure(self) -> tuple[Figures, list[str]]:
        """The figures that differ from pass to pass, and what failed: the rest counts all the same."""
        figures: Figures = {}
        troubles = []
        for part in self._parts():
            try:
                figures |= part()
            except Failed as why:
                troubles.append(str(why).splitlines()[0])
        return figures, troubles

    def _parts(self) -> Iterator[Callable[[], Figures]]:
        if "short" in self._kinds:
            for path, name in self._short_requests():
                yield partial(self._short, path, name)
        if "chunks" in self._kinds:
            yield partial(self._chunks, self._chat, "")
            if not self._front.openai_only:
                yield partial(self._chunks, "/v1/chat/completions", "_openai")
        others = {"delays": self._delays, "first": self._first_bytes, "leaving": self._leaving}
        yield from (part for kind, part in others.items() if kind in self._kinds)
        if "uploads" in self._kinds and self._can_upload:
            yield self._upload

    def measure_memory(self) -> Figures:
        """KiB per connection that waits and per stream that is silent, of a front that has just started."""
        if "memory" not in self._kinds:
            return {}
        self._run(self._streams(self._chat, 2, 1, 1000))
        before = self._own_kib()
        few = self._sizes.held
        figures: Figures = {}
        version = Ask("/api/version", few, few, "GET")
        connection = replace(self._short_ask("/v1/chat/completions"), connections=few, requests=few)
        with self._tools.held(self._front.port, connection if self._front.openai_only else version):
            figures["kib_per_connection"] = (self._own_kib() - before) / few
        with self._tools.held(self._front.port, self._streams(self._chat, few, 2, SILENT_US)):
            figures["kib_per_stream"] = (self._own_kib() - before) / few
        self._upstream.closes()
        return figures

    def _short_requests(self) -> Iterator[tuple[str, str]]:
        if not self._front.openai_only:
            yield from (("/api/embed", "embed"), ("/api/chat", "chat"), ("/api/tags", "tags"))
        yield "/v1/chat/completions", "openai"

    def _short_ask(self, path: str) -> Ask:
        ask = Ask(path, self._sizes.connections, self._sizes.requests)
        if path == "/api/tags":
            return replace(ask, method="GET")
        return replace(ask, body=embed_body() if path == "/api/embed" else chat_body("hello", stream=False))

    def _short(self, path: str, name: str) -> Figures:
        seen, used_s = self._run(self._short_ask(path))
        answered = max(1, seen["requests_since_begun"])
        return {
            f"cpu_us_{name}": used_s * 1e6 / answered,
            f"per_s_{name}": seen["requests"] / seen["seconds"],
        }

    def _chunks(self, path: str, suffix: str) -> Figures:
        ask = self._streams(path, self._sizes.streams, self._sizes.chunks, PACE_US)
        seen, used_s = self._run(ask)
        came = seen["chunk_delay"]["count"]
        if not came:
            raise Failed("no chunk came")
        return {f"cpu_us_chunk{suffix}": used_s * 1e6 / came, f"chunks{suffix}": came}

    def _delays(self) -> Figures:
        ask = self._streams(self._chat, self._sizes.few_streams, self._sizes.chunks // 2, PACE_US)
        seen, used_s = self._run(ask)
        delay = seen["chunk_delay"]
        if not delay["count"]:
            raise Failed("no chunk came")
        return {
            "delay_us_p50": delay["p50"],
            "delay_us_p99": delay["p99"],
            "cpu_us_chunk_few": used_s * 1e6 / delay["count"],
        }

    def _first_bytes(self) -> Figures:
        """One stream of one chunk after the other, on one connection: nobody waits for anybody."""
        ask = self._streams(self._chat, self._sizes.first_bytes, 1, 1000)
        seen, used_s = self._run(replace(ask, connections=1))
        first = seen["first_byte"]
        return {
            "first_byte_us_p50": first["p50"],
            "first_byte_us_p99": first["p99"],
            "cpu_us_short_stream": used_s * 1e6 / max(1, seen["requests_since_begun"]),
        }

    def _leaving(self) -> Figures:
        """From a client's leaving to the engine's hearing of it, in streams that flow and in silent ones."""
        figures: Figures = {}
        for name, after, pace_us in (("flowing", 3, PACE_US), ("silent", 1, SILENT_US)):
            streams = self._streams(self._chat, self._sizes.leaving, 1000, pace_us)
            self._upstream.closes()
            seen, _ = self._run(replace(streams, leave_after=after))
            time.sleep(SETTLE_S)
            heard = self._upstream.closes()
            late_us = [(heard[number] - at) / 1000 for number, at in seen["left"] if number in heard]
            figures[f"leave_{name}_unheard"] = len(seen["left"]) - len(late_us)
            if late_us:
                figures[f"leave_{name}_us_p50"] = median(late_us)
                figures[f"leave_{name}_us_max"] = max(late_us)
        return figures

    def _upload(self) -> Figures:
        before = self._own_kib()
        began = self._cpu_s()
        self._run(Ask(BLOB, 1, 1, upload=self._sizes.upload))
        per_gb = 2**30 / self._sizes.upload
        return {
            "upload_cpu_s_per_gb": (self._cpu_s() - began) * per_gb,
            "upload_growth_kib": self._own_kib() - before,
        }

    @property
    def _can_upload(self) -> bool:
        return not self._front.openai_only and not self._front.name.startswith(
            "two"
        )  # the entry has no engine

    def _streams(self, path: str, count: int, chunks: int, pace_us: int) -> Ask:
        body = chat_body(prompt(chunks, CHUNK_BYTES, pace_us), stream=True)
        return Ask(path, count, count, body=body, ramp_us=RAMP_US)

    def _run(self, ask: Ask) -> tuple[Mapping[str, Any], float]:
        """What the clients saw, and the seconds the front used once all of them had begun."""
        began: list[float] = []
        seen = self._tools.load(self._front.port, ask, lambda: began.append(self._cpu_s()))
        ended = self._cpu_s()
        if seen["errors"]:
            raise Failed(f"{ask.path}: {seen['errors']} of {seen['requests']} failed: {seen['complaint']}")
        return seen, ended - (began or [ended])[0]

    def _cpu_s(self) -> float:
        return cpu_s(self._front.pids)

    def _own_kib(self) -> int:
        return own_kib(self._front.pids)
