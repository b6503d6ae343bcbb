"""Recorded answers sent by a server that breaks them off, and a caller that looks closely at what it gets.

A `Cut` says which answer, in which framing, broken off where and how. Both sides work on raw bytes: what a
client library would forgive, complete or hide is seen here.
"""

import asyncio
import contextlib
import json
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache, cached_property
from random import Random
from typing import Final, cast

from ollama_dist.core.dialects import DIALECTS, Dialect
from ollama_dist.core.requests import Intent
from ollama_dist.wire.inspection import inspect
from tests.support import recordings
from tests.support.recordings import Recorded
from tests.support.scripted_server import read_request, serving

ROUTES: Final = (
    "/api/generate",
    "/api/chat",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
)


class Framing(StrEnum):
    """How the end of the body is announced."""

    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until close"


class How(StrEnum):
    """How the answer stops."""

    RESET = "reset"
    FIN = "fin"
    STALL = "stall, then fin"
    CLEAN = "ended in form, short"
    """As its framing announces, so many bytes of the body being all there is."""
    WHOLE = "whole"


STALL_S: Final = 0.02
BREATH_S: Final = 0.005


@dataclass(frozen=True)
class Cut:
    number: int
    exchange: Recorded
    framing: Framing
    how: How
    at: int
    """Bytes on the wire, head included; of the body where it is ended in form."""
    pause_at: int = 0
    """After so many bytes on the wire the server takes a breath, long enough for them to be passed on."""
    version: str = "1.1"
    """Of HTTP, as the caller speaks it."""
    keep_alive: bool = False
    """Whether the caller would like to go on using its connection."""

    def __str__(self) -> str:
        what = f"{self.exchange.path} {self.exchange.id}, {self.framing}, HTTP/{self.version}"
        return f"#{self.number} {what}: {self.how} at {self.at} of {len(self.on_the_wire)}"

    @property
    def is_stream(self) -> bool:
        return self.exchange.is_stream

    @property
    def dialect(self) -> Dialect:
        return DIALECTS[self.exchange.path]

    @cached_property
    def on_the_wire(self) -> bytes:
        """All that is sent if nothing happens."""
        chunks = list(self.exchange.chunks)
        if self.how is How.CLEAN:
            chunks = _first(chunks, self.at)
        return _head(self.exchange, self.framing, sum(map(len, chunks))) + _framed(chunks, self.framing)

    @cached_property
    def sent(self) -> bytes:
        wire = self.on_the_wire
        return wire if self.how in (How.CLEAN, How.WHOLE) else wire[: self.at]

    @cached_property
    def body_sent(self) -> bytes:
        _, end, body = self.sent.partition(b"\r\n\r\n")
        if not end:
            return b""
        return _unchunked(body)[0] if self.framing is Framing.CHUNKED else body

    @property
    def ends_in_form(self) -> bool:
        """Whether the transport says that this is all."""
        if self.how is How.RESET and self.framing is Framing.UNTIL_CLOSE:
            return False
        if b"\r\n\r\n" not in self.sent:
            return False
        return self.framing is Framing.UNTIL_CLOSE or self.sent == self.on_the_wire

    @cached_property
    def is_whole(self) -> bool:
        """Whether an honest reader of what is sent has the whole answer."""
        if self.is_stream:
            return self.body_sent == self.exchange.answer
        return self.ends_in_form and self.body_sent.rstrip() == self.exchange.answer.rstrip()

    @property
    def is_unbegun(self) -> bool:
        """Whether nothing can be passed on of what is sent: no stream, or it ends within its first record."""
        return not (self.is_stream and _RECORD_END[self.dialect].search(self.body_sent))


def _first(chunks: list[bytes], size: int) -> list[bytes]:
    kept = []
    for chunk in chunks:
        kept.append(chunk[:size])
        size -= len(kept[-1])
    return [chunk for chunk in kept if chunk]


def _head(exchange: Recorded, framing: Framing, size: int) -> bytes:
    lines = [
        "HTTP/1.1 200 OK",
        f"Content-Type: {exchange.content_type}",
        "Date: Fri, 20 Nov 2026 10:00:00 GMT",
    ]
    if framing is Framing.LENGTH:
        lines.append(f"Content-Length: {size}")
    elif framing is Framing.CHUNKED:
        lines.append("Transfer-Encoding: chunked")
    return "\r\n".join([*lines, "", ""]).encode()


def _framed(chunks: list[bytes], framing: Framing) -> bytes:
    if framing is not Framing.CHUNKED:
        return b"".join(chunks)
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def _unchunked(data: bytes) -> tuple[bytes, bool]:
    """The body, and whether its last chunk is there."""
    body, at = b"", 0
    while (end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:end].partition(b";")[0], 16)
        if not size:
            return body, data[end:] == b"\r\n\r\n"
        body += data[end + 2 : end + 2 + size]
        at = end + 2 + size + 2
    return body, False


# Choosing


@cache
def answers() -> tuple[tuple[Recorded, ...], tuple[Recorded, ...]]:
    """The recorded streams, and the recorded answers that are one object, of all routes and ages."""
    streams: list[Recorded] = []
    others: list[Recorded] = []
    for version in recordings.VERSIONS:
        for exchange in recordings.exchanges(version):
            if exchange.path in ROUTES and exchange.status == 200 and exchange.id != "gen-chunked-body":
                asked = inspect(exchange.path, exchange.body)
                if asked.intent is Intent.GENERATE and asked.model is not None:
                    (streams if exchange.is_stream else others).append(exchange)
    return tuple(streams), tuple(others)


def cuts(count: int, seed: str) -> Iterator[Cut]:
    rng = Random(seed)
    streams, others = answers()
    by_route = {route: [each for each in streams if each.path == route] for route in ROUTES}
    for number in range(count):
        is_stream = rng.random() < 0.75
        exchange = rng.choice(by_route[rng.choice(ROUTES)] if is_stream else others)
        how = rng.choice([How.RESET, How.FIN, How.FIN, How.STALL, How.CLEAN, How.RESET, How.WHOLE])
        cut = Cut(
            number,
            exchange,
            rng.choice(list(Framing)),
            how,
            0,
            version=rng.choice(["1.1"] * 9 + ["1.0"]),
            keep_alive=rng.random() < 0.3,
        )
        size = len(exchange.answer) if how is How.CLEAN else len(cut.on_the_wire)
        cut = replace(cut, at=_place(size, rng))
        yield replace(cut, pause_at=_breath(cut, rng))


def _place(size: int, rng: Random) -> int:
    """Anywhere, and often near the end, where what decides is said."""
    return rng.randint(max(0, size - 90), size) if rng.random() < 0.4 else rng.randint(0, size)


def _breath(cut: Cut, rng: Random) -> int:
    """Mostly after one of the first records of a stream, so that it is being passed on when it breaks off."""
    dice = rng.random()
    if dice < 0.2:
        return 0
    if dice < 0.4 or not cut.is_stream:
        return rng.randint(0, len(cut.sent))
    wire = cut.on_the_wire
    begin = wire.index(b"\r\n\r\n") + 4
    whole_records = [match.end() for match in _RECORD_END[cut.dialect].finditer(wire, begin)]
    return rng.choice(whole_records[:4] or [0])


_RECORD_END: Final = dict.fromkeys(Dialect, re.compile(rb"\n\n")) | {Dialect.OLLAMA: re.compile(rb"\}\n")}


# The server


@dataclass
class Breaking:
    """A server with all the models of the recordings in memory, that answers as the cuts say.

    Which of them a request is about its User-Agent tells. `cuts` are those of now.
    """

    cuts: dict[int, Cut] = field(default_factory=dict)
    port: int = 0
    spares: Callable[[Cut], bool] = lambda _: False
    """Which are not broken off after all."""
    asked: list[int] = field(default_factory=list)

    async def script(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            request = await read_request(reader)
            method, path, _ = request.split(b" ", 2)
            if method == b"GET":
                writer.write(look(path))
                continue
            found = re.search(rb"user-agent: cut/(\d+)", request, re.IGNORECASE)
            assert found is not None
            cut = self.cuts[int(found[1])]
            self.asked.append(cut.number)
            if not await self._answer(cut, writer):
                return

    async def _answer(self, cut: Cut, writer: asyncio.StreamWriter) -> bool:
        """Whether the connection goes on."""
        cut = replace(cut, how=How.WHOLE) if self.spares(cut) else cut
        sent = cut.sent
        writer.write(sent[: cut.pause_at])
        if cut.pause_at:
            await asyncio.sleep(BREATH_S)
        writer.write(sent[cut.pause_at :])
        if cut.how in (How.WHOLE, How.CLEAN) and cut.framing is not Framing.UNTIL_CLOSE:
            return True
        if cut.how is How.STALL:
            await asyncio.sleep(STALL_S)
        if cut.how is How.RESET:
            handle = writer.get_extra_info("socket")
            handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


@contextlib.asynccontextmanager
async def breaking() -> AsyncIterator[Breaking]:
    server = Breaking()
    async with serving(server.script) as server.port:
        yield server


def look(path: bytes) -> bytes:
    """What an engine answers to a node that looks what it has and runs: every model, in memory."""
    body = _LOOKS[path.decode()]
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _rows() -> list[dict[str, object]]:
    names = sorted({inspect(each.path, each.body).model_text for part in answers() for each in part})
    return [
        {"name": name, "model": name, "size": 1000, "digest": f"{number:064x}", "context_length": 4096}
        for number, name in enumerate(names)
    ]


_LOOKS: Final = {
    "/api/version": b'{"version":"0.33.0-rc2"}',
    "/api/tags": json.dumps({"models": _rows()}).encode(),
    "/api/ps": json.dumps({"models": _rows()}).encode(),
}


# The caller


@dataclass(frozen=True)
class Got:
    """What the caller received, and what it can tell of how it ended."""

    status: int
    headers: dict[str, str]
    body: bytes
    is_clean: bool
    """The transport says that this is all."""


class Caller(asyncio.Protocol):
    """Sends one request and takes what comes until it is over."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._transport: asyncio.Transport | None = None
        self._data = b""
        self.got: asyncio.Future[Got | None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        got = self._read(closed=False)
        if got is not None and got.is_clean:
            self._finish(got)

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(self._read(closed=exc is None))

    def _finish(self, got: Got | None) -> None:
        if not self.got.done():
            self.got.set_result(got)
        if self._transport is not None:
            self._transport.close()

    def _read(self, *, closed: bool) -> Got | None:
        head, end, body = self._data.partition(b"\r\n\r\n")
        if not end:
            return None
        first, *lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            body, is_clean = _unchunked(body)
        elif "content-length" in headers:
            is_clean = len(body) == int(headers["content-length"])
        else:
            is_clean = closed
        return Got(int(first.split()[1]), headers, body, is_clean)


async def call(port: int, cut: Cut) -> Got | None:
    """What the caller gets that asks for the answer of ``cut``; None where it is no answer."""
    loop = asyncio.get_running_loop()
    transport, caller = await loop.create_connection(lambda: Caller(cut.version), "127.0.0.1", port)
    body = cut.exchange.body
    connection = "keep-alive" if cut.keep_alive else "close"
    head = (
        f"POST {cut.exchange.path} HTTP/{cut.version}\r\nHost: 127.0.0.1\r\nUser-Agent: cut/{cut.number}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: {connection}\r\n\r\n"
    )
    transport.write(head.encode() + body)
    try:
        async with asyncio.timeout(30.0):
            return await caller.got
    finally:
        transport.abort()


# What is to be found


def complaint(cut: Cut, got: Got | None, *, may_move: bool = False) -> str:
    """What is wrong with what the caller got, empty where nothing is. ``may_move``: another place answers."""
    if got is None:
        return "no answer at all"
    truth = cut.exchange.answer
    if got.status != 200:
        return _complaint_of_refusal(cut, got, may_move=may_move)
    if got.is_clean:
        wanted = got.body == truth if cut.is_stream else got.body.rstrip() == truth.rstrip()
        if not wanted:
            return f"a clean end after {len(got.body)} of {len(truth)} bytes: {got.body[-80:]!r}"
        return "" if cut.is_whole or may_move else "whole although it was cut"
    if cut.is_whole:
        return "broken off although it was whole"
    return _complaint_of_torso(cut, got.body)


def _complaint_of_refusal(cut: Cut, got: Got, *, may_move: bool) -> str:
    if may_move:
        return f"refused with {got.status} although another place would have answered"
    if cut.is_whole:
        return f"refused with {got.status} although it was whole"
    if got.status not in (502, 503, 504) or not got.is_clean:
        return f"refused with {got.status}, {'clean' if got.is_clean else 'unclean'}"
    return "" if _is_error(cut.dialect, got.body) else f"no error of its dialect: {got.body!r}"


def _complaint_of_torso(cut: Cut, body: bytes) -> str:
    sent, truth = cut.body_sent, cut.exchange.answer
    if not cut.is_stream:
        return f"an object was begun and broken off: {body[-80:]!r}"
    for newlines in range(3):
        for told in _in_band(cut.dialect):
            match = re.search(rb"\n{%d}" % newlines + told + rb"\Z", body)
            if match and body[: match.start()] == sent and _is_error(cut.dialect, _json_of(match[0])):
                completed = body.startswith(truth)
                return "the error before the end completes the end mark" if completed else ""
    lacks_line_ends_only = truth.rstrip(b"\n") == sent.rstrip(b"\n")
    if body == sent:
        return "" if lacks_line_ends_only else "not told in band"
    return f"neither what came nor that and an error: {body[-200:]!r} of {sent[-80:]!r}"


def _in_band(dialect: Dialect) -> tuple[bytes, ...]:
    match dialect:
        case Dialect.OLLAMA:
            return (rb'\{"error":[^\n]*\}\n',)
        case Dialect.OPENAI:
            return (rb'data: \{"error":[^\n]*\}\n\n',)
    return (rb'event: error\ndata: \{"type":"error"[^\n]*\}\n\n', rb"event: error\ndata: \{[^\n]*\}\n\n")


def _json_of(told: bytes) -> bytes:
    return told[told.index(b"{") :].strip()


def _is_error(dialect: Dialect, body: bytes) -> bool:
    document = json.loads(body)
    error = document.get("error")
    if dialect is Dialect.OLLAMA:
        return isinstance(error, str) and bool(error)
    if dialect is Dialect.ANTHROPIC and document.get("type") != "error":
        return False
    return isinstance(error, dict) and bool(error.get("message")) and bool(error.get("type"))
