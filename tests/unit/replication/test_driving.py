"""Operations across restarts, silence and disks that fail; the other nodes are scripted."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from ollama_dist.core.errors import UpstreamRefused
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import ClusterView, MemberState
from ollama_dist.replication.moves import driving
from ollama_dist.replication.moves.correspondence import GONE_S
from ollama_dist.replication.moves.driving import Driver, NotKept
from ollama_dist.replication.moves.operations import (
    Kind,
    Operation,
    OperationId,
    State,
    Step,
    merged,
    read_operation,
    tidied,
    to_document,
)
from ollama_dist.replication.moves.peers import PeerRefused
from ollama_dist.replication.moves.shelf import Shelf
from tests.support.views import node, node_id, view
from tests.support.wait import until
from tests.unit.replication.test_operations import COPY, MOVE

OWNER, TARGET, SOURCE = node_id(1), node_id(2), node_id(3)


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "ROUND_S", 0.01)


class Doing:
    """Does each step when it is let."""

    def __init__(self) -> None:
        self.begun: list[Step] = []
        self.gate = asyncio.Event()
        self.end = (State.SUCCEEDED, "")

    async def do(self, step: Step, tell: Any) -> tuple[State, str]:
        self.begun.append(step)
        tell(replace(step, bytes_done=1))
        await self.gate.wait()
        return self.end


class Others:
    """The other nodes: what each knows, merged as they would."""

    def __init__(self) -> None:
        self.known: dict[NodeId, Operation] = {}
        self.silent: set[NodeId] = set()
        self.asked: list[tuple[NodeId, str]] = []
        self.owns: Callable[[OperationId], Operation | None] = lambda _: None
        """What the owner says to them when they ask it."""

    async def ask(
        self, to: NodeId, method: str, path: str, document: Mapping[str, Any] | None = None, **_: Any
    ) -> Any:
        self.asked.append((to, method))
        if to in self.silent:
            raise UpstreamRefused("nobody listens")
        if method == "POST":
            assert document is not None
            heard = read_operation(document["operation"])
            known = self.known.get(to, heard)
            self.known[to] = merged(known, heard, NodeId(document["sender"]), to)
        if to not in self.known:
            raise PeerRefused(404, "not_found", "unknown")
        said = self.owns(self.known[to].id)
        if said is not None and to != OWNER:
            self.known[to] = tidied(merged(self.known[to], said, OWNER, to), to)
        return {"operation": to_document(self.known[to])}

    def end(self, node: NodeId, index: int, state: State, error: str = "") -> None:
        known = self.known[node]
        self.known[node] = known.with_step(index, known.steps[index].ended(state, error))


class World:
    def __init__(self, folder: Path | None, number: int = 1) -> None:
        self.doing, self.others, self.now = Doing(), Others(), 0.0
        self.seen = view(node(1), node(2), node(3), self_number=number)
        self.driver = self.made(folder)

    def made(self, folder: Path | None) -> Driver:
        driver = Driver(
            Shelf(folder),
            self.others,  # type: ignore[arg-type]
            self.doing,  # type: ignore[arg-type]
            lambda: self.seen,
            Random(1),
            wall=lambda: 1000.0,
            clock=lambda: self.now,
        )
        if self.seen.self_id == OWNER:
            self.others.owns = driver.get
        return driver

    def set_state(self, number: int, state: MemberState) -> None:
        nodes = {**self.seen.nodes, node_id(number): node(number, state=state)}
        self.seen = ClusterView(self.seen.cluster_id, self.seen.self_id, nodes)

    def state(self, operation: OperationId) -> State:
        known = self.driver.get(operation)
        assert known is not None
        return known.state


async def test_an_owner_that_starts_again_goes_on(tmp_path: Path) -> None:
    world = World(tmp_path)
    begun = await world.driver.begin(MOVE)
    await until(lambda: TARGET in world.others.known, what="the target's being told")
    await world.driver.stop()
    world.driver = world.made(tmp_path)
    await world.driver.start()
    world.others.end(TARGET, 0, State.SUCCEEDED)
    world.others.end(SOURCE, 1, State.SUCCEEDED)
    await until(lambda: world.state(begun.id) is State.SUCCEEDED, what="its end")
    ended = world.driver.get(begun.id)
    assert ended is not None
    assert ended.finished_at == 1000.0
    await until(lambda: world.others.known[TARGET].finished_at == 1000.0, what="the others' being told")
    await world.driver.stop()


async def test_a_target_goes_on_without_the_owner_and_through_a_restart(tmp_path: Path) -> None:
    world = World(tmp_path, number=2)
    world.others.silent = {OWNER, SOURCE}
    await world.driver.take(to_document(MOVE), OWNER)
    await until(lambda: len(world.doing.begun) == 1, what="the copy's begin")
    await world.driver.stop()
    world.set_state(1, MemberState.DEAD)
    world.driver = world.made(tmp_path)
    world.doing.gate.set()
    resuming = asyncio.create_task(world.driver.start())
    await resuming
    for _ in range(200):
        world.now += 1.0
        await asyncio.sleep(0)
    await until(lambda: world.driver.all()[0].steps[0].state is State.SUCCEEDED, what="the copy's end")
    assert len(world.doing.begun) == 2
    await world.driver.stop()


async def test_what_was_cancelled_meanwhile_is_not_taken_up_again(tmp_path: Path) -> None:
    world = World(tmp_path, number=2)
    await world.driver.take(to_document(MOVE), OWNER)
    await until(lambda: len(world.doing.begun) == 1, what="the copy's begin")
    await world.driver.stop()
    world.others.known[OWNER] = replace(MOVE, is_cancelled=True)
    world.driver = world.made(tmp_path)
    await world.driver.start()
    await until(lambda: world.driver.all()[0].steps[0].state is State.CANCELLED, what="its being let go")
    assert len(world.doing.begun) == 1
    await world.driver.stop()


async def test_a_dead_target_is_waited_for_a_day_and_one_that_left_is_not() -> None:
    world = World(None)
    world.others.silent = {TARGET}
    world.set_state(2, MemberState.DEAD)
    begun = await world.driver.begin(MOVE)
    await until(lambda: len(world.others.asked) > 3, what="some rounds")
    known = world.driver.get(begun.id)
    assert known is not None
    assert known.steps[0].note == "waits for n2 (dead): nobody listens"
    world.now += GONE_S + 1
    await until(lambda: world.state(begun.id) is State.FAILED, what="its being given up")
    world.set_state(2, MemberState.LEFT)
    again = await world.driver.begin(MOVE)
    await until(lambda: world.state(again.id) is State.FAILED, what="its failing at once")
    known = world.driver.get(again.id)
    assert known is not None
    assert known.steps[0].error == "n2 has left the cluster"
    await world.driver.stop()


async def test_a_dead_nodes_steps_can_be_cancelled() -> None:
    world = World(None)
    world.others.silent = {TARGET}
    world.set_state(2, MemberState.DEAD)
    begun = await world.driver.begin(replace(MOVE, steps=(COPY,)))
    await world.driver.cancel(begun.id)
    await until(lambda: world.state(begun.id) is State.CANCELLED, what="its end")
    await world.driver.stop()


async def test_a_target_that_forgot_is_told_again() -> None:
    world = World(None)
    begun = await world.driver.begin(MOVE)
    await until(lambda: TARGET in world.others.known, what="the target's being told")
    del world.others.known[TARGET]
    await until(lambda: TARGET in world.others.known, what="its being told again")
    assert world.state(begun.id) is State.RUNNING
    await world.driver.stop()


async def test_what_cannot_be_written_down_is_not_begun(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    world = World(tmp_path / "file")
    with pytest.raises(NotKept):
        await world.driver.begin(MOVE)
    assert world.driver.all() == []
    with pytest.raises(NotKept):
        await World(tmp_path / "file", number=2).driver.take(to_document(MOVE), OWNER)


async def test_no_more_is_remembered_than_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "FINISHED_MAX", 3)
    world = World(tmp_path)
    for _ in range(8):
        begun = await world.driver.begin(Operation(OperationId(""), Kind.MIGRATE, OWNER, 0.0, "admin"))
        await until(lambda done=begun.id: world.state(done) is State.SUCCEEDED, what="its end")  # type: ignore[misc]
    assert len(world.driver.all()) <= 4
    await until(lambda: len(list(tmp_path.glob("*.json"))) <= 4, what="the files' removal")
    await world.driver.stop()


async def test_a_watcher_sees_each_change_and_the_end() -> None:
    world = World(None, number=1)
    begun = await world.driver.begin(replace(MOVE, steps=(replace(COPY, target=OWNER),)))
    seen: list[tuple[int, State]] = []

    async def watch() -> None:
        async for each in world.driver.watch(begun.id):
            done = each.steps[0].bytes_done
            seen.append((done, each.state))

    watching = asyncio.create_task(watch())
    await until(lambda: bool(seen) and seen[-1][0] == 1, what="the progress")
    world.doing.gate.set()
    await asyncio.wait_for(watching, 5)
    assert seen[-1] == (1000, State.SUCCEEDED)
    await world.driver.stop()
