"""Two keys at once: who meets whom, by which certificate, and when it is over."""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from ollama_dist.core.errors import Unauthorized
from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.calls import CallFailed
from ollama_dist.gossip.channels import Channels
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.dialing import meet
from ollama_dist.gossip.identity import Identity
from ollama_dist.gossip.keys import ClusterKey
from ollama_dist.gossip.protocol.messages import Kind
from ollama_dist.gossip.server import Server
from tests.support.members import KEY
from tests.unit.gossip.test_tls import connect, listener

NEW = KEY.successor()
NEWER = NEW.successor()


@dataclass
class Member:
    folder: Path

    def __post_init__(self) -> None:
        self.credentials = Credentials(self.by(KEY))

    def by(self, key: ClusterKey) -> Identity:
        return Identity.load(self.folder, key, f"node.{key.epoch}.crt")

    def overlap(self, only: frozenset[NodeId] | None = None) -> None:
        self.credentials.change(self.by(NEW), self.by(KEY), only)

    def change(self) -> None:
        self.credentials.change(self.by(NEW))

    @property
    def id(self) -> NodeId:
        return self.credentials.id


@pytest.fixture
def a(tmp_path: Path) -> Member:
    return Member(tmp_path / "a")


@pytest.fixture
def b(tmp_path: Path) -> Member:
    return Member(tmp_path / "b")


class Gossip:
    """One member's listener and another's channels, both by credentials that change."""

    def __init__(self, server: Member, client: Member) -> None:
        self._peer = server.id
        self.callers: list[NodeId] = []
        self.server = Server(server.credentials, self._answer, lambda _: None)
        self.channels = Channels(client.credentials, lambda _: None)
        self.address = ""

    async def __aenter__(self) -> "Gossip":
        self.address = f"127.0.0.1:{await self.server.start('127.0.0.1', [0])}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channels.stop()
        await self.server.stop()

    async def _answer(self, peer: NodeId, kind: Kind, payload: bytes) -> bytes:
        self.callers.append(peer)
        return payload

    async def ask(self) -> bytes:
        return await self.channels.call(self._peer, [self.address], Kind.PING, b"?", 5.0)


@pytest.mark.parametrize("server_first", [True, False])
async def test_members_meet_at_every_step_of_a_rotation(a: Member, b: Member, server_first: bool) -> None:
    order = [a, b] if server_first else [b, a]
    steps = [member.overlap for member in order] + [member.change for member in order]
    async with Gossip(a, b) as gossip:
        assert await gossip.ask() == b"?"
        for step in steps:
            step()
            gossip.channels.renew()
            assert await gossip.ask() == b"?"
            gossip.channels.renew_to(a.id)
            assert await gossip.ask() == b"?"
        assert set(gossip.callers) == {b.id}


async def test_a_connection_of_a_key_that_is_over_is_made_anew(a: Member, b: Member) -> None:
    async with Gossip(a, b) as gossip:
        assert await gossip.ask() == b"?"
        b.overlap()
        a.change()
        assert await gossip.ask() == b"?"


async def test_who_was_away_is_told_that_the_key_was_rotated(a: Member, b: Member) -> None:
    async with Gossip(a, b) as gossip:
        assert await gossip.ask() == b"?"
        a.change()
        with pytest.raises(CallFailed, match=r"rotated \(epoch 2 at .*, 1 here\).* or was revoked") as caught:
            await gossip.ask()
        assert caught.value.is_rotated
        with pytest.raises(CallFailed, match="rotated"):
            await meet(gossip.address, b.credentials.passes[0], 5.0)


async def test_without_overlap_only_those_who_stay_come_in_by_the_old_key(
    a: Member, b: Member, tmp_path: Path
) -> None:
    revoked = Member(tmp_path / "revoked")
    async with Gossip(a, b) as staying, Gossip(a, revoked) as going:
        assert await going.ask() == b"?"
        a.overlap(only=frozenset([b.id]))
        with pytest.raises(CallFailed):
            await going.ask()
        assert await staying.ask() == b"?"
        b.overlap(only=frozenset([a.id]))
        assert await staying.ask() == b"?"
        assert set(staying.callers) == {b.id}


def test_a_certificate_is_judged_by_what_is_valid_now(a: Member, b: Member) -> None:
    der = ssl.PEM_cert_to_DER_cert(b.by(KEY).certificate_file.read_text())
    assert a.credentials.admit(der) == b.id
    a.overlap()
    assert a.credentials.admit(der) == b.id
    a.overlap(only=frozenset())
    with pytest.raises(Unauthorized, match="does not belong to the cluster any more"):
        a.credentials.admit(der)
    a.change()
    with pytest.raises(Unauthorized, match="a key that is not valid here"):
        a.credentials.admit(der)


async def test_a_listener_that_stays_shows_what_it_is_asked_for(a: Member, b: Member) -> None:
    async with listener(a.credentials.server_context()) as (port, seen):
        for step in (a.overlap, b.overlap, a.change):
            step()
            for shown in b.credentials.passes[:1] if step == a.change else b.credentials.passes:
                assert await connect(port, shown.relay, shown.server_name) == a.id
                assert await seen.get() == b.id
        with pytest.raises((ssl.SSLError, ConnectionResetError)):
            await connect(port, b.credentials.passes[1].relay, b.credentials.passes[1].server_name)


def test_of_two_successors_everybody_keeps_the_same() -> None:
    one, other = KEY.successor(), KEY.successor()
    assert one.replaces(KEY)
    assert not KEY.replaces(one)
    assert one.replaces(other) != other.replaces(one)
    assert NEWER.replaces(one)
    assert not ClusterKey.make().replaces(one)
    assert one.mark.startswith("2-")
    assert one.mark != other.mark


def test_a_grpc_server_is_told_of_other_certificates_once(a: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    ask: Callable[[], object] = list

    def made(_first: object, fetch: Callable[[], object], _is_required: bool) -> None:
        nonlocal ask
        ask = fetch

    monkeypatch.setattr(grpc, "dynamic_ssl_server_credentials", made)
    a.credentials.grpc_server_credentials()
    assert ask() is None
    a.overlap()
    both = ask()
    assert isinstance(both, grpc.ServerCertificateConfiguration)
    assert ask() is None
    a.change()
    assert ask() not in (None, both)
    assert ask() is None
