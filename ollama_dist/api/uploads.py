"""A long body on its way to an engine: from the client's socket to the engine's, past parser and tasks."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Final, TypeGuard

from aiohttp.streams import StreamReader

from ollama_dist.api.bodies import PATIENCE_S, SLOWEST_BYTES_PER_S, TooSlow, ask_for_it
from ollama_dist.api.connections import Arrived
from ollama_dist.api.heads import Incoming
from ollama_dist.api.responses import Header
from ollama_dist.backends.http1 import Connection, Head, request_bytes
from ollama_dist.backends.upload import UploadConnection
from ollama_dist.core.errors import DistError, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from ollama_dist.runtime.splice import Splice, descriptor_of

LONG_BYTES: Final = 2**20
"""Bodies this long and longer go this way."""

BUFFER_BYTES: Final = 256 * 1024
"""What may be here of a body: as much as is read at once."""

SILENCE_S: Final = 120.0
"""An upload of which nothing comes, or nothing is taken, is given up: after so long at least, at most after
twice that."""

CONNECT_S: Final = 1.0
ANSWER_S: Final = 24 * 3600.0
"""From the end of the slowest body that is let pass to the answer."""


def is_long(request: Incoming) -> TypeGuard[Arrived]:
    """Whether the rest of the request's body can and should go past the parser."""
    return isinstance(request, Arrived) and (request.content_length or 0) >= LONG_BYTES


class Upload(asyncio.BufferedProtocol):
    """The protocol of a client's connection while the rest of a body comes, in place of ``behind``.

    What comes goes to ``engine``: past this process where the system can do that, else from the buffer it was
    read into; as long as some of it waits to be sent, nothing more is read. What comes when nobody wants it
    any more is read and dropped: a client may look for its answer only once it has sent all. Whatever else
    happens to the connection is told to ``behind``.
    """

    def __init__(
        self,
        behind: asyncio.Protocol,
        client: asyncio.Transport,
        body: StreamReader,
        engine: UploadConnection,
    ) -> None:
        self._behind = behind
        self._client = client
        self._body = body
        self._engine = engine
        self._buffer = memoryview(bytearray(BUFFER_BYTES))
        self._splice: Splice | None = None
        self._left = 0
        """Bytes that come by `buffer_updated`."""
        self._is_wanted = True
        self._loop = asyncio.get_running_loop()
        self._began = self._moved_at = self._loop.time()
        self._held_s = 0.0
        """For how long it was the engine that was waited for, and not the client."""
        self._held_at: float | None = None
        """Since when it is."""
        self._size = self._seen = 0
        """Bytes that are to come, and as many were to come at `_moved_at`, when it was looked."""
        self._timer: asyncio.TimerHandle | None = None
        self.trouble: DistError | None = None
        """Why it ended early, if it did: then the engine's connection is closed."""

    def begin(self, left: int) -> None:
        """Take the connection over, of which ``left`` bytes belong to the body."""
        self._left = self._size = self._seen = left
        if not left:
            return
        self._client.set_protocol(self)
        self._look()
        self._engine.on_drained = self._begin
        if self._engine.write(b""):
            self._begin()
        else:
            self._hold()

    def _begin(self) -> None:
        """What came before has gone out."""
        self._engine.on_drained = self._go_on
        client, engine = descriptor_of(self._client), self._engine.descriptor
        if client is not None and engine is not None:
            with suppress(OSError):  # else it goes the other way
                self._splice = Splice(client, engine, self._left, self._wait_for_engine, self._end_splice)
        if self._splice is None:
            self._go_on()
        else:
            self._wait_for_engine(False)
            self._client.pause_reading()

    def _end_splice(self) -> None:
        """All has gone that way, or it is to go on the other."""
        splice, self._splice = self._splice, None
        assert splice is not None
        self._left = splice.left
        if splice.is_refused:  # to write more would be noticed before what the engine said at last
            self._is_wanted = False
        self._go_on()
        if (rest := splice.stop()) and self._is_wanted and not self._engine.write(rest):
            self._hold()
        if not self._left:
            self._end()

    def drop(self) -> None:
        """Nobody wants more of it."""
        self._is_wanted = False
        self._stop_timer()
        if self._splice is not None:
            self._end_splice()
        self._go_on()

    def _end(self) -> None:
        self._stop_timer()
        self._body.feed_eof()  # for who waits for the rest of it before the connection is closed

    def _wait_for_engine(self, is_so: bool) -> None:
        now = self._loop.time()
        if is_so:
            self._held_at = now
        elif self._held_at is not None:
            self._held_s += now - self._held_at
            self._held_at = None

    def _hold(self) -> None:
        self._wait_for_engine(True)
        self._client.pause_reading()

    def _go_on(self) -> None:
        self._wait_for_engine(False)
        self._client.resume_reading()

    def _look(self) -> None:
        """Give up a side that does too little; else look again when it may have done so."""
        now = self._loop.time()
        left = self._left if self._splice is None else self._splice.left
        if left != self._seen:
            self._seen, self._moved_at = left, now
        due = self._moved_at + SILENCE_S
        if self._held_at is None:
            patience = PATIENCE_S + (self._size - left) / SLOWEST_BYTES_PER_S
            due = min(due, self._began + self._held_s + patience)
        if due > now:
            self._timer = self._loop.call_at(due, self._look)
            return
        if self._held_at is None:
            self.trouble = TooSlow("the body came in too slowly")
        else:
            self.trouble = UpstreamTimeout("this node's engine takes nothing more of the body")
        self._engine.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # asyncio.BufferedProtocol

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        count = min(nbytes, self._left)
        if not count:
            return
        self._left -= count
        if self._is_wanted and not self._engine.write(self._buffer[:count]):
            self._hold()
        if not self._left:
            self._end()

    def eof_received(self) -> bool | None:
        return self._behind.eof_received()

    def pause_writing(self) -> None:
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        self._behind.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._is_wanted = False
        if self._splice is not None:
            self._end_splice()
        self._stop_timer()
        if self._left:
            self._engine.close()  # it stops working for who is gone
        self._behind.connection_lost(exc)


@asynccontextmanager
async def uploaded(
    request: Arrived, origin: str, path: str, headers: Sequence[Header]
) -> AsyncIterator[tuple[Connection, Head]]:
    """The head of the engine's answer, which may come before the body is over, and what the rest comes by.

    ``origin`` is ``http://host:port``. Raises `UpstreamFailed` when there is no answer, `TooSlow`, and
    `ConnectionResetError` when the client has left.
    """
    authority = origin.removeprefix("http://")
    engine = await _connected(authority)
    upload = None
    try:
        ask_for_it(request)
        body, length = request.content, request.content_length or 0
        upload = Upload(*request.taken_over(), body, engine)
        beginning = body.read_nowait()
        engine.send(request_bytes(request.method, path, authority, headers, beginning, length))
        upload.begin(length - body.total_bytes)
        slowest_s = length / SLOWEST_BYTES_PER_S
        head = await engine.head(asyncio.get_running_loop().time() + slowest_s + ANSWER_S)
        yield engine, head
    except UpstreamFailed as failure:
        if upload is not None and upload.trouble is not None:
            raise upload.trouble from failure
        raise
    finally:
        engine.close()
        if upload is not None:
            upload.drop()


async def _connected(authority: str) -> UploadConnection:
    host, _, port = authority.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(CONNECT_S):
            _, engine = await loop.create_connection(UploadConnection, host.strip("[]"), int(port))
    except OSError as error:  # a timeout is one
        refused = UpstreamRefused(str(error))
        refused.is_sent = False
        raise refused from error
    return engine
