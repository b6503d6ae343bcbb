import asyncio
from pathlib import Path

import grpc
import pytest
from structlog.testing import capture_logs

from ollama_dist.core.errors import ConfigError
from ollama_dist.gossip.calls import CallFailed
from ollama_dist.gossip.channels import Channels
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.identity import node_name
from ollama_dist.gossip.protocol.effects import Failure
from ollama_dist.gossip.protocol.messages import Kind
from ollama_dist.gossip.server import Refused, certificate_of
from ollama_dist.gossip.tls import peer_id
from tests.support.members import Answering, answering, member


async def failure(channels: Channels, peer: Answering) -> CallFailed:
    with pytest.raises(CallFailed) as caught:
        await channels.call(peer.identity.id, [peer.address], Kind.SYNC, b"?", 5.0)
    return caught.value


async def test_it_takes_the_next_port_when_one_is_taken(tmp_path: Path) -> None:
    async with answering(member(tmp_path, "first")) as first:
        second = Answering(member(tmp_path, "second"))
        port = await second.server.start("127.0.0.1", [first.port, 0])
        assert port not in (0, first.port)
        await second.server.stop()
        with pytest.raises(ConfigError, match=f"port {first.port}"):
            await second.server.start("127.0.0.1", [first.port])


async def test_a_flood_is_refused_and_counted_and_does_not_reach_the_node(tmp_path: Path) -> None:
    channels = Channels(Credentials(member(tmp_path, "me")), lambda peer: None)
    async with answering(member(tmp_path, "peer")) as peer:
        a_few = asyncio.Semaphore(4)

        async def ask() -> bytes:
            async with a_few:
                return await channels.call(peer.identity.id, [peer.address], Kind.PING, b"?", 10.0)

        outcomes = await asyncio.gather(*(ask() for _ in range(150)), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, CallFailed)]
        assert 100 <= len(peer.asked) < 150
        assert len(refused) == 150 - len(peer.asked) == peer.counts["rate_limited"]
        assert {each.kind for each in refused} == {Failure.REJECTED}
        await channels.stop()


async def test_what_the_node_refuses_the_peer_hears_as_rejected(tmp_path: Path) -> None:
    channels = Channels(Credentials(member(tmp_path, "me")), lambda peer: None)
    async with answering(member(tmp_path, "peer")) as peer:

        async def refuse(payload: bytes) -> bytes:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT)

        peer.answer = refuse
        assert (await failure(channels, peer)).kind is Failure.REJECTED
        await channels.stop()


async def test_our_own_mistakes_are_logged_here_and_not_told_there(tmp_path: Path) -> None:
    channels = Channels(Credentials(member(tmp_path, "me")), lambda peer: None)
    async with answering(member(tmp_path, "peer")) as peer:

        async def fail(payload: bytes) -> bytes:
            raise ZeroDivisionError("a secret detail")

        peer.answer = fail
        with capture_logs() as logs:
            told = await failure(channels, peer)
        assert told.kind is Failure.REJECTED
        assert "secret" not in str(told)
        assert [line["event"] for line in logs] == ["call_failed"]
        await channels.stop()


async def test_further_services_are_served_to_members_who_are_known_by_their_key(tmp_path: Path) -> None:
    me = member(tmp_path, "me")

    async def who(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return peer_id(certificate_of(context)).encode()

    control = grpc.method_handlers_generic_handler(
        "test.Control", {"Who": grpc.unary_unary_rpc_method_handler(who)}
    )
    async with answering(member(tmp_path, "peer"), [control]) as peer:
        credentials = grpc.ssl_channel_credentials(
            peer.identity.authority.pem,
            me.key_file.read_bytes(),
            me.certificate_file.read_bytes(),
        )
        name = ("grpc.ssl_target_name_override", node_name(peer.identity.id))
        async with grpc.aio.secure_channel(peer.address, credentials, options=[name]) as channel:
            ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Control/Who")
            assert await ask(b"", timeout=5) == me.id.encode()
