import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.calls import MAX_MESSAGE, CallFailed
from ollama_dist.gossip.channels import Channels
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.identity import Identity
from ollama_dist.gossip.protocol.effects import Failure
from ollama_dist.gossip.protocol.messages import Kind
from tests.support.members import OTHER_KEY, Answering, answering, black_hole, member
from tests.support.ports import free_address
from tests.support.wait import until


@asynccontextmanager
async def channels_of(identity: Identity, **how: int) -> AsyncIterator[tuple[Channels, list[NodeId]]]:
    lost: list[NodeId] = []
    channels = Channels(Credentials(identity), lost.append, **how)
    try:
        yield channels, lost
    finally:
        await channels.stop()


async def ask(channels: Channels, peer: Answering, payload: bytes = b"?", timeout: float = 30.0) -> bytes:
    return await channels.call(peer.identity.id, [peer.address], Kind.PING, payload, timeout)


async def test_a_call_arrives_from_who_made_it_and_is_answered(tmp_path: Path) -> None:
    me = member(tmp_path, "me")
    async with answering(member(tmp_path, "peer")) as peer, channels_of(me) as (channels, _):
        assert await ask(channels, peer, b"hello") == b"hello"
        assert peer.asked == [(me.id, Kind.PING, b"hello")]
        assert channels.working_address(peer.identity.id) == peer.address


async def test_one_connection_serves_many_calls(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "peer")) as peer,
        channels_of(member(tmp_path, "me")) as (channels, _),
    ):
        replies = await asyncio.gather(*(ask(channels, peer, bytes([number])) for number in range(8)))
        assert replies == [bytes([number]) for number in range(8)]
        assert len(channels) == 1


async def test_meeting_at_an_address_says_who_is_there(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "peer")) as peer,
        channels_of(member(tmp_path, "me")) as (channels, _),
    ):
        assert await channels.meet(peer.address, 5.0) == peer.identity.id
        assert await channels.call(peer.identity.id, [], Kind.SYNC, b"?", 5.0) == b"?"


async def test_a_silent_peer_is_a_timeout_and_after_two_the_connection_is_replaced(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "peer")) as peer,
        channels_of(member(tmp_path, "me")) as (channels, lost),
    ):
        await ask(channels, peer)
        peer.answer = peer.silence
        for still_there in (1, 0):
            with pytest.raises(CallFailed) as caught:
                await ask(channels, peer, timeout=0.1)
            assert caught.value.kind is Failure.TIMEOUT
            assert len(channels) == still_there
        peer.answer = peer.echo
        assert await ask(channels, peer) == b"?"
        assert lost == []


async def test_an_answer_in_between_keeps_the_connection(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "peer")) as peer,
        channels_of(member(tmp_path, "me")) as (channels, _),
    ):
        for _ in range(3):
            peer.answer = peer.silence
            with pytest.raises(CallFailed):
                await ask(channels, peer, timeout=0.1)
            peer.answer = peer.echo
            await ask(channels, peer)
        assert len(channels) == 1


async def test_a_peer_that_went_away_while_nothing_was_asked_is_told_of(tmp_path: Path) -> None:
    async with channels_of(member(tmp_path, "me")) as (channels, lost):
        async with answering(member(tmp_path, "peer")) as peer:
            await ask(channels, peer)
        await until(lambda: lost == [peer.identity.id], what="the loss being noticed")
        assert len(channels) == 0
        with pytest.raises(CallFailed) as caught:
            await ask(channels, peer)
        assert caught.value.kind is Failure.REFUSED


async def test_a_peer_that_came_back_is_reached_at_once(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "peer")) as peer,
        channels_of(member(tmp_path, "me")) as (channels, lost),
    ):
        await ask(channels, peer)
        port = peer.port
        await peer.server.stop()
        await until(lambda: bool(lost))
        await peer.start(port)
        assert await ask(channels, peer) == b"?"


async def test_another_member_at_the_same_address_is_not_taken_for_the_peer(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "peer")) as peer,
        channels_of(member(tmp_path, "me")) as (channels, _),
    ):
        await ask(channels, peer)
        port = peer.port
        await peer.server.stop()
        usurper = Answering(member(tmp_path, "usurper"))
        await usurper.start(port)
        with pytest.raises(CallFailed) as caught:
            await channels.call(peer.identity.id, [usurper.address], Kind.PING, b"secret", 5.0)
        assert caught.value.kind is Failure.REJECTED
        assert usurper.asked == []
        await usurper.server.stop()


async def test_a_node_of_another_cluster_is_never_asked(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "stranger", OTHER_KEY)) as stranger,
        channels_of(member(tmp_path, "me")) as (channels, _),
    ):
        with pytest.raises(CallFailed) as caught:
            await ask(channels, stranger)
        assert caught.value.kind is Failure.REJECTED
        assert stranger.asked == []


async def test_a_slow_connection_is_a_timeout_for_the_call_and_made_all_the_same(tmp_path: Path) -> None:
    async with (
        black_hole() as silent,
        answering(member(tmp_path, "peer")) as peer,
        channels_of(member(tmp_path, "me")) as (channels, _),
    ):
        with pytest.raises(CallFailed) as caught:
            await channels.call(peer.identity.id, [silent, peer.address], Kind.PING, b"?", 0.01)
        assert caught.value.kind is Failure.TIMEOUT
        await until(lambda: len(channels) == 1, what="the connection being made")


async def test_the_least_recently_used_channel_is_let_go(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "one")) as one,
        answering(member(tmp_path, "two")) as two,
        answering(member(tmp_path, "three")) as three,
        channels_of(member(tmp_path, "me"), limit=2) as (channels, lost),
    ):
        for peer in (one, two, one, three):
            await ask(channels, peer)
        assert len(channels) == 2
        assert lost == []
        assert await ask(channels, two) == b"?"


async def test_a_message_beyond_the_limit_is_rejected(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "peer")) as peer,
        channels_of(member(tmp_path, "me")) as (channels, _),
    ):
        assert len(await ask(channels, peer, bytes(MAX_MESSAGE))) == MAX_MESSAGE
        with pytest.raises(CallFailed) as caught:
            await ask(channels, peer, bytes(MAX_MESSAGE + 1))
        assert caught.value.kind is Failure.REJECTED
        assert len(peer.asked) == 1


async def test_stopping_ends_what_is_under_way(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "peer")) as peer,
        channels_of(member(tmp_path, "me")) as (channels, _),
    ):
        peer.answer = peer.silence
        calling = asyncio.create_task(ask(channels, peer, timeout=30.0))
        await until(lambda: bool(peer.asked))
        await channels.stop()
        with pytest.raises(CallFailed):
            await calling


async def test_a_cancelled_caller_is_cancelled(tmp_path: Path) -> None:
    async with (
        answering(member(tmp_path, "peer")) as peer,
        channels_of(member(tmp_path, "me")) as (channels, _),
    ):
        peer.answer = peer.silence
        calling = asyncio.create_task(ask(channels, peer, timeout=30.0))
        await until(lambda: bool(peer.asked))
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling


async def test_a_peer_nobody_can_reach_is_told_with_the_reason(tmp_path: Path) -> None:
    async with channels_of(member(tmp_path, "me")) as (channels, _):
        address = free_address()
        with pytest.raises(CallFailed, match=address):
            await channels.call(NodeId("0" * 16), [address], Kind.PING, b"?", 5.0)
