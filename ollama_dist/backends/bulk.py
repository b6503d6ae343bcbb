"""Many bytes from a peer, read by threads: TLS and hashing go on there, beside the event loop and each other.

Through a loop's TLS every byte is copied three times more, and whoever streams tokens meanwhile has to wait.
"""

import asyncio
import contextlib
import socket
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar, cast

from ollama_dist.backends.http1 import MAX_HEAD_BYTES, Header, request_bytes
from ollama_dist.backends.target import CONNECT_TIMEOUT_S, IDLE_LIMIT_S, Target
from ollama_dist.core.errors import UpstreamCut, UpstreamFailed, UpstreamRefused, UpstreamTimeout

_Item = TypeVar("_Item")

READ_BYTES: Final = 16 * 1024
"""What a TLS record holds, so what comes in at once."""


class Line:
    """A connection to ``target`` for one answer after another, of which one thread at a time makes use.

    Everything but `cut` waits, ``silence_s`` at most each time that nothing comes, and closes the connection
    when it fails.
    """

    def __init__(self, target: Target, silence_s: float) -> None:
        self.target = target
        self._silence_s = silence_s
        self._security = target.security
        self._socket: socket.socket | None = None
        self._rest = b""
        """Of the body, what came along with the head."""
        self.left = 0
        """Bytes of the body that nobody has taken yet."""
        self._keeps_open = False
        self._used_at = 0.0
        self.is_cut = False

    def begin(self, path: str, headers: Sequence[Header]) -> int:
        """Ask for ``path`` on this connection, made where it is not there; the status of the answer.

        Raises `UpstreamRefused`, `UpstreamTimeout` or `UpstreamFailed`.
        """
        request = request_bytes("GET", path, self.target.authority, headers, b"")
        is_fresh = self._socket is None
        try:
            with self._closing_on_failure():
                return self._ask(request)
        except UpstreamRefused:
            if is_fresh or self.is_cut:
                raise
        with self._closing_on_failure():  # it was closed while it was idle
            return self._ask(request)

    def fill(self, tank: memoryview, hear: Callable[[int], None]) -> None:
        """Have the next bytes of the body land in ``tank``, all of it; ``hear`` is told how many came.

        Raises `UpstreamCut` where they end before, and `UpstreamTimeout`.
        """
        with self._closing_on_failure():
            if len(tank) > self.left:
                raise UpstreamCut("the answer is shorter than what was asked for")
            at = min(len(self._rest), len(tank))
            tank[:at], self._rest = self._rest[:at], self._rest[at:]
            hear(at)
            read, size = self._reading(), len(tank)
            while at < size:
                count = read(size - at, tank[at:])
                if not count:
                    raise UpstreamCut("the answer broke off")
                hear(count)
                at += count
            self.left -= at
            self._used_at = time.monotonic()

    def cut(self) -> None:
        """End it now, from any thread: whoever reads it fails at once, and is to close it."""
        self.is_cut = True
        if (open_ := self._socket) is not None:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(open_, socket.SHUT_RDWR)  # `ssl`'s own would let go of its state

    def close(self) -> None:
        """Nobody reads it now."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def may_serve(self, target: Target) -> bool:
        """Whether another answer of ``target`` may come on it."""
        is_over = self._socket is not None and not self.left and self._keeps_open and not self.is_cut
        is_same = target is self.target and target.security is self._security
        return is_over and is_same and time.monotonic() - self._used_at < IDLE_LIMIT_S

    @contextlib.contextmanager
    def _closing_on_failure(self) -> Iterator[None]:
        """What goes wrong, in our own words, with nothing left open."""
        try:
            yield
        except UpstreamFailed:
            self.close()
            raise
        except TimeoutError:
            self.close()
            raise UpstreamTimeout("the answer stalled") from None
        except OSError as error:
            self.close()
            raise UpstreamCut(f"the answer broke off: {error.strerror or error}") from error

    def _ask(self, request: bytes) -> int:
        open_ = self._socket or self._connect()
        try:
            open_.sendall(request)
            came = bytearray()
            while (end := came.find(b"\r\n\r\n")) < 0:
                part = open_.recv(READ_BYTES)
                if not part:
                    raise ConnectionResetError("it was closed")
                came += part
                if len(came) > MAX_HEAD_BYTES:
                    raise UpstreamFailed("the head of the answer is too long")
        except TimeoutError:
            raise UpstreamTimeout("no answer in time") from None
        except OSError as error:
            refused = UpstreamRefused(f"the connection closed before an answer: {error.strerror or error}")
            raise refused from error
        status, headers = _read_head(bytes(came[:end]))
        self._rest = bytes(came[end + 4 :])
        self.left = _length(headers)
        self._keeps_open = headers.get("connection", "").lower() != "close"
        if len(self._rest) > self.left:
            raise UpstreamFailed("the answer is longer than it says")
        return status

    def _connect(self) -> socket.socket:
        """Raises `UpstreamRefused` or `UpstreamTimeout`."""
        place = self.target.authority
        try:
            plain = socket.create_connection((self.target.host, self.target.port), CONNECT_TIMEOUT_S)
            plain.settimeout(self._silence_s)
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket = plain
            if self._security is not None:
                self._secure(plain)
        except TimeoutError:
            raise UpstreamTimeout(f"{place} did not take a connection in time") from None
        except OSError as error:
            raise UpstreamRefused(f"{place} refused the connection: {error.strerror or error}") from error
        if self.is_cut:
            raise UpstreamCut("it is not wanted any more")
        return self._socket

    def _secure(self, plain: socket.socket) -> None:
        assert self._security is not None
        name = self._security.server_name
        context = self._security.bulk or self._security.context
        wrapped = context.wrap_socket(plain, server_hostname=name, do_handshake_on_connect=False)
        self._socket = wrapped
        wrapped.do_handshake()
        try:
            self._security.verify(cast(asyncio.Transport, _Shown(wrapped)))
        except Exception as refusal:
            raise UpstreamRefused(str(refusal)) from refusal

    def _reading(self) -> Callable[[int, memoryview], int]:
        """Called for every record, some 60,000 times a GB: of a length, and of room for it."""
        open_ = self._socket
        assert open_ is not None
        if isinstance(open_, ssl.SSLSocket):
            return cast(Callable[[int, memoryview], int], open_.read)  # `recv_into` is a call more
        return lambda _, room: open_.recv_into(room)


class Lines:
    """The threads that read lines, ``threads`` at most, and the lines that are kept for another answer."""

    def __init__(self, threads: int, silence_s: float) -> None:
        self._threads = ThreadPoolExecutor(threads, "bulk")
        self._silence_s = silence_s
        self._idle: list[Line] = []

    def take(self, target: Target) -> Line:
        """One to ``target``, for who gives it back."""
        for line in [line for line in self._idle if not line.may_serve(line.target)]:
            self._idle.remove(line)
            line.close()
        found = next((line for line in reversed(self._idle) if line.may_serve(target)), None)
        if found is None:
            return Line(target, self._silence_s)
        self._idle.remove(found)
        return found

    def give_back(self, line: Line) -> None:
        if line.may_serve(line.target):
            self._idle.append(line)
        elif not line.is_cut:  # else its thread may read it yet, and closes it
            line.close()

    async def each(self, line: Line, work: Iterator[_Item]) -> AsyncGenerator[_Item, None]:
        """What ``work`` gives, which makes use of ``line`` in a thread, as it comes; raises what it raises.

        Closed or cancelled before the end, the line is cut, and nobody waits for the thread.
        """
        loop = asyncio.get_running_loop()
        came: asyncio.Queue[_Item | Exception | None] = asyncio.Queue()

        def do() -> None:
            end: Exception | None = None
            try:
                for item in work:
                    loop.call_soon_threadsafe(came.put_nowait, item)
            except Exception as error:
                end = error
            loop.call_soon_threadsafe(came.put_nowait, end)

        job, is_over = self._threads.submit(do), False
        try:
            while True:
                item = await came.get()
                is_over = item is None or isinstance(item, Exception)
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            if not is_over:
                line.cut()
                job.add_done_callback(lambda _: line.close())

    async def close(self) -> None:
        """Wait until no thread is left: at once, but for those that are just making a connection."""
        for line in self._idle:
            line.close()
        self._idle.clear()
        await asyncio.to_thread(self._threads.shutdown)


class Tanks:
    """Room for ``size`` bytes each, used again once nobody looks at it: fresh memory is dear.

    What was used last is used first: a processor's caches may have it yet. Any thread may take and give.
    """

    def __init__(self, size: int, kept: int) -> None:
        self._size = size
        self._used: deque[bytearray] = deque(maxlen=kept)

    def take(self, size: int) -> bytearray:
        """Room for ``size`` bytes; of another size than the others have, it is made for once."""
        if size != self._size:
            return bytearray(size)
        seen: list[bytearray] = []
        try:
            while not _is_unseen(tank := self._used.pop()):
                seen.append(tank)
        except IndexError:
            tank = bytearray(size)
        self._used.extend(reversed(seen))
        return tank

    def give_back(self, tank: bytearray) -> None:
        """Views of it may still be about."""
        if len(tank) == self._size:
            self._used.append(tank)


def _is_unseen(tank: bytearray) -> bool:
    """Whether there is no view of it, for as long as there is one it keeps its size."""
    try:
        tank.pop()
    except BufferError:
        return False
    tank.append(0)
    return True


class _Shown:
    """As much of a transport as shows who the other side is."""

    def __init__(self, wrapped: ssl.SSLSocket) -> None:
        self._wrapped = wrapped

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._wrapped if name == "ssl_object" else default


def _read_head(head: bytes) -> tuple[int, dict[str, str]]:
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, rest = first.partition(" ")
    if version != "HTTP/1.1" or not rest[:3].isdecimal():
        raise UpstreamFailed("the answer is not HTTP")
    fields = (line.partition(":") for line in lines)
    return int(rest[:3]), {name.strip().lower(): value.strip() for name, _, value in fields}


def _length(headers: dict[str, str]) -> int:
    said = headers.get("content-length", "")
    if not said.isdecimal() or "transfer-encoding" in headers:
        raise UpstreamFailed("the answer does not say how long it is")
    return int(said)
