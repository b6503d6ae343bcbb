"""A listening socket for an aiohttp handler: its address found, its connections closed with it."""

import errno
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import structlog
from aiohttp import web

from ollama_dist.api.connections import HEAD_S, Gate, Server
from ollama_dist.api.heads import Request
from ollama_dist.api.lane import Ways
from ollama_dist.api.responses import refused
from ollama_dist.core.errors import ConfigError

log = structlog.get_logger()

BACKLOG: Final = 1024
KEEP_ALIVE_S: Final = 75.0
DRAIN_S: Final = 30.0
"""How long answers under way may take to end once the listener is stopped."""

LINGER_S: Final = 2.0
"""How long the rest of an unwanted body is read: a sender that is hung up on at once loses the answer."""

_CLIENT_LEFT: Final = 499
"""Never sent, for nobody is there; nginx's number for it."""

Handler = Callable[[Request], Awaitable[web.StreamResponse]]


def bind(host: str, ports: Sequence[int]) -> socket.socket:
    """A listening socket on the first of ``ports`` that is free (0: any). Raises `ConfigError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in ports:
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind((host, port))
            bound.listen(BACKLOG)  # at once: two sockets may share a port until one of them listens
        except OSError as error:
            bound.close()
            if error.errno != errno.EADDRINUSE:
                raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}") from error
        else:
            return bound
    tried = f"port {ports[0]} is" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]} are"
    raise ConfigError(f"cannot listen on {host}: {tried} taken")


class Listener:
    """Serves ``handler`` on a socket. Stop it to let what is under way end, within `DRAIN_S`.

    With ``ways`` ordinary requests take a short way (`api.lane`).
    """

    def __init__(
        self,
        handler: Handler,
        bound: socket.socket,
        tls: ssl.SSLContext | None = None,
        gate: Gate | None = None,
        head_s: float = HEAD_S,
        ways: Ways | None = None,
    ) -> None:
        self._socket = bound
        self._handler = handler
        self._server = Server(
            self._handle,
            gate=gate,
            head_s=head_s,
            tls=tls,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,
            ways=ways,
            keep_alive_s=KEEP_ALIVE_S,
            lingering_time=LINGER_S,
        )
        self._runner = web.ServerRunner(self._server, shutdown_timeout=DRAIN_S)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """A client that left while it was written to has ended its request; that is nobody's error."""
        assert isinstance(request, Request)
        if (status := request.head.refusal) is not None:
            log.info("no_request", address=request.remote, status=status)
            return refused(status)
        try:
            return await self._handler(request)
        except ConnectionError:
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=_CLIENT_LEFT)

    @property
    def address(self) -> tuple[str, int]:
        host, port = self._socket.getsockname()[:2]
        return str(host), int(port)

    async def start(self) -> None:
        await self._runner.setup()
        await web.SockSite(self._runner, self._socket, backlog=BACKLOG).start()

    async def stop(self) -> None:
        """Take no more connections, wait for what is under way, close the rest."""
        await self._runner.cleanup()
        self._socket.close()
