"""Answers broken off at any byte, in any way, and what callers and the decision log are told of it.

Ten thousand cuts, over one boundary and over two, each with streams that run straight through and with such
that are passed on piece by piece. Every failing one is listed; which cut has which number depends on the seed
of its test alone.
"""

import asyncio
from collections.abc import Iterable
from random import Random

import pytest

from ollama_dist.backends import target
from ollama_dist.core.ids import NodeId
from ollama_dist.core.outcomes import Result
from ollama_dist.node.dispatch import Dispatcher
from ollama_dist.node.node import Node
from ollama_dist.scheduling.breaker import Breakers, Circuit
from tests.support.cut_answers import Breaking, Cut, Got, How, breaking, call, complaint, cuts
from tests.support.joined_nodes import joined_nodes
from tests.support.solo_node import solo_node
from tests.support.wait import until

AT_ONCE = 24
SLOTS = 64


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is slow: should this machine be, that is not to look as if a server were gone."""
    monkeypatch.setattr(target, "CONNECT_TIMEOUT_S", 20.0)


class Unmoved(Breakers):
    """Breakers that hold nobody back, however often answers are cut: that is what the cuts are for."""

    def circuit(self, node: NodeId, now: float) -> Circuit:
        return Circuit.CLOSED

    def really(self, node: NodeId) -> Circuit:
        return super().circuit(node, asyncio.get_running_loop().time())


class Trial:
    """Calls for cut answers at one entry, and what was wrong with them."""

    def __init__(self, entry: int, dispatcher: Dispatcher, engines: Iterable[Breaking]) -> None:
        self._entry = entry
        self._dispatcher = dispatcher
        self._engines = list(engines)
        self._free = asyncio.Semaphore(AT_ONCE)
        self.complaints: list[str] = []
        dispatcher.breakers = Unmoved()

    @property
    def report(self) -> str:
        return "\n".join([f"{len(self.complaints)} complaints", *self.complaints])

    async def run(self, wanted: Iterable[Cut], *, at_once: int = AT_ONCE, may_move: bool = False) -> None:
        todo = list(wanted)
        for engine in self._engines:
            engine.cuts = {cut.number: cut for cut in todo}
        waiting = iter(todo)

        async def work() -> None:
            for cut in waiting:
                await self._try(cut, may_move=may_move)

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())

    async def _try(self, cut: Cut, *, may_move: bool) -> None:
        try:
            got = await call(self._entry, cut)
            found = complaint(cut, got, may_move=may_move)
            if got is not None and not found:
                found = await self._complaint_of_record(cut, got)
        except Exception as error:  # all of them are told at the end
            found = repr(error)
        if found:
            self.complaints.append(f"{cut}: {found}")

    async def _complaint_of_record(self, cut: Cut, got: Got) -> str:
        """What the decision log says otherwise than the caller."""
        number = got.headers["x-request-id"]

        def outcome() -> object:
            record = self._dispatcher.decisions.get(number)
            return record and record.outcome

        await until(lambda: outcome() is not None, seconds=10.0, what="the outcome's being noted")
        record = self._dispatcher.decisions.get(number)
        assert record is not None
        assert record.outcome is not None
        told = record.outcome
        if told.status != got.status:
            return f"the record says {told.status}, the caller heard {got.status}"
        expected = {Result.FAILED, Result.REFUSED}
        if got.status == 200:
            expected = {Result.OK} if got.is_clean else {Result.CUT}
        return "" if told.result in expected else f"the record says {told.result}: {expected} was meant"


async def at_rest(nodes: Iterable[Node]) -> None:
    """Every slot is free again, and nothing waits."""

    def is_idle() -> bool:
        return all(node.view().me.load.in_flight == node.view().me.load.waiting == 0 for node in nodes)

    await until(is_idle, what="all slots' being free")


def whole_answers() -> list[Cut]:
    return [cut for cut in cuts(200, "whole") if cut.how is How.WHOLE][:4]


both_ways = pytest.mark.parametrize(
    ("seed", "splice"), [(seed, seed % 2 == 0) for seed in range(4)], ids=["0", "1-plain", "2", "3-plain"]
)


@both_ways
async def test_at_the_node_itself(seed: int, splice: bool) -> None:
    async with breaking() as engine, solo_node(engine.port, slots=SLOTS, splice=splice) as solo:
        trial = Trial(solo.port, solo.node.dispatcher, [engine])
        await trial.run(cuts(1400, f"one {seed}"))
        await at_rest([solo.node])
        await trial.run(whole_answers())
        assert not trial.complaints, trial.report
        breakers = solo.node.dispatcher.breakers
        assert isinstance(breakers, Unmoved)
        assert breakers.really(solo.node.view().self_id) is Circuit.CLOSED


@both_ways
async def test_over_another_node(seed: int, splice: bool) -> None:
    models: dict[str, list[str]] = {"desk": [], "laptop": []}
    async with (
        breaking() as engine,
        joined_nodes(models, {"splice": splice}, {"laptop": engine.port}, slots=SLOTS) as nodes,
    ):
        desk, laptop = nodes["desk"], nodes["laptop"]
        trial = Trial(desk.public.address[1], desk.node.dispatcher, [engine])
        await trial.run(cuts(900, f"two {seed}"))
        await at_rest([desk.node, laptop.node])
        await trial.run(whole_answers())
        assert not trial.complaints, trial.report
        breakers = desk.node.dispatcher.breakers
        assert isinstance(breakers, Unmoved)
        assert breakers.really(laptop.node.view().self_id) is Circuit.CLOSED


@pytest.mark.parametrize("seed", range(2))
async def test_what_is_cut_before_it_began_another_node_answers(seed: int) -> None:
    """Every other answer is cut on laptop and whole on office, the others the other way round."""
    async with (
        breaking() as even,
        breaking() as odd,
        joined_nodes(
            {"desk": [], "laptop": [], "office": []},
            engines={"laptop": even.port, "office": odd.port},
            slots=SLOTS,
        ) as nodes,
    ):
        even.spares = lambda cut: bool(cut.number % 2)
        odd.spares = lambda cut: not cut.number % 2
        desk = nodes["desk"]
        desk.node.dispatcher._rng = Random(seed)
        trial = Trial(desk.public.address[1], desk.node.dispatcher, [even, odd])
        unbegun = [cut for cut in cuts(2500, f"three {seed}") if not cut.is_whole and cut.is_unbegun][:500]
        await trial.run(unbegun, at_once=3, may_move=True)  # so many further tries there always are
        assert not trial.complaints, trial.report
        assert len(even.asked) + len(odd.asked) > len(unbegun) + 100
        await at_rest([node.node for node in nodes])
