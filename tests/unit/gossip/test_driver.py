"""Members over real sockets on loopback, with times a quarter of the usual.

Less would suspect members for no other reason than that the machine is busy.
"""

import asyncio
import contextlib
import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip import discovery
from ollama_dist.gossip.calls import MAX_MESSAGE, CallFailed
from ollama_dist.gossip.channels import Channels
from ollama_dist.gossip.credentials import Credentials
from ollama_dist.gossip.driver import Driver, GossipSettings
from ollama_dist.gossip.keys import ClusterKey
from ollama_dist.gossip.protocol.config import LAN
from ollama_dist.gossip.protocol.effects import Effect, Failure, MemberView
from ollama_dist.gossip.protocol.messages import Kind
from tests.support.members import KEY, OTHER_KEY, member
from tests.support.ports import free_address
from tests.support.wait import until

SETTINGS = GossipSettings(host="127.0.0.1", mdns=False, config=LAN.scaled(0.25))


class Members:
    """Starts members in a folder and stops those that still run at the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[Driver] = []

    async def start(
        self, name: str, *seeds: str, key: ClusterKey = KEY, settings: GossipSettings = SETTINGS
    ) -> Driver:
        memory = self._folder / f"{name}.json"
        driver = Driver(
            Credentials(member(self._folder, name, key)), replace(settings, seeds=seeds, memory=memory)
        )
        await driver.start()
        self._running.append(driver)
        return driver

    async def stop(self, driver: Driver, *, leave: bool = True) -> None:
        self._running.remove(driver)
        await driver.stop(leave=leave)

    async def three(self) -> tuple[Driver, Driver, Driver]:
        """Three members that see each other."""
        a = await self.start("a")
        b, c = await self.start("b", address(a)), await self.start("c", address(a))
        await agree(a, b, c)
        return a, b, c

    async def stop_all(self) -> None:
        for driver in list(self._running):
            await self.stop(driver, leave=False)


@pytest.fixture
async def members(tmp_path: Path) -> AsyncIterator[Members]:
    running = Members(tmp_path)
    yield running
    await running.stop_all()


def address(driver: Driver) -> str:
    return driver.addresses[0]


def view(driver: Driver, other: NodeId) -> MemberView:
    return next(each for each in driver.members() if each.id == other)


def states(driver: Driver) -> dict[NodeId, MemberState]:
    return {each.id: each.state for each in driver.members()}


def sees(driver: Driver, other: NodeId, state: MemberState) -> Callable[[], bool]:
    return lambda: states(driver).get(other) is state


async def agree(*drivers: Driver) -> float:
    """Seconds until each sees exactly these as alive."""
    wanted = {driver.id for driver in drivers}

    def agreed() -> bool:
        return all(
            {node for node, state in states(driver).items() if state is MemberState.ALIVE} == wanted
            for driver in drivers
        )

    return await until(agreed, what="everybody's seeing everybody")


async def test_three_members_with_one_seed_become_one_cluster(members: Members) -> None:
    a, b, c = await members.three()
    assert {each.addresses for each in a.members()} == {a.addresses, b.addresses, c.addresses}
    assert [each.id for each in b.members() if each.is_self] == [b.id]
    assert all("failed_inputs" not in driver.counters() for driver in (a, b, c))


async def test_a_member_alone_is_a_cluster_of_one(members: Members) -> None:
    alone = await members.start("alone", free_address())
    await until(sees(alone, alone.id, MemberState.ALIVE))
    assert len(alone.members()) == 1


REQUEST: ContextVar[str] = ContextVar("REQUEST", default="")
"""As the log has one: lines that are written in its context carry it."""


async def test_what_is_told_of_members_belongs_to_no_request(members: Members) -> None:
    request = REQUEST.set("a request that has the node join, and say something of itself")
    a = await members.start("a")
    b = await members.start("b", address(a))
    told_in: list[str] = []
    for driver in (a, b):
        driver.subscribe(lambda _: told_in.append(REQUEST.get()))
        driver.set_state("model", b"llama3")
    REQUEST.reset(request)
    await agree(a, b)
    await members.stop(b, leave=False)
    await until(sees(a, b.id, MemberState.DEAD), seconds=60, what="its death")
    assert len(told_in) >= 3
    assert set(told_in) == {""}


async def test_a_member_that_leaves_is_gone_at_once(members: Members) -> None:
    a, b, c = await members.three()
    await members.stop(c)
    await until(lambda: sees(a, c.id, MemberState.LEFT)() and sees(b, c.id, MemberState.LEFT)())
    assert view(a, c.id).reason == "left"


async def test_a_member_that_dies_is_suspected_and_then_dead(members: Members) -> None:
    a, b, c = await members.three()
    seen: list[MemberState] = []
    a.subscribe(lambda _: seen.append(states(a)[c.id]))
    await members.stop(c, leave=False)
    # Subscribers hear of a change a moment after it can be seen.
    await until(lambda: MemberState.DEAD in seen and sees(b, c.id, MemberState.DEAD)())
    assert MemberState.SUSPECT in seen
    assert seen.index(MemberState.SUSPECT) < seen.index(MemberState.DEAD)


async def test_a_member_that_comes_back_is_alive_again_without_a_seed(members: Members) -> None:
    a, b, c = await members.three()
    generation = view(a, c.id).generation
    await members.stop(c, leave=False)
    await until(sees(a, c.id, MemberState.DEAD))
    again = await members.start("c")
    await agree(a, b, again)
    assert again.id == c.id
    assert view(a, c.id).generation > generation


async def test_a_member_that_left_may_come_back(members: Members) -> None:
    a, b, c = await members.three()
    await members.stop(c)
    await until(sees(a, c.id, MemberState.LEFT))
    await agree(a, b, await members.start("c"))


async def test_load_and_state_reach_everybody(members: Members) -> None:
    a, b, c = await members.three()
    a.set_load(b"busy")
    a.set_state("model", b"llama3")
    a.set_state("node", b"desk")
    await until(lambda: all(view(each, a.id).hot == b"busy" for each in (a, b, c)), what="the load")
    known = {"model": b"llama3", "node": b"desk"}
    await until(lambda: all(view(each, a.id).cold == known for each in (a, b, c)), what="the state")
    a.set_state("model", None)
    await until(lambda: all(view(each, a.id).cold == {"node": b"desk"} for each in (b, c)))


async def test_a_newcomer_learns_what_was_said_before(members: Members) -> None:
    a, b, c = await members.three()
    a.set_state("model", b"llama3")
    late = await members.start("late", address(b))
    await agree(a, b, c, late)
    await until(lambda: view(late, a.id).cold == {"model": b"llama3"})


async def test_subscribers_are_told_once_for_a_batch_and_a_failing_one_harms_nobody(members: Members) -> None:
    a = await members.start("a")
    told: list[int] = []

    def fail(_: object) -> None:
        raise RuntimeError("a subscriber's own mistake")

    a.subscribe(fail)
    news: set[NodeId] = set()
    a.subscribe(lambda _: told.append(len(a.members())))
    a.subscribe(news.update)
    b = await members.start("b", address(a))
    await agree(a, b)
    await until(lambda: told[-1:] == [2], what="the subscriber's being told")
    assert b.id in news
    assert a.member(b.id) == view(a, b.id)
    assert a.member(NodeId("0" * 16)) is None


async def test_another_cluster_gets_no_further_than_the_door(members: Members) -> None:
    a, b, c = await members.three()
    before = {each.id: (each.generation, each.cold_version) for each in a.members()}
    stranger = await members.start("stranger", address(a), address(b), key=OTHER_KEY)
    a.add_seed(address(stranger))
    await until(lambda: stranger.counters().get("call_rejected", 0) >= 2, what="the stranger's being refused")
    await until(lambda: a.counters().get("call_rejected", 0) >= 1, what="our refusing the stranger")
    assert {each.id: (each.generation, each.cold_version) for each in a.members()} == before
    assert len(stranger.members()) == 1
    assert {trouble.kind for trouble in stranger.seed_troubles().values()} == {Failure.REJECTED}
    assert set(stranger.seed_troubles()) == {address(a), address(b)}
    await agree(a, b, c)


async def test_a_seed_where_nobody_is_is_named_until_somebody_is(members: Members) -> None:
    reserved = free_address()
    a = await members.start("a", reserved)
    await until(lambda: bool(a.seed_troubles()), what="the seed's being tried")
    assert a.seed_troubles()[reserved].kind is Failure.REFUSED

    b = await members.start("b", settings=replace(SETTINGS, ports=[int(reserved.rpartition(":")[2])]))
    await agree(a, b)
    assert a.seed_troubles() == {}


async def test_a_seed_that_is_this_node_itself_does_no_harm(members: Members) -> None:
    reserved = free_address()
    port = int(reserved.rpartition(":")[2])
    settings = replace(SETTINGS, ports=[port], advertise=(f"localhost:{port}",))
    a = await members.start("a", reserved, f"127.0.0.2:{port}", "localhost:1", settings=settings)
    b = await members.start("b", reserved)
    await agree(a, b)


async def test_a_seed_given_later_is_tried(members: Members) -> None:
    a, b = await members.start("a"), await members.start("b")
    a.add_seed(address(b))
    await agree(a, b)


async def test_a_lost_connection_is_looked_into(members: Members) -> None:
    a, b, c = await members.three()
    await until(lambda: len(a._channels) == 2)
    await members.stop(c, leave=False)
    await until(lambda: a.counters().get("call_refused", 0) > 0, what="the refusal being noticed")
    await until(sees(b, c.id, MemberState.DEAD))


async def test_the_address_that_works_is_shown_first(members: Members) -> None:
    closed, reserved = free_address(), free_address()
    port = int(reserved.rpartition(":")[2])
    settings = replace(SETTINGS, ports=[port], advertise=(closed, reserved))
    a = await members.start("a", settings=settings)
    b = await members.start("b", reserved)
    await agree(a, b)
    await until(lambda: view(b, a.id).addresses == (reserved, closed), what="the working address")


async def test_a_copied_identity_stays_outside(members: Members, tmp_path: Path) -> None:
    a, b, c = await members.three()
    (tmp_path / "copy").mkdir(mode=0o700)
    for name in ("node.key", "node.crt"):
        (tmp_path / "copy" / name).write_bytes((tmp_path / "c" / name).read_bytes())
        (tmp_path / "copy" / name).chmod(0o600)
    copy = await members.start("copy", address(a))
    assert copy.id == c.id
    await until(lambda: copy.is_clone, what="the copy's noticing")
    assert copy.members() == ()
    await agree(a, b, c)
    assert view(a, c.id).addresses == c.addresses


async def test_members_find_each_other_by_multicast_alone(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery, "SERVICE_TYPE", f"_od-{secrets.token_hex(4)}._tcp.local.")
    settings = replace(SETTINGS, mdns=True)
    a, b = await members.start("a", settings=settings), await members.start("b", settings=settings)
    stranger = await members.start("stranger", key=OTHER_KEY, settings=settings)
    await agree(a, b)
    await until(lambda: bool(a.seen_clusters()), what="the other cluster being seen")
    seen = a.seen_clusters()[0]
    assert (seen.cluster_id, seen.addresses) == (OTHER_KEY.cluster_id, stranger.addresses)


async def test_a_process_that_stood_still_judges_nobody_by_what_it_missed(members: Members) -> None:
    a, b, c = await members.three()
    time.sleep(1.0)  # noqa: ASYNC251
    await until(lambda: a.counters().get("stalls", 0) > 0, what="the stall's being noticed")
    await agree(a, b, c)
    assert all(driver.counters().get("event_dead", 0) == 0 for driver in (a, b, c))


async def test_what_cannot_be_read_is_refused_and_counted(members: Members, tmp_path: Path) -> None:
    a = await members.start("a")
    channels = Channels(Credentials(member(tmp_path, "rogue")), lambda peer: None)
    with pytest.raises(CallFailed) as caught:
        await channels.call(a.id, a.addresses, Kind.SYNC, b"\xffgarbage", 5.0)
    assert caught.value.kind is Failure.REJECTED
    assert a.counters()["malformed"] == 1
    assert len(a.members()) == 1
    await channels.stop()


async def test_a_mistake_in_one_input_does_not_end_membership(
    members: Members, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = await members.three()

    def fail(*arguments: object) -> list[Effect]:
        raise ZeroDivisionError

    assert a._core is not None
    with monkeypatch.context() as patched:
        patched.setattr(a._core, "tick", fail)
        await until(lambda: a.counters().get("failed_inputs", 0) >= 2, what="two failed inputs")
    a.set_state("model", b"llama3")
    await until(lambda: view(b, a.id).cold == {"model": b"llama3"})
    await agree(a, b, c)


async def test_a_disk_that_fails_keeps_nobody_from_taking_part(members: Members, tmp_path: Path) -> None:
    a = await members.start("a")
    settings = replace(SETTINGS, seeds=(address(a),), memory=tmp_path / "no such folder" / "memory.json")
    b = Driver(Credentials(member(tmp_path, "b")), settings)
    await b.start()
    await agree(a, b)
    await b.stop()


async def test_the_next_port_is_taken_when_one_is_not_free(members: Members) -> None:
    a = await members.start("a")
    b = await members.start("b", address(a), settings=replace(SETTINGS, ports=(a.port, 0)))
    assert b.port != a.port
    await agree(a, b)


async def test_who_has_no_key_changes_nothing_whatever_it_sends(members: Members) -> None:
    a, b, c = await members.three()
    before = {driver.id: _known(driver) for driver in (a, b, c)}
    host, _, port = address(a).rpartition(":")
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    for said in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        secrets.token_bytes(70_000),
        b"",
    ):
        for tls in (None, anybody):
            with contextlib.suppress(OSError):  # a closed door is as good an answer as any
                await _said(host, int(port), said, tls)
    slow = [await asyncio.open_connection(host, int(port)) for _ in range(50)]
    for _ in range(5):
        for _, writer in slow:
            writer.write(b"\x16")  # a handshake that never ends
        await asyncio.sleep(0.05)
    a.set_state("model", b"llama3")
    await until(lambda: all(view(each, a.id).cold == {"model": b"llama3"} for each in (b, c)))
    assert {driver.id: _known(driver) for driver in (a, b, c)} == before
    for driver in (a, b, c):
        assert driver.counters()["event_dead"] == driver.counters().get("failed_inputs", 0) == 0
    for _, writer in slow:
        writer.close()


async def test_a_member_that_sends_rubbish_is_refused_and_changes_nothing(
    members: Members, tmp_path: Path
) -> None:
    a, b, c = await members.three()
    rogue = Channels(Credentials(member(tmp_path, "rogue")), lambda peer: None)
    before = {driver.id: _known(driver) for driver in (a, b, c)}
    rng = Random(3)
    for size in (0, 1, 40, 4000, MAX_MESSAGE, MAX_MESSAGE + 1):
        for kind in Kind:
            with contextlib.suppress(CallFailed):
                await rogue.call(a.id, a.addresses, kind, rng.randbytes(size), 5.0)
    a_few = asyncio.Semaphore(4)

    async def flood() -> None:
        async with a_few:
            with contextlib.suppress(CallFailed):
                await rogue.call(a.id, a.addresses, Kind.PING, b"\xff", 10.0)

    await asyncio.gather(*(flood() for _ in range(200)))
    assert a.counters()["malformed"] >= 20
    assert a.counters()["rate_limited"] >= 50
    assert {driver.id: _known(driver) for driver in (a, b, c)} == before
    await agree(a, b, c)
    await rogue.stop()


def _known(driver: Driver) -> dict[NodeId, int]:
    """Whom it has ever heard of, and in which life."""
    return {each.id: each.generation for each in driver.members()}


async def _said(host: str, port: int, said: bytes, tls: ssl.SSLContext | None) -> None:
    """Connect, say it, and wait for the end."""
    async with asyncio.timeout(2):
        reader, writer = await asyncio.open_connection(host, port, ssl=tls)
        writer.write(said)
        if said:
            await writer.drain()
        writer.close()
        await reader.read()
