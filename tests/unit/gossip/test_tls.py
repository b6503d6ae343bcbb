import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from ollama_dist.core.errors import Unauthorized
from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.identity import Identity, issue_certificate, node_name
from ollama_dist.gossip.keys import ClusterKey
from ollama_dist.gossip.tls import (
    client_context,
    expect,
    peer_id,
    server_context,
    verified_peer,
)

KEY = ClusterKey("9f2c41d0", 1, bytes(range(32)))

Make = Callable[[str], Identity]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return lambda name: Identity.load(tmp_path / name, KEY)


@asynccontextmanager
async def listener(context: ssl.SSLContext) -> AsyncIterator[tuple[int, "asyncio.Queue[NodeId]"]]:
    """A listener that tells who connected and sends one byte."""
    seen: asyncio.Queue[NodeId] = asyncio.Queue()

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.put_nowait(verified_peer(writer.transport))
        writer.write(b"!")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(greet, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], seen
    finally:
        server.close()
        await server.wait_closed()


async def connect(port: int, context: ssl.SSLContext, name: str = "") -> NodeId:
    """Who is there; the connection counts only when the other side has answered."""
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
        try:
            peer = verified_peer(writer.transport)
            if await reader.read(1) != b"!":
                raise ConnectionResetError
            return peer
        finally:
            writer.close()


async def test_both_sides_know_each_other(make: Make) -> None:
    server, client = make("server"), make("client")
    async with listener(server_context(server)) as (port, seen):
        assert await connect(port, client_context(client)) == server.id
        assert await seen.get() == client.id


async def test_another_cluster_is_refused_by_both_sides(make: Make, tmp_path: Path) -> None:
    ours, stranger = make("ours"), Identity.load(tmp_path / "stranger", ClusterKey.make())
    async with listener(server_context(ours)) as (port, seen):
        with pytest.raises(ssl.SSLCertVerificationError):
            await connect(port, client_context(stranger))
        careless = client_context(stranger)
        careless.verify_mode = ssl.CERT_NONE
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await connect(port, careless)
        assert seen.empty()


async def test_without_a_certificate_nobody_gets_in(make: Make) -> None:
    bare = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    bare.check_hostname = False
    bare.verify_mode = ssl.CERT_NONE
    async with listener(server_context(make("server"))) as (port, seen):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await connect(port, bare)
        assert seen.empty()


async def test_nothing_older_than_tls_1_3_is_spoken(make: Make) -> None:
    old = client_context(make("client"))
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with listener(server_context(make("server"))) as (port, _):
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await connect(port, old)


async def test_a_connection_is_checked_to_lead_to_one_node(make: Make) -> None:
    server, client = make("server"), make("client")
    async with listener(server_context(server)) as (port, _):
        _, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=client_context(client), server_hostname=node_name(server.id)
        )
        expect(server.id)(writer.transport)
        with pytest.raises(Unauthorized, match=f"{server.id} is there, not {client.id}"):
            expect(client.id)(writer.transport)
        writer.close()


def test_a_name_without_its_key_is_refused(make: Make) -> None:
    victim, rogue = make("victim"), ec.generate_private_key(ec.SECP256R1())
    authority = KEY.authority()
    honest = issue_certificate(rogue, authority)
    forged = x509.CertificateBuilder(
        issuer_name=authority.certificate.subject,
        subject_name=victim.certificate.subject,
        public_key=rogue.public_key(),
        serial_number=1,
        not_valid_before=honest.not_valid_before_utc,
        not_valid_after=honest.not_valid_after_utc,
        extensions=list(victim.certificate.extensions),
    ).sign(authority.key, SHA256())
    with pytest.raises(Unauthorized, match="names somebody else"):
        peer_id(forged.public_bytes(Encoding.DER))
    assert peer_id(honest.public_bytes(Encoding.DER)) != victim.id


def test_what_is_no_certificate_is_nobody() -> None:
    with pytest.raises(Unauthorized):
        peer_id(b"hello")
    with pytest.raises(Unauthorized):
        peer_id(KEY.authority().certificate.public_bytes(Encoding.DER))


async def test_a_connection_without_tls_shows_nobody() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with pytest.raises(Unauthorized):
            verified_peer(writer.transport)
        writer.close()
