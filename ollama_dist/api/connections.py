"""Connections of clients: how many there may be, how long a head may take, and words for what is no request.

aiohttp has a limit for neither, and tells whoever sends what is no HTTP more than Go's server would.
"""

import asyncio
import ipaddress
import ssl
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http import HttpVersion10, RawRequestMessage
from aiohttp.streams import StreamReader
from aiohttp.web_protocol import RequestHandler

from ollama_dist.api.bodies import BrokenBody
from ollama_dist.api.heads import Request, head_of
from ollama_dist.api.lane import Heads, Lane, Ways
from ollama_dist.api.responses import refused
from ollama_dist.runtime.tls import Tls

log = structlog.get_logger()

HEAD_S: Final = 10.0
"""From a connection's beginning, or the first byte of a further request, to the end of its head."""

CONNECTIONS: Final = 10_000
CONNECTIONS_PER_ADDRESS: Final = 256
"""From one address; programs on this machine, a proxy for one, only count for all."""


HIGH_WATER_BYTES: Final = 64 * 1024
"""Bytes waiting for a slow client beyond which we wait for it before reading more. Loops have it so by
themselves, but for connections with TLS, which may hold eight times as much."""


class Gate:
    """Counts connections by the address they come from."""

    def __init__(self, most: int = CONNECTIONS, most_per_address: int = CONNECTIONS_PER_ADDRESS) -> None:
        self._most = most
        self._most_per_address = most_per_address
        self._open: Counter[str] = Counter()
        self.inside = 0
        """Connections in all."""

    def enter(self, address: str) -> bool:
        """Whether one more may come in; it is counted until it leaves."""
        if self.inside >= self._most:
            return False
        if self._open[address] >= self._most_per_address and not _is_here(address):
            return False
        self._open[address] += 1
        self.inside += 1
        return True

    def leave(self, address: str) -> None:
        self.inside -= 1
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


class Arrived(Request):
    """A request that came by one of the connections here."""

    def taken_over(self) -> tuple["Connection", asyncio.Transport]:
        """The connection and its transport, for who takes the rest of the body past the parser.

        No request follows on it: the parser would take what comes for the rest of the body. Raises
        `ConnectionResetError` when the client has left.
        """
        connection = self.protocol
        assert isinstance(connection, Connection)
        if connection.transport is None:
            raise ConnectionResetError("the client left before its body came")
        self._message = self._message._replace(should_close=True)
        return connection, connection.transport


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: RequestHandler,
    writer: AbstractStreamWriter,
    task: "asyncio.Task[None]",
) -> Request:
    """The last request on its connection where what follows it could not be told from it.

    The parser takes the trailers of a chunked body for headers of the next request; and it drops what follows
    a wish for another protocol, which nobody here speaks.
    """
    head = head_of(message.version, message.raw_headers)
    if message.chunked or message.upgrade:
        message = message._replace(should_close=True)
    if head.refusal == HTTPStatus.HTTP_VERSION_NOT_SUPPORTED:
        message = message._replace(version=HttpVersion10)  # the answer is written in it
    request = Arrived(message, payload, protocol, writer, task, asyncio.get_running_loop())
    request.head = head
    return request


class Server(web.Server):
    """aiohttp's, with a `Gate` before it. ``head_s`` is how long a head may take; ``tls`` secures all."""

    def __init__(
        self,
        *arguments: Any,
        gate: Gate | None,
        head_s: float,
        tls: ssl.SSLContext | None = None,
        ways: Ways | None = None,
        keep_alive_s: float,
        **more: Any,
    ) -> None:
        super().__init__(*arguments, request_factory=_request, keepalive_timeout=keep_alive_s, **more)
        self.gate = gate
        self.head_s = head_s
        self.keep_alive_s = keep_alive_s
        self._tls = tls
        self.lanes: set[Lane] = set()
        self.heads = Heads(ways) if ways is not None else None
        self.is_stopping = False

    def __call__(self) -> "Connection":
        """The protocol of a new connection."""
        # For whoever accepts connections one protocol is as good as another.
        speaks = self._connection() if self.heads is None else Lane(self, self.heads, self._loop)
        return cast(Connection, speaks if self._tls is None else Tls(speaks, self._tls, server_side=True))

    def _connection(self) -> "Connection":
        return Connection(self, loop=self._loop, **self._kwargs)

    def enter(self, transport: asyncio.BaseTransport) -> str | None:
        """The address of a new connection; None for one too many, which is closed."""
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if self.gate is not None and not self.gate.enter(address):
            log.warning("connection_refused", address=address, reason="too many connections")
            assert isinstance(transport, asyncio.Transport) or hasattr(transport, "abort")
            transport.abort()
            return None
        return address

    def leave(self, address: str) -> None:
        if self.gate is not None:
            self.gate.leave(address)

    def hand_over(self, transport: asyncio.Transport, address: str, data: bytes) -> None:
        connection = self._connection()
        transport.set_protocol(connection)
        connection.begin(transport, address)
        connection.data_received(data)

    def pre_shutdown(self) -> None:
        self.is_stopping = True
        super().pre_shutdown()
        for lane in list(self.lanes):
            lane.end()

    async def shutdown(self, timeout: float | None = None) -> None:
        """What is under way has ``timeout`` seconds to end."""
        tasks = [lane.task for lane in self.lanes if lane.task is not None]
        await asyncio.gather(super().shutdown(timeout), _ended(tasks, timeout))


class Connection(RequestHandler):
    """One client's connection."""

    __slots__ = ("_address", "_head_timer", "_last_body", "_server")

    def __init__(self, server: Server, **more: Any) -> None:
        super().__init__(server, **more)
        self._server = server
        self._address: str | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._last_body: StreamReader | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        address = self._server.enter(transport)
        if address is None:
            self._manager = None  # connection_lost then has nothing to take back
        else:
            self.begin(transport, address)

    def begin(self, transport: asyncio.BaseTransport, address: str) -> None:
        """Go on with a connection that was let in."""
        self._address = address
        super().connection_made(transport)
        if self.transport is not None:
            self.transport.set_write_buffer_limits(HIGH_WATER_BYTES)
        if self._keepalive_handle is not None:  # aiohttp's for who sends nothing: our timer is due before
            self._keepalive_handle.cancel()
            self._keepalive_handle = None
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        if self._manager is None:
            return
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._head_came()
            self._end_broken_body()
        elif self._head_timer is None and self._current_request is None and not self._messages:
            self._expect_head()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp wants it after each piece of a body, and then looks for what was held back: rare."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def _end_broken_body(self) -> None:
        """Tell whoever reads a body that what came is no part of one: the parser keeps it for the next."""
        message, body = self._messages[-1]
        if isinstance(message, RawRequestMessage):
            self._last_body = body
        elif self._last_body is not None and not self._last_body.is_eof():
            self._last_body.set_exception(BrokenBody("the body is not framed as it says"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_came()
        if self._address is not None:
            self._server.leave(self._address)
            self._address = None
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no request, and what we failed to answer."""
        del message  # tells of parsers and bytes
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        tell = log.exception if status >= 500 else log.info
        tell("no_request", address=request.remote, status=status, error=str(exc)[:200])
        return refused(status)

    def _expect_head(self) -> None:
        loop = asyncio.get_running_loop()
        self._head_timer = loop.call_later(self._server.head_s, self._head_is_late)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        log.info("connection_closed", address=self._address, reason="no request in time")
        self.force_close()


async def _ended(tasks: Sequence["asyncio.Task[None]"], within_s: float | None) -> None:
    """Wait for ``tasks``, and end those that take longer."""
    if not tasks:
        return
    _, late = await asyncio.wait(tasks, timeout=within_s)
    for task in late:
        task.cancel()
    await asyncio.gather(*late, return_exceptions=True)


def _is_here(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return True  # no address at all: a socket of this machine
