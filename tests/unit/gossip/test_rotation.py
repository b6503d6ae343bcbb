"""One member's part in a rotation, with the others played by the test."""

from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from ollama_dist.core.errors import BadRequest
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.calls import CallFailed
from ollama_dist.gossip.keyring import Keyring, KeyringFile
from ollama_dist.gossip.protocol.effects import Failure, MemberView
from ollama_dist.gossip.rotation import SETTLE_S, STATE_KEY, Rotation, RotationUnderWay, check_overlap
from tests.support.members import KEY

ONE, OTHER = NodeId("1" * 16), NodeId("2" * 16)


class Played:
    """Membership whose members do as they are told."""

    def __init__(self) -> None:
        self.views: dict[NodeId, MemberView] = {}
        self.state: dict[str, bytes | None] = {}
        self.asked: list[tuple[NodeId, dict[str, object]]] = []
        self.expelled: list[tuple[NodeId, str]] = []
        self.renewed: list[NodeId | None] = []
        self.deaf: set[NodeId] = set()

    def add(self, node: NodeId, mark: bytes = b"", state: MemberState = MemberState.ALIVE) -> None:
        cold = {STATE_KEY: mark} if mark else {}
        self.views[node] = MemberView(
            *(node, state, False, True, 0.0, "", ("127.0.0.1:1",), 1, 0, None, b"", 0, 0.0, 0.0), cold
        )

    def members(self) -> tuple[MemberView, ...]:
        return tuple(self.views.values())

    def set_state(self, key: str, value: bytes | None) -> None:
        self.state[key] = value

    def renew(self) -> None:
        self.renewed.append(None)

    def renew_to(self, member: NodeId) -> None:
        self.renewed.append(member)

    def expel(self, member: NodeId, reason: str) -> None:
        self.expelled.append((member, reason))

    async def ask(self, member: MemberView, method: str, payload: bytes, timeout: float) -> bytes:
        if member.id in self.deaf:
            raise CallFailed(Failure.TIMEOUT, "deaf")
        self.asked.append((member.id, orjson.loads(payload)))
        return b"{}"

    @property
    def told(self) -> list[NodeId]:
        return [node for node, _ in self.asked]


class Member:
    def __init__(self, folder: Path, others: Sequence[NodeId] = (ONE, OTHER)) -> None:
        self.changes: list[Keyring] = []
        self.file = KeyringFile(folder / "rotation.json")
        self.members = Played()
        for node in others:
            self.members.add(node)
        folder.mkdir(exist_ok=True)
        self.rotation = Rotation(
            folder, self.file, self.file.load(KEY), lambda ring, _: self.changes.append(ring)
        )
        self.rotation.start(self.members)

    @property
    def mark(self) -> bytes:
        return self.rotation.ring.current.mark.encode()

    def step(self, now: float) -> None:
        self.rotation._step(now)


async def test_a_rotation_hands_the_key_out_and_ends_when_all_have_it(tmp_path: Path) -> None:
    member = Member(tmp_path / "me")
    rotation, members = member.rotation, member.members
    said = await rotation.rotate(10.0)
    assert (said["epoch"], said["members"]) == (2, 3)
    assert members.told == [ONE, OTHER]
    assert members.state == {STATE_KEY: member.mark}
    assert member.changes == [rotation.ring]
    assert member.file.load(KEY) == rotation.ring
    members.add(ONE, member.mark)
    now = rotation._began
    member.step(now + 1)
    assert rotation.pass_to(ONE).identity.epoch == 2
    assert rotation.pass_to(OTHER).identity.epoch == 1
    members.add(OTHER, member.mark)
    member.step(now + 2)
    member.step(now + 11.9)
    assert rotation.is_under_way
    member.step(now + 12.1)
    assert rotation.credentials.older is None
    assert member.file.load(KEY) == Keyring(rotation.ring.current)
    await rotation.stop()


async def test_the_old_key_is_never_dropped_before_all_have_heard_of_all(tmp_path: Path) -> None:
    member = Member(tmp_path / "me", [ONE])
    await member.rotation.rotate(0.0)
    member.members.add(ONE, member.mark)
    now = member.rotation._began
    member.step(now)
    member.step(now + SETTLE_S - 0.1)
    assert member.rotation.is_under_way
    member.step(now + SETTLE_S)
    assert member.rotation.credentials.older is None
    await member.rotation.stop()


async def test_who_missed_the_key_is_offered_it_again(tmp_path: Path) -> None:
    member = Member(tmp_path / "me")
    member.members.deaf = {OTHER}
    assert (await member.rotation.rotate(0.0))["members"] == 2
    member.members.deaf = set()
    member.step(member.rotation._began + 1.5)
    tasks = list(member.rotation._tasks._running)
    for task in tasks:
        await task
    assert member.members.told.count(OTHER) == 1
    await member.rotation.stop()


async def test_a_second_rotation_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    member = Member(tmp_path / "me")
    await member.rotation.rotate(600.0)
    ring = member.rotation.ring
    with pytest.raises(RotationUnderWay, match="epoch 2 is still being handed around"):
        await member.rotation.rotate(600.0)
    assert member.rotation.ring is ring
    await member.rotation.stop()


async def test_a_key_that_is_offered_is_taken_once_and_an_older_one_never(tmp_path: Path) -> None:
    giver, taker = Member(tmp_path / "giver", [ONE]), Member(tmp_path / "taker", [OTHER])
    await giver.rotation.rotate(30.0)
    offer = orjson.dumps(giver.members.asked[0][1])
    for _ in range(2):
        answer = orjson.loads(taker.rotation._heard(OTHER, offer))
        assert answer == {"mark": giver.rotation.ring.current.mark}
    assert len(taker.changes) == 1
    assert taker.rotation.ring.previous == KEY
    with pytest.raises(ValueError, match="not an offer"):
        taker.rotation._heard(OTHER, b"[]")
    older = orjson.dumps({"key": KEY.text})
    taker.rotation._heard(OTHER, older)
    assert taker.rotation.ring.current == giver.rotation.ring.current
    for each in (giver, taker):
        await each.rotation.stop()


async def test_revoking_tells_those_who_stay_directly_and_accepts_the_old_key_from_nobody_else(
    tmp_path: Path,
) -> None:
    member = Member(tmp_path / "me")
    said = await member.rotation.revoke(OTHER, "desk")
    assert (said["members"], said["missed"]) == (2, 0)
    (one, offer), (other, courtesy) = member.members.asked
    assert (one, other, courtesy) == (ONE, OTHER, {"revoked_by": "desk"})
    assert offer["only"] == sorted([ONE, member.rotation.credentials.id])
    assert member.rotation.ring.only == frozenset([ONE, member.rotation.credentials.id])
    assert member.members.expelled == [(OTHER, "revoked by desk")]
    await member.rotation.stop()


async def test_who_is_revoked_says_so_after_a_restart_too(tmp_path: Path) -> None:
    member = Member(tmp_path / "me")
    member.rotation._heard(ONE, orjson.dumps({"revoked_by": "desk"}))
    assert [node for node, _ in member.members.expelled] == [ONE, OTHER]
    assert member.file.load(KEY).revoked_by == "desk"
    assert member.rotation.ring.current == KEY
    await member.rotation.stop()


def test_an_overlap_has_bounds() -> None:
    assert check_overlap(3600) == 3600
    for wrong in (-1, 3601, float("nan")):
        with pytest.raises(BadRequest):
            check_overlap(wrong)
