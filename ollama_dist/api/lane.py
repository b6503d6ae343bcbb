"""The short way of ordinary requests: a head like others before it, its body with it, one after the other.

aiohttp's server can do all that HTTP can, and each request pays for it. A connection begins here, and is
handed to aiohttp, for good and with the very bytes that came, as soon as anything about it is out of the
ordinary: so limits, refusals and slow senders are treated in one place, and here nothing is refused.
"""

import asyncio
import re
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import structlog
from aiohttp import web
from aiohttp.tcp_helpers import tcp_keepalive

from ollama_dist.api.heads import HEADS_KEPT, LARGEST_KEPT, RequestHead, head_of
from ollama_dist.api.responses import Header, Response, Streamed, refused
from ollama_dist.wire.relay_headers import REQUEST_ID

log = structlog.get_logger()

LARGEST_HEAD: Final = 8000
LARGEST_BODY: Final = 256 * 1024
"""Bytes of a request that is taken here."""

HOLD_S: Final = 0.25
"""How long the rest of a body is waited for here: many clients send head and body one after the other."""

_REQUEST_LINE: Final = re.compile(rb"(GET|POST) (/[A-Za-z0-9/._:@-]*) HTTP/1\.1")
_FIELD: Final = re.compile(rb"([A-Za-z0-9_-]+):[ ]?([\t\x20-\x7e]*)")
_MOST_FIELDS: Final = 64
_NAME: Final = f"\r\n{REQUEST_ID}: ".encode()

_NOT_HERE: Final = frozenset(
    {"content-length", "expect", "http2-settings", "te", "trailer", "transfer-encoding", "upgrade"}
)
"""Fields of a head that is not taken here. The length of the body, if said once, was taken out before."""

_SECRET: Final = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key"})
"""Fields of a head that is not remembered."""

_CONNECTION: Final = {"": True, "keep-alive": True, "close": False}
"""What may be said of the connection: whether another request may follow."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """What a head says, and where it leads."""

    method: str
    target: str
    head: RequestHead
    api_key: str
    authorization: str
    keeps_alive: bool
    way: Any
    """What `Ways.find` found."""


class Ways(Protocol):
    """Who answers what comes in here."""

    @property
    def names_requests(self) -> bool:
        """Whether requests may be named in `REQUEST_ID`, which stands last but for the length of the body."""
        ...

    def find(self, method: str, target: str, head: RequestHead) -> Any:
        """Where a request leads, as follows from these; None for one that is not to be answered here."""
        ...

    def answer(self, request: "ShortRequest", way: Any) -> Awaitable[web.StreamResponse]: ...


class Owner(Protocol):
    """The server."""

    head_s: float
    keep_alive_s: float
    is_stopping: bool
    lanes: set["Lane"]

    def enter(self, transport: asyncio.BaseTransport) -> str | None:
        """The address the connection comes from; None for one too many, which is closed."""
        ...

    def leave(self, address: str) -> None: ...

    def hand_over(self, transport: asyncio.Transport, address: str, data: bytes) -> None:
        """Have aiohttp go on with a connection on which ``data`` came."""
        ...


class Heads:
    """Reads heads, each once for all that are alike but for the length of the body."""

    def __init__(self, ways: Ways) -> None:
        self.answer = ways.answer
        self._find = ways.find
        self._names_requests = ways.names_requests
        self._known: dict[tuple[bytes, bytes], Known] = {}

    def read(self, data: bytes) -> tuple[Known, int, bytes, str] | None:
        """The head at the beginning of ``data``, how much of its body is missing, what came of it, its name.

        None for what is not to be taken here.
        """
        head, end, body = data.partition(b"\r\n\r\n")
        before, said, after = head.partition(b"\r\nContent-Length: ")
        if not said:
            before, said, after = head.partition(b"\r\ncontent-length: ")
        digits, _, after = after.partition(b"\r\n")
        missing = 0
        if digits != b"%d" % len(body):
            if said and (not digits.isdigit() or len(digits) > 6):
                return None
            missing = int(digits or b"0") - len(body)
        if not end or len(body) + missing > LARGEST_BODY:
            return None
        name = b""
        if self._names_requests:
            before, named, name = before.partition(_NAME)
            if named and not name.isalnum():  # so it was the last line
                return None
        known = self._known.get((before, after))
        if known is None:
            known = self._read(before, after) if len(head) <= LARGEST_HEAD else None
            if known is None:
                return None
        return known, missing, body, name.decode()

    def _read(self, before: bytes, after: bytes) -> Known | None:
        first, *lines = (before + b"\r\n" + after if after else before).split(b"\r\n")
        line = _REQUEST_LINE.fullmatch(first)
        found = [_FIELD.fullmatch(each) for each in lines]
        if line is None or None in found or len(found) > _MOST_FIELDS:
            return None
        fields = tuple((field[1], field[2].strip(b" \t")) for field in found if field is not None)
        said = {name.decode().lower(): value.decode() for name, value in fields}
        keeps_alive = _CONNECTION.get(said.get("connection", "").lower())
        if (
            keeps_alive is None
            or "host" not in said
            or len(said) != len(fields)
            or not _NOT_HERE.isdisjoint(said)
        ):
            return None
        head = head_of((1, 1), fields)
        method, target = line[1].decode(), line[2].decode()
        way = self._find(method, target, head) if head.refusal is None else None
        if way is None:
            return None
        known = Known(
            method,
            target,
            head,
            said.get("x-api-key", ""),
            said.get("authorization", ""),
            keeps_alive,
            way,
        )
        if _SECRET.isdisjoint(said) and len(before) + len(after) <= LARGEST_KEPT:
            while len(self._known) >= HEADS_KEPT:
                del self._known[next(iter(self._known))]
            self._known[before, after] = known
        return known


class ShortRequest:
    """A request that is here as a whole; see `heads.Incoming`."""

    __slots__ = ("_known", "api_key", "authorization", "head", "name", "protocol", "remote", "whole")

    version: Final = (1, 1)

    def __init__(self, known: Known, name: str, body: bytes, lane: "Lane") -> None:
        self._known = known
        self.head = known.head
        self.name = name
        self.api_key = known.api_key
        self.authorization = known.authorization
        self.remote = lane.address
        self.whole: bytes | None = body
        self.protocol = lane

    @property
    def method(self) -> str:
        return self._known.method

    @property
    def raw_path(self) -> str:
        return self._known.target

    @property
    def transport(self) -> asyncio.Transport | None:
        return self.protocol.transport

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written. Raises `ConnectionResetError`."""
        await self.protocol.drain()

    async def begin(
        self, status: int, headers: Sequence[Header], *, length: int | None, holds_head: bool
    ) -> Streamed:
        """An answer that is written as it comes."""
        return self.protocol.begin(status, headers, length=length, holds_head=holds_head)


class Lane(asyncio.Protocol):
    """One client's connection, as long as it is ordinary."""

    __slots__ = (
        "_drained",
        "_has_asked",
        "_has_used",
        "_heads",
        "_loop",
        "_owner",
        "_paused",
        "_rest_timer",
        "_stream",
        "_timer",
        "_waiting",
        "_waits_for",
        "address",
        "task",
        "transport",
    )

    def __init__(self, owner: Owner, heads: Heads, loop: asyncio.AbstractEventLoop) -> None:
        self._owner = owner
        self._heads = heads
        self._loop = loop
        self.transport: asyncio.Transport | None = None
        self.address = ""
        self.task: asyncio.Task[None] | None = None
        """Answers the request that is under way."""
        self._waiting = b""
        """What came while it is, or of a request whose body is not all there."""
        self._waits_for = 0
        """So many bytes of a request there must be."""
        self._rest_timer: asyncio.TimerHandle | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_asked = False
        self._has_used = False
        """A request was answered since this was looked at."""
        self._paused = False
        self._drained: asyncio.Future[None] | None = None
        self._stream: Streamed | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        address = self._owner.enter(transport)
        if address is None:
            return
        self.address, self.transport = address, cast(asyncio.Transport, transport)
        self._owner.lanes.add(self)
        tcp_keepalive(self.transport)
        self._timer = self._loop.call_later(self._owner.head_s, self._look_at_use)
        if self._owner.is_stopping:
            self._close()

    def data_received(self, data: bytes) -> None:
        if self.task is not None or self._paused:
            self._keep(data)
        elif self._waits_for:
            self._keep(data)
            if len(self._waiting) >= self._waits_for:
                self._take(self._taken())
        else:
            self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        if self.transport is None:
            return
        self.transport = None
        self._let_go()
        self._owner.leave(self.address)
        if self.task is not None:
            self.task.cancel()
        self.resume_writing()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)
        if self.task is None and self.transport is not None and not self.transport.is_closing():
            self._listen(self.transport)

    # What came

    def _keep(self, data: bytes) -> None:
        self._waiting += data
        if len(self._waiting) > LARGEST_BODY and self.task is not None and self.transport is not None:
            self.transport.pause_reading()

    def _taken(self) -> bytes:
        data, self._waiting, self._waits_for = self._waiting, b"", 0
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
        return data

    def _take(self, data: bytes) -> None:
        """Answer the request in ``data``, if that is what it is."""
        read = self._heads.read(data)
        if read is None:
            self._hand_over(data)
            return
        known, missing, body, name = read
        self._has_asked = True
        if not missing:
            self.task = self._loop.create_task(self._answer(known, name, body))
        elif missing > 0:
            self._waiting, self._waits_for = data, len(data) + missing
            self._rest_timer = self._loop.call_later(HOLD_S, self._rest_is_late)
        else:
            self._hand_over(data)

    def _rest_is_late(self) -> None:
        self._rest_timer = None
        self._hand_over(self._taken())

    def _hand_over(self, data: bytes) -> None:
        transport, self.transport = self.transport, None
        self._let_go()
        if transport is not None:
            self._owner.hand_over(transport, self.address, data)

    def _let_go(self) -> None:
        """Nothing more is done here."""
        self._owner.lanes.discard(self)
        self._taken()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at_use(self) -> None:
        """A timer that is set stays, and no clock is read, for both cost; it is looked what came meanwhile.

        So a connection may stay idle for up to twice as long as it would have to.
        """
        if self._has_used or self.task is not None or self._waits_for:
            self._has_used = False
            self._timer = self._loop.call_later(self._owner.keep_alive_s, self._look_at_use)
        else:
            self._timer = None
            if not self._has_asked:
                log.info("connection_closed", address=self.address, reason="no request in time")
            self._close()

    # Answering

    async def _answer(self, known: Known, name: str, body: bytes) -> None:
        keeps_alive = known.keeps_alive
        try:
            request = ShortRequest(known, name, body, self)
            del body  # it may be long, and so may the answer last
            response = await self._heads.answer(request, known.way)
            if isinstance(response, Response):
                keeps_alive = self._write(response, keeps_alive)
        except ConnectionError:
            self._abort()
        except asyncio.CancelledError:
            self._abort()
            raise
        except Exception:
            log.exception("no_request", address=self.address, status=500)
            keeps_alive = self._write(refused(500), keeps_alive)
        finally:
            self.task = None
        self._go_on(keeps_alive)

    def _write(self, response: Response, keeps_alive: bool) -> bool:
        if self._stream is not None:  # an answer that had begun was not ended: nothing may follow it
            self._abort()
            return False
        keeps_alive = keeps_alive and response.keep_alive is not False
        if (transport := self.transport) is not None:
            transport.write(response.said(keep_alive=keeps_alive))
        return keeps_alive

    def _go_on(self, keeps_alive: bool) -> None:
        transport, owner = self.transport, self._owner
        if transport is None or transport.is_closing():
            return
        if not keeps_alive or owner.is_stopping or self._stream is not None:
            transport.close()
            return
        self._has_used = True
        if self._paused:
            transport.pause_reading()  # until the client takes what it asked for
        elif self._waiting:
            self._listen(transport)

    def _listen(self, transport: asyncio.Transport) -> None:
        transport.resume_reading()
        if self._waiting:
            self._take(self._taken())

    def begin(
        self, status: int, headers: Sequence[Header], *, length: int | None, holds_head: bool
    ) -> Streamed:
        self._stream = Streamed(self._write_part, self._end_stream, status, headers, length)
        if not holds_head:
            self._stream.write_head()
        return self._stream

    def _write_part(self, data: bytes) -> None:
        if self.transport is None or self.transport.is_closing():
            raise ConnectionResetError("the client has left")
        self.transport.write(data)

    def _end_stream(self) -> None:
        self._stream = None

    async def drain(self) -> None:
        while self._paused and self.transport is not None:
            self._drained = self._loop.create_future()
            await self._drained
        if self.transport is None:
            raise ConnectionResetError("the client has left")

    # Ending

    def end(self) -> None:
        """Close once the request under way, if there is one, is answered."""
        if self.task is None:
            self._close()

    def _close(self) -> None:
        if self.transport is not None:
            self.transport.close()

    def _abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()
