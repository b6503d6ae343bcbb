"""Sending an answer token by token, at its pace and with the faults it is to have."""

import asyncio
import contextlib
import socket
import struct

from aiohttp import web

from tests.support.fake_ollama.answers import Refused
from tests.support.fake_ollama.faults import Fault, Hang
from tests.support.fake_ollama.journal import Journal, Seen
from tests.support.fake_ollama.shapes import DEATH, Written

BUSY = "server busy, please try again.  maximum pending requests exceeded"
LOAD_FAILURE = "llama runner process has terminated: exit status 2"
REPEATS = 31
"""How often a token comes before the repeat guard ends an answer."""


class Broken(Exception):
    """The connection was broken on purpose."""


class Pace:
    """How long a token takes, and the gate where what hangs waits."""

    def __init__(self, tokens_per_s: float) -> None:
        self.tokens_per_s = tokens_per_s
        """0: as fast as it goes."""
        self._released = asyncio.Event()

    async def token(self, fault: Fault) -> None:
        if fault.token_s is not None:
            await asyncio.sleep(fault.token_s)
        elif self.tokens_per_s:
            await asyncio.sleep(1 / self.tokens_per_s)

    async def hang(self) -> None:
        """Until `release`."""
        await self._released.wait()

    def release(self) -> None:
        self._released.set()
        self._released = asyncio.Event()


async def before_answer(fault: Fault, pace: Pace) -> None:
    """What goes wrong before there is an answer; raises `Refused`."""
    if fault.delay_s:
        await asyncio.sleep(fault.delay_s)
    if fault.hang is Hang.ANSWER:
        await pace.hang()
    if fault.busy:
        raise Refused(503, BUSY)
    if fault.load_failure:
        raise Refused(500, LOAD_FAILURE)
    if fault.status is not None:
        raise Refused(fault.status, fault.message)


class Sending:
    """One answer on its way."""

    def __init__(self, request: web.Request, seen: Seen, fault: Fault, pace: Pace, journal: Journal) -> None:
        self._request = request
        self._seen = seen
        self._fault = fault
        self._pace = pace
        self._journal = journal
        self._response = web.StreamResponse()

    async def send(self, written: Written) -> web.StreamResponse:
        """Raises `Refused` for a death that is told in the status, `Broken` after a reset."""
        tokens, closing = self._with_faults(written)
        is_stream = written.repeat is not None or bool(written.opening or written.tokens)
        if not is_stream:
            for _ in range(max(1, written.weight)):
                await self._pace.token(self._fault)
            if self._fault.die:
                raise Refused(500, DEATH)
            self._response.content_length = sum(map(len, closing))
        self._response.headers["Content-Type"] = written.content_type
        if is_stream and self._seen.path in ("/v1/responses", "/v1/messages"):
            self._response.headers["Cache-Control"] = "no-cache"
        for opening in written.opening:
            await self._write(opening)
        for number, token in enumerate(tokens):
            if self._fault.hang is Hang.STREAM and number == self._fault.at_token:
                await self._pace.hang()
            await self._pace.token(self._fault)
            await self._write(token)
            self._seen.tokens_sent += 1
        if self._fault.reset:
            await self._reset()
        for part in closing:
            await self._write(part)
        await self._begin()
        self._seen.end = "died" if self._fault.die else "cut" if self._is_cut else "answered"
        await self._response.write_eof()
        return self._response

    @property
    def _is_cut(self) -> bool:
        return self._fault.cut or self._fault.repeat

    def _with_faults(self, written: Written) -> tuple[list[bytes], list[bytes]]:
        """The tokens and the closing bytes there will be."""
        until = written.tokens[: self._fault.at_token]
        if self._fault.repeat and written.repeat is not None:
            return [*until, *(written.repeat("q") for _ in range(REPEATS))], []
        if self._fault.die:
            return until, written.dying
        if self._fault.cut or self._fault.reset:
            return until, []
        return written.tokens, written.closing

    async def _write(self, data: bytes) -> None:
        await self._begin()
        at = self._fault.reset_at_byte
        if at is not None and self._seen.bytes_sent + len(data) >= at:
            data = data[: at - self._seen.bytes_sent]
        if data:
            await self._response.write(data)
            self._seen.bytes_sent += len(data)
        if self._seen.bytes_sent == at:
            await self._reset()

    async def _begin(self) -> None:
        if not self._response.prepared:
            self._seen.status = self._response.status
            await self._response.prepare(self._request)

    async def _reset(self) -> None:
        await self._begin()
        self._journal.close(self._seen, "reset")
        reset(self._request)
        raise Broken


def reset(request: web.Request) -> None:
    """Break the connection with a TCP reset; what was written before has gone out, or is lost."""
    transport = request.transport
    if transport is None:
        return
    handle = transport.get_extra_info("socket")
    with contextlib.suppress(OSError):
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
