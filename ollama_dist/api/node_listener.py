"""The listening socket for members: bulk connections go to threads, all others to the event loop's TLS."""

import asyncio
import errno
import socket
import ssl
import sys
from typing import Final

import structlog

from ollama_dist.api.bulk_giving import BulkGiving
from ollama_dist.api.connections import HEAD_S
from ollama_dist.api.lane import Ways
from ollama_dist.api.listener import Handler, Listener
from ollama_dist.runtime.tasks import Tasks
from ollama_dist.wire.hello import BULK, HELLO_LIMIT, is_whole, offers

log = structlog.get_logger()

AT_ONCE: Final = 64
"""Connections accepted before others get their turn."""

NO_ROOM_S: Final = 0.5
"""How long nothing is accepted once there is no descriptor left."""

REST_S: Final = 0.005
"""Between two looks at a hello of which a part is there."""


class NodeListener(Listener):
    """A `Listener` with TLS. What a hello offers is looked at without taking it from the socket."""

    def __init__(
        self,
        handler: Handler,
        bound: socket.socket,
        tls: ssl.SSLContext,
        bulk: BulkGiving,
        ways: Ways | None = None,
    ) -> None:
        super().__init__(handler, bound, tls, ways=ways)
        self._bulk = bulk
        self._welcoming = Tasks()
        self._waiting: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        if sys.platform == "win32":  # its loop watches no socket that is not its own: no threads there
            return await super().start()
        await self._runner.setup()
        self._socket.setblocking(False)
        self._watch()
        return None

    async def stop(self) -> None:
        if sys.platform != "win32":
            if self._waiting is not None:
                self._waiting.cancel()
            asyncio.get_running_loop().remove_reader(self._socket)
        await self._welcoming.stop()
        await self._bulk.stop()
        await super().stop()

    def _watch(self) -> None:
        asyncio.get_running_loop().add_reader(self._socket, self._accept)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                log.warning("connection_not_accepted", error=error.strerror)
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._socket)
                self._waiting = loop.call_later(NO_ROOM_S, self._watch)
                return
            connection.setblocking(False)
            self._welcoming.start(self._welcome(connection), "welcome")

    async def _welcome(self, connection: socket.socket) -> None:
        try:
            async with asyncio.timeout(HEAD_S):
                hello = await _peek(connection)
            if offers(hello, BULK) and self._bulk.take(connection):
                return
            server = self._runner.server
            assert server is not None
            await asyncio.get_running_loop().connect_accepted_socket(server, connection)
        except (TimeoutError, OSError) as error:
            log.info("no_handshake", error=str(error) or "no word in time")
            connection.close()
        except asyncio.CancelledError:
            connection.close()
            raise


async def _peek(connection: socket.socket) -> bytes:
    """The hello of a new connection, which stays to be read; empty where the other side has left."""
    while True:
        try:
            start = connection.recv(HELLO_LIMIT, socket.MSG_PEEK)
        except BlockingIOError:
            await _until_readable(connection)
            continue
        if not start or is_whole(start):
            return start
        await asyncio.sleep(REST_S)


async def _until_readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(connection, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(connection)
