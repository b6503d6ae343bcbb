"""One HTTP/1.1 connection to an engine or a peer: requests go out whole, answers come in as they arrive.

Written for the relay, where the cost per chunk counts and where it must be known whether an answer ended
as its framing promised or merely stopped. Parsing is llhttp's (through httptools).
"""

import asyncio
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any, Final, cast

import httptools

from ollama_dist.backends.whole import whole_answer
from ollama_dist.core.errors import UpstreamCut, UpstreamFailed, UpstreamRefused, UpstreamTimeout
from ollama_dist.core.values import value

MAX_HEAD_BYTES: Final = 64 * 1024
"""An answer whose head is longer is refused: no engine needs it, and it must not grow without bound."""

HIGH_WATER_BYTES: Final = 32 * 1024
"""Unread bytes of one answer at which reading from the network pauses."""

READ_BYTES: Final = 32 * 1024
"""Taken from the network at once: loops left to themselves take eight times as much, past any high water."""

TELL_BYTES: Final = 4 * 1024
"""What runs through is told of in portions of about so much, for a call for each piece costs more."""

_TICK_S: Final = 0.001
"""Clocks of event loops are no finer: a timer may be early by so much."""

_LOOKS: Final = 8
"""How often in the time that may pass in silence it is looked whether something ran through meanwhile: by so
much of it silence is noticed late at most."""

_NEVER: Final = float("inf")

_QUICKACK: Final[int | None] = getattr(socket, "TCP_QUICKACK", None)
"""Linux has it: see tcp(7)."""

Header = tuple[str, str]

OnInterim = Callable[["Head"], None]
"""Hears of each answer with a status below 200, which is not the last."""

Sink = Callable[[bytes], bool]
"""Takes bytes at once and must not raise; False: these are taken, but no more for now."""


@value(frozen=True, slots=True)
class Head:
    """The status line and headers of an answer; header names are lower case."""

    status: int
    headers: tuple[Header, ...]
    worked_out: dict[Any, Any] | None = field(default=None, compare=False)
    """For what follows from the headers but their length: of a head that is like others before it."""

    def get(self, name: str) -> str | None:
        """The first value of the header ``name`` (lower case)."""
        for header, said in self.headers:
            if header == name:
                return said
        return None


_TAKEN: Final = Head(0, ())
"""Stands for a head that was handed over."""


def request_bytes(
    method: str, path: str, host: str, headers: Sequence[Header], body: bytes, length: int | None = None
) -> bytes:
    """A complete request in wire form; the framing is ours, whatever the caller's was.

    Values of headers are what aiohttp makes of a client's bytes, and become the same bytes again. Where
    ``length`` is given ``body`` is the beginning of one of so many bytes.
    """
    lines = [f"{method} {path} HTTP/1.1\r\nHost: {host}", *map(": ".join, headers), "\r\n"]
    if body or length or method not in ("GET", "HEAD"):
        lines[-1] = f"Content-Length: {len(body) if length is None else length}\r\n\r\n"
    return "\r\n".join(lines).encode("utf-8", "surrogateescape") + body


def _is_framed(head: Head) -> bool:
    """Whether the head says itself where the body ends; else the connection's end does."""
    return head.get("content-length") is not None or head.get("transfer-encoding") is not None


_NO_HTTP: Final = (httptools.HttpParserError, httptools.HttpParserCallbackError)
"""What the parser raises."""


class _Scratch(threading.local):
    """Where a loop puts what it has read; it is empty again before the loop reads anything else."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(READ_BYTES))


_SCRATCH: Final = _Scratch()


def _parse_nothing(data: memoryview) -> None:
    """Stands for a parser where there is none."""


class Connection(asyncio.BufferedProtocol):
    """A connection that carries one exchange after another.

    ``verify`` is called with the transport before anything is sent and may raise to refuse the other side.
    After `send`, await `head`, then `read` until it returns ``b""``; then `is_reusable` tells whether another
    exchange may follow. Between two reads `pour` may let the body run into a sink. `close` ends it at any
    time, without waiting, and frees the upstream's work.
    """

    __slots__ = (
        "_body",
        "_complaint",
        "_complete",
        "_deadline",
        "_failure",
        "_has_asked",
        "_head",
        "_head_bytes",
        "_headers",
        "_hear",
        "_interim",
        "_is_parsed",
        "_keep_alive",
        "_parse",
        "_parser",
        "_paused",
        "_poured",
        "_refusal",
        "_seen",
        "_silence",
        "_sink",
        "_tell_at",
        "_timer",
        "_timer_at",
        "_transport",
        "_until_close",
        "_untold",
        "_verify",
        "_view",
        "_waiter",
        "exchanges",
        "loop",
        "on_body",
        "on_interim",
    )

    def __init__(self, verify: Callable[[asyncio.Transport], None] | None = None) -> None:
        self._verify = verify
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._refusal: Exception | None = None
        self._deadline = 0.0
        self._complaint = ""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self.loop = asyncio.get_running_loop()
        """Kept, for to ask for it costs a system call."""
        self._view = _SCRATCH.view
        self._sink: Sink | None = None
        self._hear: Callable[[bytes], None] | None = None
        self._untold: list[bytes] = []
        """What ran through and was not told of."""
        self._silence = 0.0
        self._poured = self._seen = self._tell_at = 0
        """Bytes that have run through with their frames; as many had at the last look; when to tell."""
        self._parser: httptools.HttpResponseParser | None = None
        self._parse: Callable[[memoryview], None] = _parse_nothing
        self._complete = False
        self._has_asked = False
        """A request was sent, and no byte of its answer has come in."""
        self._is_parsed = True
        """The last answer left more behind than one that came in one piece."""
        self._body: list[bytes] = []
        self.on_body = self._body.append
        """The parser's way to us, for each piece."""
        self.exchanges = 0
        """How many exchanges were begun on this connection."""
        self._reset()

    def _reset(self) -> None:
        if self._parser is None or not self._complete:  # after a whole answer it is ready for the next
            self._parser = httptools.HttpResponseParser(self)
            self._parse = self._parser.feed_data
        self._headers: list[Header] = []
        self._head: Head | None = None
        self._head_bytes = 0
        self._interim = False
        self._body.clear()
        self._complete = False
        self._keep_alive = False
        self._until_close = False
        self._paused = False
        self._failure: UpstreamFailed | None = None
        self.on_interim: OnInterim | None = None

    # What its owner does with it

    def send(self, data: bytes) -> None:
        """Begin an exchange: write a whole request (see `request_bytes`).

        Raises `UpstreamRefused` if the connection is already gone.
        """
        if self._is_parsed:
            self._reset()
        else:
            self._complete, self._head, self.on_interim = False, None, None
        self.exchanges += 1
        self._has_asked, transport = True, self._transport
        if transport is None or transport.is_closing():
            raise UpstreamRefused("the connection is closed")
        transport.write(data)

    @property
    def answered(self) -> bool:
        """Whether a byte of the current answer has come in."""
        return not self._has_asked

    async def head(self, deadline: float) -> Head:
        """The head of the answer, waited for until ``deadline`` (loop time); to be asked for once.

        Raises `UpstreamTimeout`, `UpstreamRefused` (closed before any answer) or `UpstreamFailed` (no HTTP).
        """
        while self._head is None:
            if self._failure is not None:
                raise self._failure
            await self._wait(deadline, "no answer in time")
        head, self._head = self._head, _TAKEN  # an answer may last, and nobody needs its head for so long
        return head

    async def read(self, deadline: float) -> bytes:
        """What has come in of the body, at least one byte; ``b""`` at its end as its framing announced it.

        Raises `UpstreamCut` when it broke off and `UpstreamTimeout` when nothing came until ``deadline``.
        """
        while not self._body:
            if self._complete:
                return b""
            if self._failure is not None:
                raise self._failure
            self._resume()
            await self._wait(deadline, "the answer stalled")
        data = self._take_body()
        self._resume()
        return data

    async def pour(self, sink: Sink, hear: Callable[[bytes], None], silence: float) -> None:
        """Let the body run into ``sink`` in the moment it comes in, with nobody woken for it.

        Until the sink has enough, nothing came for ``silence`` seconds, or the answer is over, whichever way:
        how, and what came last of it, `read` tells, which also has what came before. Of what ran through
        ``hear`` has been told by then.
        """
        if self._body or self._complete or self._failure is not None:
            return
        self._sink, self._hear, self._silence = sink, hear, silence
        self._resume()
        try:
            now = self.loop.time()
            await self._wait(now + silence, "the answer stalled", look_at=now + silence / _LOOKS)
        finally:
            self._tell()
            self._sink = self._hear = None

    @property
    def is_read(self) -> bool:
        """Whether the answer is over, as its framing announced, and all of its body was read."""
        return self._complete and not self._body

    def rest(self) -> bytes | None:
        """All that was not read of the body, where the answer is over as its framing announced; else None."""
        if not self._complete:
            return None
        data = self._take_body()
        if self._paused:
            self._resume()
        return data

    @property
    def is_reusable(self) -> bool:
        """Whether the exchange is over and the other side keeps the connection open."""
        transport = self._transport
        is_over = self._complete and self._keep_alive and not self._body
        return is_over and transport is not None and not transport.is_closing()

    @property
    def is_open(self) -> bool:
        transport = self._transport
        return transport is not None and not transport.is_closing()

    def close(self) -> None:
        """Drop the connection now; the other side sees it at once and stops working for us."""
        self._until_close = False  # an end of our making says nothing of the answer's
        if self._transport is not None:
            self._transport.abort()

    def _take_body(self) -> bytes:
        body = self._body
        if len(body) == 1:
            return body.pop()
        data = b"".join(body)
        body.clear()
        return data

    @property
    def _buffered(self) -> int:
        """Bytes of the body that nobody took yet."""
        return sum(map(len, self._body))

    def _pause(self) -> None:
        if not self._paused and self.is_open:
            assert self._transport is not None
            self._paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()

    def _wait(self, deadline: float, complaint: str, look_at: float = _NEVER) -> asyncio.Future[None]:
        """Done when something comes in; at ``deadline`` the exchange fails with ``complaint``.

        Making a timer costs as much as passing a chunk on. So one that is set stays, whatever comes in, and
        looks how late it may become once it is due, which is ``look_at`` at the latest.
        """
        self._deadline, self._complaint = deadline, complaint
        due = min(look_at, deadline)
        if self._timer is None or self._timer_at > due:
            self._set_timer(due)
        self._waiter = waiter = self.loop.create_future()
        return waiter

    def _set_timer(self, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self.loop.call_at(at, self._look_at_deadline)

    def _look_at_deadline(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done():
            return  # between two exchanges, or what came in is being dealt with
        now = self.loop.time()
        if self._poured != self._seen:
            self._seen, self._deadline = self._poured, now + self._silence
        if self._deadline - now > _TICK_S:
            is_pouring = self._sink is not None
            self._set_timer(
                min(self._deadline, now + self._silence / _LOOKS) if is_pouring else self._deadline
            )
            return
        self._fail(UpstreamTimeout(self._complaint))
        self.close()

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, failure: UpstreamFailed) -> None:
        if self._failure is None and not self._complete:
            self._failure = failure
        self._wake()

    # asyncio.BufferedProtocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name
        if self._verify is not None:
            try:
                self._verify(self._transport)
            except Exception as refusal:
                self._refusal = refusal
                self._transport.abort()

    def raise_refusal(self) -> None:
        """Raise what ``verify`` raised, if it did."""
        if self._refusal is not None:
            raise UpstreamRefused(str(self._refusal)) from self._refusal

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        sink = self._sink
        if sink is None:
            came = self._view[:nbytes]
            if not self._has_asked or not self._is_whole(came):
                self._received(came)
            return
        # What follows is done for each piece of each stream: no step more than it takes.
        try:
            self._parse(self._view[:nbytes])
        except _NO_HTTP as error:
            self._give_up(error)
            return
        self._poured = poured = self._poured + nbytes
        if poured >= self._tell_at:
            if self._complete:
                self._wake()
                return
            self._tell()
            self._delay_acks()
        if not (body := self._body):
            return  # only a part of a frame
        data = b"".join(body)  # of one piece that is the piece itself
        body.clear()
        self._untold.append(data)
        if not sink(data):
            self._sink = None
            self._pause()
            self._wake()

    def _is_whole(self, data: memoryview) -> bool:
        """Take ``data``, the first to come, where it is a usual answer from its first byte to its last."""
        self._has_asked, whole = False, whole_answer(bytes(data))
        if whole is None:
            self._is_parsed = True
            return False
        status, headers, worked_out, body = whole
        self._head = Head(status, headers, worked_out)
        if body:
            self._body.append(body)
        self._is_parsed, self._complete, self._keep_alive = False, True, True
        self._wake()
        return True

    def _received(self, data: memoryview) -> None:
        if self._complete or self._parser is None or not self.exchanges:
            self.close()  # bytes nobody asked for: whatever comes next could not be told from an answer
            return
        if self._head is None:
            self._head_bytes += len(data)
        try:
            self._parse(data)
        except _NO_HTTP as error:
            self._give_up(error)
            return
        if self._head is None and self._head_bytes > MAX_HEAD_BYTES:
            self._fail(UpstreamFailed("the head of the answer is too long"))
            self.close()
            return
        if self._buffered > HIGH_WATER_BYTES:
            self._pause()
        self._wake()

    def _give_up(self, error: Exception) -> None:
        self._fail(UpstreamFailed(f"the answer is not HTTP: {error}"))
        self.close()

    def _tell(self) -> None:
        if self._untold and self._hear is not None:
            self._hear(b"".join(self._untold))
        self._untold.clear()
        self._tell_at = self._poured + TELL_BYTES

    def _delay_acks(self) -> None:
        """Acknowledge every second piece and not each as it is read, where the system can be told so.

        An acknowledgement costs more than all else that is done here for a piece, and engines do not wait for
        it: like all of Go's servers, Ollama has Nagle's algorithm off. It is said again and again, because
        Linux forgets it after 40 ms in which one was due and nothing came.
        """
        assert self._transport is not None
        handle = self._transport.get_extra_info("socket")
        if handle is not None and _QUICKACK is not None:
            handle.setsockopt(socket.IPPROTO_TCP, _QUICKACK, 0)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._parser, self._parse = None, _parse_nothing  # it holds our callbacks: let go of the circle
        if self._until_close and exc is None:
            self._complete = True
        reason = f": {exc}" if exc else ""
        if self._head is not None:
            self._fail(UpstreamCut(f"the answer broke off{reason}"))
        else:
            self._fail(UpstreamRefused(f"the connection closed before an answer{reason}"))
        self._wake()

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self._complete:
            raise ValueError("a second answer to one request")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_headers_complete(self) -> None:
        assert self._parser is not None
        status = self._parser.get_status_code()
        if status < 200:
            self._interim = True
            interim, self._headers, self._head_bytes = Head(status, tuple(self._headers)), [], 0
            if self.on_interim is not None:
                self.on_interim(interim)
            return
        self._interim = False
        self._head = Head(status, tuple(self._headers))
        self._headers.clear()
        self._until_close = not _is_framed(self._head)

    def on_message_complete(self) -> None:
        assert self._parser is not None
        if self._interim:
            return
        self._complete = True
        self._tell_at = 0  # see `buffer_updated`
        self._keep_alive = self._parser.should_keep_alive()
