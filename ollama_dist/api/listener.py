"""A listening socket for an aiohttp handler: its address found, its connections closed with it."""

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from ollama_dist.core.errors import ConfigError

PORTS_TRIED: Final = 64
"""How far a search for a free port goes."""

BACKLOG: Final = 1024
KEEP_ALIVE_S: Final = 75.0
DRAIN_S: Final = 30.0
"""How long answers under way may take to end once the listener is stopped."""

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def bind(host: str, port: int, *, search: bool) -> socket.socket:
    """A listening socket on ``port``, or with ``search`` on the next free one after it (0: any).

    Raises `ConfigError` when none can be had.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    candidates = range(port, min(port + PORTS_TRIED, 65536)) if search and port else (port,)
    for candidate in candidates:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, candidate))
            bound.listen(BACKLOG)  # at once: two sockets may share a port until one of them listens
        except OSError as error:
            bound.close()
            if error.errno == errno.EADDRINUSE and candidate != candidates[-1]:
                continue
            reason = f"cannot listen on {host}:{candidate}: {error.strerror or error}"
            raise ConfigError(reason) from error
        return bound
    raise ConfigError(f"no free port at {host} from {port} on")


class Listener:
    """Serves ``handler`` on a socket. Stop it to let what is under way end, within `DRAIN_S`."""

    def __init__(self, handler: Handler, bound: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        self._socket = bound
        self._server = web.Server(
            handler,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE_S,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=DRAIN_S)
        self._tls = tls

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    async def start(self) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, ssl_context=self._tls, backlog=BACKLOG).start()

    async def stop(self) -> None:
        """Take no more connections, wait for what is under way, close the rest."""
        await self._runner.cleanup()
        self._socket.close()
