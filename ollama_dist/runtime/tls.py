"""TLS between a TCP connection and whatever speaks over it, on the event loop.

Protocol and cryptography are the ``ssl`` module's; here is only the way of the bytes. Loops have such a way,
too, which can do more: turn an open connection to TLS, for one. This one takes less time for streams of small
pieces, and a connection on which nothing comes holds no buffer.
"""

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable
from typing import Any, Final, cast

READ_BYTES: Final = 32 * 1024
"""Taken from the network at once, so no more waits here for a protocol that takes nothing for now. Records
are half as long at most (RFC 8446 §5.1), so one that is read leaves nothing behind."""

RECORD_BYTES: Final = 16 * 1024
"""The most that one record carries; more is encrypted in several goes."""

HANDSHAKE_S: Final = 10.0
"""From a connection's beginning to the end of its handshake."""


class _Scratch(threading.local):
    """Where a loop puts what came; it is empty again before the loop reads anything else."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))


_SCRATCH: Final = _Scratch()


class Tls(asyncio.BufferedProtocol, asyncio.Transport):
    """The protocol of a TCP connection, and the transport of ``protocol`` from the handshake's end on.

    A buffered ``protocol`` has room for `READ_BYTES`, always the same. Back-pressure is the TCP connection's:
    what is written is encrypted at once, and reading pauses there. A connection that ends without TLS's own
    end, a ``close_notify``, is lost with an error.
    """

    __slots__ = (
        "_context",
        "_encrypt",
        "_failure",
        "_incoming",
        "_is_closed",
        "_is_made",
        "_is_paused",
        "_lower",
        "_object",
        "_open",
        "_outgoing",
        "_protocol",
        "_read",
        "_room",
        "_timer",
        "_updated",
        "_view",
        "_waiter",
        "get_write_buffer_size",
    )

    def __init__(
        self,
        protocol: asyncio.BaseProtocol,
        context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_name: str | None = None,
    ) -> None:
        super().__init__()
        self._context = context
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_name
        )
        # What is in it does the work; itself adds a call to each.
        inner: Any = getattr(self._object, "_sslobj", self._object)
        self._read, self._encrypt = inner.read, inner.write
        self._view = _SCRATCH.view
        self._lower: asyncio.Transport | None = None
        self._open: asyncio.Transport | None = None
        """The same for as long as something may be written."""
        self._timer: asyncio.TimerHandle | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        self._is_made = self._is_closed = False
        self._is_paused = False
        self.set_protocol(protocol)

    async def made(self) -> None:
        """Until the handshake is over; raises `OSError`, of which `ssl.SSLError` is one, where it failed."""
        if not self._is_made and self._failure is None:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._failure is not None:
            raise self._failure

    # asyncio.BufferedProtocol, for the TCP connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._lower = lower = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if not self._is_closed:
            self._open = lower
        self.get_write_buffer_size = lower.get_write_buffer_size  # type: ignore[method-assign]
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_S, self._handshake_is_late)
        self._shake_hands()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        self._incoming.write(self._view[:nbytes])
        if not self._is_made:
            self._shake_hands()
            if not self._is_made:
                return
        self._deliver()

    def eof_received(self) -> bool:
        self._failure = self._failure or ConnectionResetError("the connection ended without TLS's own end")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._lower = self._open = None
        self._stop_timer()
        self._failure = self._failure or exc
        if self._is_made:
            self._protocol.connection_lost(self._failure)
        self._failure = self._failure or ConnectionResetError("the connection is closed")
        self._wake()

    def pause_writing(self) -> None:
        if self._is_made:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._is_made:
            self._protocol.resume_writing()

    # The handshake

    def _shake_hands(self) -> None:
        try:
            self._object.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
        except ssl.SSLError as error:
            self._fail(error)
        else:
            self._flush()
            self._stop_timer()
            self._is_made = True
            self._protocol.connection_made(self)
            self._wake()

    def _handshake_is_late(self) -> None:
        self._fail(TimeoutError("the TLS handshake took too long"))

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # What comes

    # This and `write` are done for each piece of each stream: no step more than it takes.

    def _deliver(self) -> None:
        incoming, room = self._incoming, self._room
        try:
            while incoming.pending and not self._is_paused:
                if room is None:
                    if not (data := self._read(READ_BYTES)):
                        return self._end()
                    self._updated(data)
                elif not (count := self._read(READ_BYTES, room)):
                    return self._end()
                elif incoming.pending:
                    self._deliver_more(count)
                else:
                    self._updated(count)
        except ssl.SSLWantReadError:
            pass  # the rest of a record is still on its way
        except ssl.SSLZeroReturnError:
            return self._end()
        except ssl.SSLError as error:
            return self._fail(error)
        if self._outgoing.pending:  # the other side wants new keys
            self._flush()
        return None

    def _deliver_more(self, count: int) -> None:
        """What came with the first ``count`` bytes as well, as far as there is room: one piece, not several.

        Raises as reading does, when what was read has been delivered.
        """
        try:
            while self._incoming.pending and count <= READ_BYTES - RECORD_BYTES:
                if not (more := self._read(RECORD_BYTES, self._room[count:])):
                    raise ssl.SSLZeroReturnError
                count += more
        finally:
            self._updated(count)

    def _end(self) -> None:
        """The other side has ended it in due form."""
        self._protocol.eof_received()  # type: ignore[attr-defined]  # both kinds have it
        self.close()

    def _fail(self, failure: Exception) -> None:
        self._failure = self._failure or failure
        self._flush()  # an alert tells the other side why
        self.abort()

    def _flush(self) -> None:
        if self._lower is not None and self._outgoing.pending:
            self._lower.write(self._outgoing.read())

    # asyncio.Transport, for the protocol above

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if (lower := self._open) is None:
            return
        try:
            count = self._encrypt(data)
            if count >= RECORD_BYTES:
                while count < len(data):
                    count += self._encrypt(memoryview(data)[count:])
        except ssl.SSLError as error:
            self._fail(error)
            return
        lower.write(self._outgoing.read())

    def close(self) -> None:
        """End it in due form, once what was written has gone out; the other side's end is not waited for."""
        if self._lower is None or self._is_closed:
            return
        self._is_closed, self._open = True, None
        with contextlib.suppress(ssl.SSLError):  # it has said then what it had to
            self._object.unwrap()
        self._flush()
        self._lower.close()

    def abort(self) -> None:
        self._is_closed, self._open = True, None
        if self._lower is not None:
            self._lower.abort()

    def is_closing(self) -> bool:
        return self._is_closed or self._lower is None or self._lower.is_closing()

    def pause_reading(self) -> None:
        self._is_paused = True
        if self._lower is not None:
            self._lower.pause_reading()

    def resume_reading(self) -> None:
        if self._is_paused:
            self._is_paused = False
            asyncio.get_running_loop().call_soon(self._go_on)

    def _go_on(self) -> None:
        """Hand on what is here before more is read."""
        if self._lower is not None and not self._is_paused:
            self._deliver()
        if self._lower is not None and not self._is_paused:
            self._lower.resume_reading()

    def is_reading(self) -> bool:
        return not self._is_paused

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._lower is not None:
            self._lower.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol
        self._room: Any = None
        self._updated: Callable[[Any], None]
        if isinstance(protocol, asyncio.BufferedProtocol):
            self._room, self._updated = protocol.get_buffer(-1), protocol.buffer_updated
        else:
            self._updated = protocol.data_received  # type: ignore[attr-defined]  # a `asyncio.Protocol`

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "ssl_object":
                return self._object
            case "sslcontext":
                return self._context
        return default if self._lower is None else self._lower.get_extra_info(name, default)
