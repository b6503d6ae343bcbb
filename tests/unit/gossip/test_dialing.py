import asyncio
from pathlib import Path

import pytest

from ollama_dist.gossip.calls import CallFailed
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.dialing import meet, meet_peer, split_host_port
from ollama_dist.gossip.identity import Identity
from ollama_dist.gossip.protocol.effects import Failure
from tests.support.members import OTHER_KEY, answering, black_hole, member
from tests.support.ports import free_address


@pytest.fixture
def me(tmp_path: Path) -> Identity:
    return member(tmp_path, "me")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("desk:11436", ("desk", 11436)),
        ("10.0.0.1:1", ("10.0.0.1", 1)),
        ("[fd00::2]:65535", ("fd00::2", 65535)),
    ],
)
def test_addresses_are_taken_apart(text: str, parts: tuple[str, int]) -> None:
    assert split_host_port(text) == parts


@pytest.mark.parametrize("text", ["", "desk", "desk:", ":11436", "desk:0", "desk:65536", "desk:x", "desk:١"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not host:port"):
        split_host_port(text)


async def test_a_member_is_known_by_its_key(me: Identity, tmp_path: Path) -> None:
    async with answering(member(tmp_path, "peer")) as peer:
        met = await meet(peer.address, Credentials(me).passes[0], 5.0)
        assert (met.node, met.host, met.port) == (peer.identity.id, "127.0.0.1", peer.port)
        assert peer.asked == []


async def failure_at(address: str, me: Identity, timeout: float = 5.0) -> Failure:
    with pytest.raises(CallFailed) as caught:
        await meet(address, Credentials(me).passes[0], timeout)
    assert address in str(caught.value)
    return caught.value.kind


async def test_where_nobody_listens_a_connection_is_refused(me: Identity) -> None:
    assert await failure_at(free_address(), me) is Failure.REFUSED


async def test_where_nobody_speaks_time_runs_out(me: Identity) -> None:
    async with black_hole() as address:
        assert await failure_at(address, me, timeout=0.1) is Failure.TIMEOUT


async def test_a_name_nobody_has_is_unreachable(me: Identity) -> None:
    assert await failure_at("no-such-host.invalid:11436", me) is Failure.UNREACHABLE
    assert await failure_at("no address", me) is Failure.UNREACHABLE


async def test_another_cluster_rejects_us_and_we_it(tmp_path: Path, me: Identity) -> None:
    async with answering(member(tmp_path, "stranger", OTHER_KEY)) as stranger:
        assert await failure_at(stranger.address, me) is Failure.REJECTED


async def test_who_does_not_take_our_certificate_is_noticed(tmp_path: Path, me: Identity) -> None:
    """The client's side of TLS 1.3 is content before the server has judged it."""
    theirs = Credentials(member(tmp_path, "mine", OTHER_KEY), me).passes[0]
    async with answering(member(tmp_path, "peer")) as peer:
        with pytest.raises(CallFailed, match="does not take this node for a member") as caught:
            await meet(peer.address, theirs, 5.0)
        assert caught.value.kind is Failure.REJECTED


async def test_a_program_that_speaks_something_else_is_no_member(me: Identity) -> None:
    async def shout(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
        writer.close()

    server = await asyncio.start_server(shout, "127.0.0.1", 0)
    async with server:
        address = "{}:{}".format(*server.sockets[0].getsockname())
        # Which of the two, is a race between what it said and the connection's end.
        assert await failure_at(address, me) in (Failure.REJECTED, Failure.UNREACHABLE)


async def test_a_peer_is_met_at_the_first_address_where_it_answers(tmp_path: Path, me: Identity) -> None:
    async with answering(member(tmp_path, "peer")) as peer, black_hole() as silent:
        addresses = [silent, free_address(), peer.address]
        met = await meet_peer(peer.identity.id, addresses, Credentials(me).passes[0], 5.0)
        assert met.address == peer.address


async def test_somebody_else_at_a_peers_address_is_not_the_peer(tmp_path: Path, me: Identity) -> None:
    peer = member(tmp_path, "peer")
    async with answering(member(tmp_path, "other")) as other:
        with pytest.raises(CallFailed, match=f"{other.identity.id} is at") as caught:
            await meet_peer(peer.id, [other.address], Credentials(me).passes[0], 5.0)
        assert caught.value.kind is Failure.REJECTED


async def test_of_several_failures_the_most_telling_is_raised(tmp_path: Path, me: Identity) -> None:
    async with black_hole() as silent:
        with pytest.raises(CallFailed) as caught:
            await meet_peer(me.id, [silent, free_address()], Credentials(me).passes[0], 0.3)
    assert caught.value.kind is Failure.REFUSED


async def test_a_peer_without_addresses_is_unreachable(me: Identity) -> None:
    with pytest.raises(CallFailed) as caught:
        await meet_peer(me.id, [], Credentials(me).passes[0], 1.0)
    assert caught.value.kind is Failure.UNREACHABLE
