import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ollama_dist.gossip.identity import Identity
from ollama_dist.gossip.invite import (
    TRIES,
    CodeExpired,
    CodeForeign,
    CodeUnknown,
    CodeUsed,
    CodeVoid,
    Door,
    DoorUnreachable,
    join,
    redeem,
)
from ollama_dist.gossip.invite_code import CodeMistyped, InviteCode
from ollama_dist.gossip.keys import ClusterKey
from tests.support.ports import free_port
from tests.support.wait import until

KEY = ClusterKey.make()
MEMBERS = ["192.168.1.20:11436", "192.168.1.21:11436"]


def make_door(folder: Path, key: ClusterKey = KEY) -> Door:
    return Door(
        Identity.load(folder, key),
        key,
        listen=("127.0.0.1", [0]),
        hosts=lambda: ["127.0.0.1"],
        members=lambda: MEMBERS,
    )


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Door]:
    door = make_door(tmp_path / "inviter")
    yield door
    await door.stop()


def moved(text: str, *, port: int | None = None, hosts: tuple[str, ...] | None = None) -> str:
    code = InviteCode.parse(text)
    return replace(code, port=port or code.port, hosts=hosts or code.hosts).text


def mistaken(text: str) -> str:
    """The same door, but a secret that opens nothing."""
    return replace(InviteCode.parse(text), secret=bytes(10)).text


async def test_a_code_brings_the_key_and_where_to_find_the_members(door: Door) -> None:
    invitation = await door.invite()
    joined = await join(invitation.code)
    assert joined.cluster_key == KEY.text
    assert joined.addresses == tuple(MEMBERS)
    assert KEY.text not in repr(joined)
    assert invitation.code not in repr(invitation)
    assert 590 < invitation.expires_at - time.time() <= 600


async def test_a_program_without_a_loop_can_redeem_a_code(door: Door) -> None:
    invitation = await door.invite()
    joined = await asyncio.to_thread(redeem, invitation.code)
    assert joined.cluster_key == KEY.text


async def test_a_code_lets_one_machine_in(door: Door) -> None:
    invitation = await door.invite()
    await join(invitation.code)
    with pytest.raises(CodeUsed):
        await join(invitation.code)


async def test_of_two_at_once_only_one_gets_in(door: Door) -> None:
    invitation = await door.invite()
    both = await asyncio.gather(join(invitation.code), join(invitation.code), return_exceptions=True)
    assert sorted(type(each).__name__ for each in both) == ["CodeUsed", "Joined"]


async def test_two_open_codes_let_two_machines_in(door: Door) -> None:
    first, second = await door.invite(), await door.invite()
    assert (await join(second.code)).cluster_key == (await join(first.code)).cluster_key == KEY.text


async def test_the_door_is_open_only_while_a_code_is(door: Door) -> None:
    before = door.is_open
    invitation = await door.invite(lifetime_s=0.2)
    assert (before, door.is_open) == (False, True)
    await until(lambda: not door.is_open)
    late = replace(InviteCode.parse(invitation.code), expires_at=int(time.time()) - 1).text
    with pytest.raises(CodeExpired):
        await join(late)


async def test_an_expired_code_is_told_so_while_another_is_open(door: Door) -> None:
    short = await door.invite(lifetime_s=0.05)
    await door.invite()
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > 0.1)
    with pytest.raises(CodeExpired):
        await join(short.code)


async def test_wrong_secrets_make_every_open_code_void(door: Door) -> None:
    invitation = await door.invite()
    for _ in range(TRIES):
        with pytest.raises(CodeUnknown):
            await join(mistaken(invitation.code))
    with pytest.raises(CodeVoid):
        await join(invitation.code)
    assert (await join((await door.invite()).code)).cluster_key == KEY.text


async def test_a_code_of_another_cluster_is_told_before_its_secret_is_said(
    door: Door, tmp_path: Path
) -> None:
    other = make_door(tmp_path / "other", ClusterKey.make())
    ours, theirs = await door.invite(), await other.invite()
    there = InviteCode.parse(theirs.code).port
    with pytest.raises(CodeForeign):
        await join(moved(ours.code, port=there))
    assert other._tries == 0
    assert (await join(ours.code)).cluster_key == KEY.text
    await other.stop()


async def test_a_machine_in_the_middle_never_sees_the_secret(door: Door, tmp_path: Path) -> None:
    """It may show the real authority's certificate, which is no secret, but not a key of that authority's."""
    middle = make_door(tmp_path / "middle", ClusterKey.make())
    real = Identity.load(tmp_path / "inviter", KEY)
    middle._identity = replace(
        real,
        certificate_file=middle._identity.certificate_file,
        key_file=middle._identity.key_file,
    )
    await middle.invite()
    invitation = await door.invite()
    with pytest.raises(CodeForeign):
        await join(moved(invitation.code, port=middle._open()))
    assert middle._tries == 0
    await middle.stop()


async def test_addresses_where_nobody_answers_are_passed_over(door: Door) -> None:
    invitation = await door.invite()
    assert (await join(moved(invitation.code, hosts=("::1", "127.0.0.1")))).cluster_key == KEY.text


async def test_nobody_at_any_address_is_said_with_the_addresses(door: Door) -> None:
    invitation = await door.invite()
    with pytest.raises(DoorUnreachable, match=r"127\.0\.0\.1 port \d+"):
        await join(moved(invitation.code, port=free_port()))


async def test_a_mistyped_code_is_not_tried(door: Door) -> None:
    invitation = await door.invite()
    with pytest.raises(CodeMistyped):
        await join(invitation.code[:-1])
    assert door._tries == 0


async def test_a_guest_who_says_nonsense_is_dropped(door: Door) -> None:
    invitation = await door.invite()
    code = InviteCode.parse(invitation.code)
    reader, writer = await asyncio.open_connection("127.0.0.1", code.port)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(5):
        await reader.read()
    writer.close()
    assert (await join(invitation.code)).cluster_key == KEY.text


async def test_a_crowd_at_the_door_is_bounded(door: Door) -> None:
    invitation = await door.invite()
    code = InviteCode.parse(invitation.code)
    crowd = [await asyncio.open_connection("127.0.0.1", code.port) for _ in range(20)]
    await until(lambda: sum(reader.at_eof() for reader, _ in crowd) >= 12, what="the crowd being thinned")
    assert len(door._guests) <= 8
    for _, writer in crowd:
        writer.close()
    await until(lambda: not door._guests)
    assert (await join(invitation.code)).cluster_key == KEY.text
