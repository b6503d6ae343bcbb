"""Connecting to where a node may be and learning who is there, before a word of the protocol is said.

A gRPC client is not shown its peer's certificate. So the first connection to a peer is a bare TLS one: it
proves the peer's key, says precisely why it failed, and is closed; the channel that follows trusts that one
certificate and no other.
"""

import asyncio
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from cryptography import x509

from ollama_dist.core.errors import Unauthorized
from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.calls import CallFailed
from ollama_dist.gossip.credentials import Pass
from ollama_dist.gossip.keys import epoch_name, issued_by
from ollama_dist.gossip.protocol.effects import Failure
from ollama_dist.gossip.tls import peer_certificate

STAGGER_S: Final = 0.1
"""How long one address is given before the next is tried beside it (RFC 8305 calls for 100 ms to 2 s)."""

_MOST_TELLING: Final = (Failure.REFUSED, Failure.REJECTED, Failure.UNREACHABLE, Failure.TIMEOUT)


@dataclass(frozen=True, slots=True)
class Met:
    """Who proved to be at an address."""

    node: NodeId
    certificate: bytes = field(repr=False)
    server_name: str
    """By which its owner shows this certificate, be it that it has another as well."""
    address: str
    """As it was asked for."""
    host: str
    """The IP address it led to."""
    port: int


def split_host_port(address: str) -> tuple[str, int]:
    """The two parts of ``host:port`` or ``[v6]:port``; raises `ValueError`."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError(f"{address!r} is not host:port")
    return host.removeprefix("[").removesuffix("]"), int(port)


async def meet(address: str, showing: Pass, timeout: float) -> Met:
    """Who is at ``address`` and takes us for a member too. Raises `CallFailed`."""
    greeting = _Greeting()
    try:
        host, port = split_host_port(address)
        async with asyncio.timeout(timeout):
            transport, _ = await asyncio.get_running_loop().create_connection(
                lambda: greeting, host, port, ssl=showing.membership, server_hostname=showing.server_name
            )
            try:
                certificate = peer_certificate(transport)
                node = showing.admit(certificate)
                # In TLS 1.3 a client is done before the server has looked at its certificate: what tells
                # is that the server goes on to speak.
                await greeting.heard
                ip, port = transport.get_extra_info("peername")[:2]
            finally:
                transport.abort()
    except TimeoutError as error:
        raise CallFailed(Failure.TIMEOUT, f"{address} did not answer in time") from error
    except ConnectionRefusedError as error:
        raise CallFailed(Failure.REFUSED, f"nobody listens at {address}") from error
    except (ssl.SSLError, Unauthorized) as error:
        rejection = f"{address} is no member of this cluster: {error}"
        raise await _rejected(address, showing, timeout, rejection) from error
    except _HungUp as error:
        rejection = f"{address} does not take this node for a member"
        raise await _rejected(address, showing, timeout, rejection) from error
    except (OSError, ValueError) as error:
        raise CallFailed(Failure.UNREACHABLE, f"{address} cannot be reached: {error}") from error
    return Met(node, certificate, _name_of(certificate), address, ip, port)


async def meet_peer(peer: NodeId, addresses: Sequence[str], showing: Pass, timeout: float) -> Met:
    """``peer`` at the first of ``addresses`` where it answers. Raises `CallFailed`, the most telling one."""
    tries = [
        asyncio.create_task(
            _meet_one(peer, address, showing, timeout, delay=STAGGER_S * number), name=f"dial {address}"
        )
        for number, address in enumerate(addresses)
    ]
    failures: list[CallFailed] = []
    try:
        for done in asyncio.as_completed(tries):
            try:
                return await done
            except CallFailed as failure:
                failures.append(failure)
    finally:
        for each in tries:
            each.cancel()
        await asyncio.gather(*tries, return_exceptions=True)
    if not failures:
        raise CallFailed(Failure.UNREACHABLE, f"no address of {peer} is known")
    raise min(failures, key=lambda failure: _MOST_TELLING.index(failure.kind))


async def _meet_one(peer: NodeId, address: str, showing: Pass, timeout: float, *, delay: float) -> Met:
    await asyncio.sleep(delay)
    met = await meet(address, showing, timeout)
    if met.node != peer:
        raise CallFailed(Failure.REJECTED, f"{met.node} is at {address}, not {peer}")
    return met


def _name_of(certificate: bytes) -> str:
    shown = issued_by(x509.load_der_x509_certificate(certificate))
    return epoch_name(shown[1]) if shown is not None else ""


async def _rejected(address: str, showing: Pass, timeout: float, rejection: str) -> CallFailed:
    """Why there is no way to ``address``: another cluster is there, or this one with a newer key."""
    identity = showing.identity
    shown = await _issuer_at(address, timeout)
    if shown is None or shown[0] != identity.cluster_id or shown[1] <= identity.epoch:
        return CallFailed(Failure.REJECTED, rejection)
    told = (
        f"the cluster's key was rotated (epoch {shown[1]} at {address}, {identity.epoch} here), and the one "
        "this node has is valid no more: it was away meanwhile, or was revoked"
    )
    return CallFailed(Failure.REJECTED, told, is_rotated=True)


async def _issuer_at(address: str, timeout: float) -> tuple[str, int] | None:
    """Cluster and epoch that whoever is at ``address`` says it is of: shown to anybody, and no proof."""
    anybody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    anybody.check_hostname = False
    anybody.verify_mode = ssl.CERT_NONE
    try:
        host, port = split_host_port(address)
        async with asyncio.timeout(timeout):
            transport, _ = await asyncio.get_running_loop().create_connection(
                asyncio.Protocol, host, port, ssl=anybody, server_hostname=""
            )
        try:
            return issued_by(x509.load_der_x509_certificate(peer_certificate(transport)))
        finally:
            transport.abort()
    except (OSError, ValueError, Unauthorized):
        return None


class _HungUp(OSError):
    """The other side closed the connection without a word."""


class _Greeting(asyncio.Protocol):
    """Waits for the first bytes of the other side, whatever they are."""

    def __init__(self) -> None:
        self.heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def data_received(self, data: bytes) -> None:  # noqa: ARG002
        if not self.heard.done():
            self.heard.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.heard.done():
            self.heard.set_exception(_HungUp(str(exc or "closed")))
            self.heard.exception()  # seen, should nobody wait for it any more
