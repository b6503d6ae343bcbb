"""The membership listener: takes calls from proven members, bounded in size, number and rate."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import grpc
import structlog

from ollama_dist.core.errors import ConfigError, Unauthorized
from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.calls import MAX_MESSAGE, METHODS, SERVICE, TLS_BUFFER
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.protocol.messages import Kind
from ollama_dist.runtime.rate import RateLimit

log = structlog.get_logger()

MAX_CALLS: Final = 256
"""Open at once, of all peers together."""

MAX_CALLS_PER_CONNECTION: Final = 8

STOP_S: Final = 0.2
"""For calls under way to be answered when the listener closes."""

_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_metadata_size", 4096),
    ("grpc.max_concurrent_streams", MAX_CALLS_PER_CONNECTION),
    ("grpc.http2.min_ping_interval_without_data_ms", 2000),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.tsi.max_frame_size", TLS_BUFFER),
    ("grpc.enable_channelz", 0),
    ("grpc.keepalive_permit_without_calls", 1),
)

Answer = Callable[[NodeId, Kind, bytes], Awaitable[bytes]]
"""The reply to a member's message; raises `Refused`."""


class Refused(Exception):
    """The message is not taken; the peer is told ``status`` and nothing else."""

    def __init__(self, status: grpc.StatusCode) -> None:
        super().__init__(status.name)
        self.status = status


class Server:
    """Listens for members. ``count`` is told in a word of each call that was not taken.

    ``services`` are served beside membership, behind the same proof of who calls (`certificate_of`).
    """

    def __init__(
        self,
        credentials: Credentials,
        answer: Answer,
        count: Callable[[str], None],
        services: Sequence[grpc.GenericRpcHandler] = (),
    ) -> None:
        self._credentials = credentials
        self._answer = answer
        self._count = count
        self._services = tuple(services)
        self._rate = RateLimit()
        self._server: grpc.aio.Server | None = None

    async def start(self, host: str, ports: Sequence[int]) -> int:
        """Listen on the first of ``ports`` that is free (0: any) and say which. Raises `ConfigError`."""
        for port in ports:
            server = grpc.aio.server(options=_OPTIONS, maximum_concurrent_rpcs=MAX_CALLS)
            handlers = self._handlers()
            generic = grpc.method_handlers_generic_handler(SERVICE, handlers)
            server.add_generic_rpc_handlers((generic, *self._services))
            # Every few turns of the loop gRPC takes one call of each method registered so, one of all others:
            # where turns are long, pings would wait behind news. Older ones ignore this.
            server.add_registered_method_handlers(SERVICE, handlers)
            try:
                bound = server.add_secure_port(
                    f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
                    self._credentials.grpc_server_credentials(),
                )
            except RuntimeError as error:
                await server.stop(None)
                refused = error
                continue
            await server.start()
            self._server = server
            return int(bound)
        tried = f"port {ports[0]}" if len(ports) == 1 else f"ports {ports[0]} to {ports[-1]}"
        raise ConfigError(f"cannot listen on {host}, {tried}: taken, or not ours to take") from refused

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(STOP_S)

    def _handlers(self) -> "dict[str, grpc.RpcMethodHandler[bytes, bytes]]":
        # Bytes in, bytes out: what cannot be read is for the codec to refuse, in one place.
        return {
            method: grpc.unary_unary_rpc_method_handler(self._handler(kind))
            for kind, method in METHODS.items()
        }

    def _handler(self, kind: Kind) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def handle(payload: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            try:
                peer = self._credentials.admit(certificate_of(context))
                if not self._rate.allows(peer, asyncio.get_running_loop().time()):
                    self._count("rate_limited")
                    raise Refused(grpc.StatusCode.RESOURCE_EXHAUSTED)
                return await self._answer(peer, kind, payload)
            except Unauthorized:
                self._count("unauthorized")
                status = grpc.StatusCode.UNAUTHENTICATED
            except Refused as refused:
                status = refused.status
            except Exception:
                log.exception("call_failed", kind=kind)  # and not a word of it to the peer
                status = grpc.StatusCode.INTERNAL
            await context.abort(status)
            raise AssertionError  # abort raises

        return handle


def certificate_of(context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
    """The certificate (DER) of whoever makes a call; raises `Unauthorized`. Who that is, and whether it may,
    is for `Credentials.admit` to say."""
    (certificate,) = context.auth_context()["x509_pem_cert"]
    try:
        return ssl.PEM_cert_to_DER_cert(certificate.decode("ascii"))
    except ValueError as error:
        raise Unauthorized("the connection shows no certificate") from error
