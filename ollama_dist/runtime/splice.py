"""Bytes from one socket to another that never enter this process: ``splice(2)``, which Linux has.

They pass through a pipe, which is filled only when it is empty: so "not now" tells which side is meant.
"""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from typing import Final

if sys.platform == "linux":
    import fcntl

    _NOW: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

PIPE_BYTES: Final = 256 * 1024
"""Moved at once; as much may wait here for a socket that takes nothing."""

TURNS: Final = 16
"""So often in a row, before others have theirs."""


def descriptor_of(transport: asyncio.BaseTransport) -> int | None:
    """Of a connection whose bytes can be moved so: a socket, without TLS, on a system that can."""
    if sys.platform != "linux" or transport.get_extra_info("sslcontext") is not None:
        return None
    handle = transport.get_extra_info("socket")
    return None if handle is None else int(handle.fileno())


class Splice:
    """Moves ``left`` bytes from one connected socket to another, as they come and are taken.

    Nobody else reads from the one or writes to the other meanwhile. ``held`` hears whether it is the other
    that is waited for, ``done`` is called when all were moved or when a side does not go on, for whatever
    reason: that is for others to find out. To be stopped in any case. Raises `OSError` where there are no
    descriptors.
    """

    def __init__(
        self, source: int, sink: int, left: int, held: Callable[[bool], None], done: Callable[[], None]
    ) -> None:
        self.left = left
        self.is_refused = False
        """The other takes nothing more: its connection is gone."""
        self._held, self._done = held, done
        self._in_pipe = 0
        self._loop = loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as opened:
            self._exit, self._entry = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            opened.callback(os.close, self._exit)
            opened.callback(os.close, self._entry)
            self._source = os.dup(source)  # transports close theirs when they like
            opened.callback(os.close, self._source)
            self._sink = os.dup(sink)
            opened.callback(os.close, self._sink)
            with contextlib.suppress(OSError):  # there may be a limit: then less is moved at once
                fcntl.fcntl(self._entry, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            opened.callback(loop.remove_writer, self._sink)
            opened.callback(loop.remove_reader, self._source)
            self._opened = opened.pop_all()
        loop.add_reader(self._source, self._fill)

    def stop(self) -> bytes:
        """What was taken from the one and not given to the other."""
        count, self._in_pipe = self._in_pipe, 0
        rest = os.read(self._exit, count) if count else b""
        self._opened.close()
        return rest

    def _fill(self) -> None:
        """Something came, or the end."""
        try:
            for _ in range(TURNS):
                count = os.splice(self._source, self._entry, min(self.left, PIPE_BYTES), flags=_NOW)
                self._in_pipe = count
                self.left -= count
                self._empty()
                if not count or not self.left:
                    return self._finish()
        except BlockingIOError:
            if self._in_pipe:
                self._loop.remove_reader(self._source)
                self._loop.add_writer(self._sink, self._go_on)
                self._held(True)
        except OSError:
            self._finish()
        return None

    def _go_on(self) -> None:
        """There is room."""
        try:
            self._empty()
        except BlockingIOError:
            return None
        except OSError:
            return self._finish()
        if not self.left:
            return self._finish()
        self._held(False)
        self._loop.remove_writer(self._sink)
        self._loop.add_reader(self._source, self._fill)
        return None

    def _finish(self) -> None:
        self._loop.remove_reader(self._source)
        self._loop.remove_writer(self._sink)
        self._done()

    def _empty(self) -> None:
        try:
            while self._in_pipe:
                self._in_pipe -= os.splice(self._exit, self._sink, self._in_pipe, flags=_NOW)
        except ConnectionError:
            self.is_refused = True
            raise
