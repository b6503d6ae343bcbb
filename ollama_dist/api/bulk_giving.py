"""Giving bytes of models in threads, each with a connection and its TLS.

Through a loop's TLS each byte is copied three times more, and one core has to do for all who take. What may
be given, and to whom, the event loop decides for each request; a thread reads, encrypts and sends.
"""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson
import structlog

from ollama_dist.api.connections import HEAD_S
from ollama_dist.api.giving import BYTES, STALL_S, range_headers
from ollama_dist.api.listener import KEEP_ALIVE_S
from ollama_dist.core.errors import DistError, NotFound
from ollama_dist.core.ids import NodeId, parse_digest
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.disk.store import BlobFile
from ollama_dist.runtime.tasks import Tasks
from ollama_dist.wire.ranges import read_range

log = structlog.get_logger()

CONNECTIONS: Final = 64
"""At once, with a thread each; those beyond go through the event loop."""

HEAD_BYTES: Final = 16 * 1024
DECIDE_S: Final = 30.0
"""How long a thread waits for the event loop's word."""

END_S: Final = 2.0
"""How long threads are waited for whose connections were cut."""

PATH: Final = "/replication/blobs/"


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Answer:
    head: bytes
    parts: Iterator[bytes | memoryview]


class BulkGiving:
    """``admit`` says who shows a certificate (DER) and raises unless that is a member now."""

    def __init__(
        self, giver: Callable[[], Giver], admit: Callable[[bytes], NodeId], tls: ssl.SSLContext
    ) -> None:
        self._giver = giver
        self._admit = admit
        self._tls = tls
        self._open: dict[_Connection, threading.Thread] = {}
        self._deciding = Tasks()

    def __len__(self) -> int:
        return len(self._open)

    def take(self, plain: socket.socket) -> bool:
        """Whether there is room for one more: then all that becomes of it is done in a thread."""
        if len(self._open) >= CONNECTIONS:
            return False
        connection = _Connection(plain, self._tls, self._decide_soon, asyncio.get_running_loop(), self._gone)
        thread = threading.Thread(target=connection.run, name="bulk-giving", daemon=True)
        self._open[connection] = thread
        thread.start()
        return True

    async def stop(self) -> None:
        """Cut what is open: whoever takes has the rest from another, or later."""
        threads = list(self._open.values())
        for connection in list(self._open):
            connection.cut()
        await self._deciding.stop()
        await asyncio.to_thread(_join, threads)

    def _gone(self, connection: "_Connection") -> None:
        self._open.pop(connection, None)

    def _decide_soon(
        self, certificate: bytes, request: _Request, decided: "Future[_Answer]", done: Callable[[], None]
    ) -> None:
        done()
        self._deciding.start(self._decide(certificate, request, decided), "bulk-request")

    async def _decide(self, certificate: bytes, request: _Request, decided: "Future[_Answer]") -> None:
        try:
            self._admit(certificate)
            answer = await self._answer(request)
        except DistError as error:
            answer = _failure(error)
        except BaseException:
            decided.cancel()
            raise
        decided.set_result(answer)

    async def _answer(self, request: _Request) -> _Answer:
        """The bytes of a blob, or as many as are asked for."""
        if request.method != "GET" or not request.path.startswith(PATH):
            raise NotFound("there are only blobs here")
        giver = self._giver()
        blob = await giver.source(parse_digest(request.path.removeprefix(PATH)))
        wanted = read_range(request.headers.get("range"), blob.size)
        start, stop = wanted or (0, blob.size)
        head = _head(206 if wanted else 200, BYTES, stop - start, range_headers(wanted, blob.size))
        if isinstance(blob, BlobFile):
            return _Answer(head, giver.give(blob, start, stop))
        return _Answer(head, self._fed(giver.pass_on(blob, start, stop), asyncio.get_running_loop()))

    def _fed(
        self, parts: AsyncGenerator[bytes | memoryview, None], loop: asyncio.AbstractEventLoop
    ) -> Iterator[bytes | memoryview]:
        """What the event loop has, for a thread, part by part."""

        async def have(came: "Future[bytes | memoryview]") -> None:
            try:
                came.set_result(await anext(parts, b""))
            except DistError as error:
                came.set_exception(error)
            except BaseException:
                came.cancel()
                raise

        async def end() -> None:
            with contextlib.suppress(RuntimeError):  # a part is being had: that ends by itself
                await parts.aclose()

        def have_soon(came: "Future[bytes | memoryview]") -> None:
            self._deciding.start(have(came), "bulk-part")

        try:
            while True:
                came: Future[bytes | memoryview] = Future()
                _tell(loop, have_soon, came)
                if not (part := came.result(DECIDE_S)):
                    return
                yield part
                del part  # no piece stays in memory because the next one is waited for
        finally:
            with contextlib.suppress(OSError):
                _tell(loop, lambda: self._deciding.start(end(), "bulk-end"))


class _Connection:
    """One of them. Everything but `cut` is its thread's."""

    def __init__(
        self,
        plain: socket.socket,
        tls: ssl.SSLContext,
        decide: Callable[[bytes, _Request, "Future[_Answer]", Callable[[], None]], None],
        loop: asyncio.AbstractEventLoop,
        gone: Callable[["_Connection"], None],
    ) -> None:
        self._plain = plain
        self._tls = tls
        self._decide = decide
        self._loop = loop
        self._gone = gone
        self._socket = plain
        self._rest = b""
        self._late = loop.call_later(HEAD_S, self.cut)
        """Until it has said who it is and what it wants."""

    def cut(self) -> None:
        """End it now, from any thread: its own fails at once."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # `ssl`'s own would let go of its state

    def run(self) -> None:
        try:
            self._serve()
        except (OSError, CancelledError) as error:  # `TimeoutError` is of the first
            log.info("bulk_connection_ended", reason=str(error) or type(error).__name__)
        except Exception:
            log.exception("bulk_connection_failed")
        finally:
            self._socket.close()
            with contextlib.suppress(OSError):
                _tell(self._loop, self._note_end)

    def _note_end(self) -> None:
        self._late.cancel()
        self._gone(self)

    def _serve(self) -> None:
        self._plain.settimeout(HEAD_S)
        self._plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else what is small waits 40 ms
        wrapped = self._tls.wrap_socket(self._plain, server_side=True, do_handshake_on_connect=False)
        self._socket = wrapped
        wrapped.do_handshake()
        certificate = wrapped.getpeercert(binary_form=True) or b""
        while (request := self._request()) is not None:
            wrapped.settimeout(STALL_S)
            if not self._send(self._ask(certificate, request)):
                return
            wrapped.settimeout(KEEP_ALIVE_S)

    def _request(self) -> _Request | None:
        """The next one; None where there is none. What has a body is none."""
        came = bytearray(self._rest)
        while (end := came.find(b"\r\n\r\n")) < 0:
            part = self._socket.recv(HEAD_BYTES)
            if not part:
                return None
            came += part
            if len(came) > HEAD_BYTES:
                raise OSError("the head is too long")
        self._rest = bytes(came[end + 4 :])
        return _read(bytes(came[:end]))

    def _ask(self, certificate: bytes, request: _Request) -> _Answer:
        """What the loop has decided."""
        decided: Future[_Answer] = Future()
        _tell(self._loop, self._decide, certificate, request, decided, self._late.cancel)
        return decided.result(DECIDE_S)

    def _send(self, answer: _Answer) -> bool:
        """Whether another may follow. What keeps the first part from being had is told."""
        with contextlib.closing(answer.parts) as parts:  # type: ignore[type-var]  # all are generators
            try:
                part = next(parts, b"")
            except DistError as error:
                return self._send(_failure(error))
            self._socket.sendall(answer.head)
            try:
                while part:
                    self._socket.sendall(part)
                    del part
                    part = next(parts, b"")
            except DistError as error:
                tell = log.info if isinstance(error, NotFound) else log.warning  # not yet here is not wrong
                tell("giving_broken_off", error=str(error))
                return False
        return True


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[..., object], *of: object) -> None:
    """Have the loop do it soon; raises `OSError` where there is none any more."""
    try:
        loop.call_soon_threadsafe(what, *of)
    except RuntimeError as error:
        raise OSError("the event loop is over") from error


def _join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(END_S)


def _read(head: bytes) -> _Request:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or words[2] != "HTTP/1.1":
        raise OSError("this is no request")
    fields = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in fields}
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise OSError("nothing that has a body may be asked here")
    return _Request(words[0], words[1], headers)


def _failure(error: DistError) -> _Answer:
    """Told as on our other routes."""
    said = orjson.dumps({"error": str(error), "code": error.code})
    head = _head(error.status, "application/json; charset=utf-8", len(said), {})
    return _Answer(head, (part for part in (said,)))


def _head(status: int, content_type: str, length: int, more: dict[str, str]) -> bytes:
    fields = {"Content-Type": content_type, "Content-Length": str(length), **more}
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{k}: {v}" for k, v in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")
