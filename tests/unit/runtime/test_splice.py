"""Bytes moved from one socket to another by the system: so many, in order, and nothing left open."""

import asyncio
import errno
import os
import socket
import sys

import psutil
import pytest

from ollama_dist.runtime.splice import Splice
from tests.support.wait import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has splice(2)")

SENT = b"".join(b"%07d\n" % number for number in range(500_000))


class Line:
    """Two connections, and what is moved from the first to the second; ``told`` has what was said of it."""

    def __init__(self, left: int) -> None:
        self.into, source = _connected()
        sink, self.out = _connected()
        sink.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self.source, self._sink = source, sink
        self.told: list[bool | str] = []
        self.splice = Splice(
            source.fileno(), sink.fileno(), left, self.told.append, lambda: self.told.append("done")
        )

    def close(self) -> None:
        self.splice.stop()
        for each in (self.into, self.source, self._sink, self.out):
            each.close()


def _connected() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        other, _ = listener.accept()
    one.setblocking(False)
    other.setblocking(False)
    return one, other


async def _read(from_: socket.socket, count: int) -> bytes:
    parts = []
    while count and (part := await asyncio.get_running_loop().sock_recv(from_, count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


async def test_as_many_as_were_asked_for_arrive_and_what_follows_stays() -> None:
    line = Line(len(SENT))
    loop = asyncio.get_running_loop()
    sending = asyncio.create_task(loop.sock_sendall(line.into, SENT + b"more"))
    await until(lambda: line.told == [True], what="that the second is waited for")
    assert await _read(line.out, len(SENT)) == SENT
    await sending
    await until(lambda: line.told[-1] == "done", what="the end")
    assert line.splice.stop() == b""
    assert await _read(line.source, 4) == b"more"
    assert line.told[:-1] == ([True, False] * len(line.told))[: len(line.told) - 1]
    line.close()


async def test_the_end_of_the_first_ends_it() -> None:
    line = Line(len(SENT))
    await asyncio.get_running_loop().sock_sendall(line.into, b"hello")
    line.into.close()
    assert await _read(line.out, 5) == b"hello"
    await until(lambda: line.told == ["done"], what="the end")
    assert line.splice.left == len(SENT) - 5
    assert not line.splice.is_refused
    line.close()


async def test_the_end_of_the_second_is_told_apart() -> None:
    line = Line(len(SENT))
    line.out.close()
    sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(line.into, SENT))
    await until(lambda: line.told[-1:] == ["done"], what="the end")
    assert line.splice.is_refused
    sending.cancel()
    line.close()


async def test_nothing_stays_open(monkeypatch: pytest.MonkeyPatch) -> None:
    (one, other), process, duplicate = _connected(), psutil.Process(), os.dup
    before = process.num_fds()
    Splice(one.fileno(), other.fileno(), 10, print, print).stop()
    assert process.num_fds() == before

    def once(handle: int) -> int:
        if handle == other.fileno():
            raise OSError(errno.EMFILE, "too many")
        return duplicate(handle)

    monkeypatch.setattr(os, "dup", once)
    with pytest.raises(OSError, match="too many"):
        Splice(one.fileno(), other.fileno(), 10, print, print)
    assert process.num_fds() == before
    one.close()
    other.close()
