import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ollama_dist.core.errors import Busy
from ollama_dist.core.outcomes import Usage
from ollama_dist.core.requests import Intent, Place
from ollama_dist.core.view import Load
from ollama_dist.node import load as load_module
from ollama_dist.node.load import AT_ONCE, EngineLoad, Waited
from tests.support.views import request
from tests.support.wait import until

A, B = request("a"), request("b")


def engine_load(*, slots: int = 1, max_waiting: int = 8, **more: Any) -> EngineLoad:
    return EngineLoad(slots, max_waiting, more.pop("changed", lambda: None), clock=lambda: 0.0)


@contextlib.asynccontextmanager
async def admitted(load: EngineLoad, asked: Any, service_s: float, **more: Any) -> AsyncIterator[Waited]:
    ticket = load.enter(asked, service_s)
    waited = AT_ONCE if ticket is None or ticket.runs else await load.wait(ticket, **more)
    try:
        yield waited
    finally:
        load.leave(ticket)


class Client:
    """A request that keeps its slot until it is let go."""

    def __init__(self, load: EngineLoad, asked: Any = A, **more: Any) -> None:
        self.is_in = asyncio.Event()
        self.done = asyncio.Event()
        self.task = asyncio.create_task(self._run(load, asked, more))

    async def _run(self, load: EngineLoad, asked: Any, more: dict[str, Any]) -> None:
        async with admitted(load, asked, 1.0, **more):
            self.is_in.set()
            await self.done.wait()

    async def end(self) -> None:
        self.done.set()
        await self.task

    async def leave(self) -> None:
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_per_model_and_the_rest_waits_until_one_is_free() -> None:
    load = engine_load(slots=2)
    clients = [Client(load, asked) for asked in (A, A, A, B)]
    await settled()
    assert load.now == Load(in_flight=4, waiting=1, slots=2)
    assert [client.is_in.is_set() for client in clients] == [True, True, False, True]
    await clients[0].end()
    await asyncio.wait_for(clients[2].is_in.wait(), 1)
    for client in clients[1:]:
        await client.end()
    assert load.now == Load(slots=2)


async def test_one_that_leaves_while_it_waits_frees_its_place() -> None:
    load = engine_load(max_waiting=1)
    first, second = Client(load), Client(load)
    await settled()
    await second.leave()
    assert load.now == Load(in_flight=1, slots=1)
    third = Client(load)
    await first.end()
    await asyncio.wait_for(third.is_in.wait(), 1)
    await third.end()
    assert load.now == Load(slots=1)


async def test_one_that_leaves_in_the_moment_it_is_called_passes_its_slot_on() -> None:
    load = engine_load()
    first, second, third = Client(load), Client(load), Client(load)
    await settled()
    first.done.set()
    await asyncio.sleep(0)
    second.task.cancel()
    await asyncio.wait_for(third.is_in.wait(), 1)
    await third.end()
    await first.task
    assert load.now == Load(slots=1)


async def test_a_full_queue_refuses_in_ollamas_words_but_a_free_slot_is_free() -> None:
    load = engine_load(max_waiting=0)
    first = Client(load)
    await settled()
    with pytest.raises(Busy, match=r"server busy, please try again\.  maximum pending"):
        async with admitted(load, A, 1.0):
            pytest.fail("was admitted")
    async with admitted(load, B, 1.0):
        assert load.now.in_flight == 2
    await first.end()


async def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "LONGEST_WAIT_S", 0.01)
    load = engine_load()
    first = Client(load)
    await settled()
    with pytest.raises(Busy):
        async with admitted(load, A, 1.0):
            pytest.fail("was admitted")
    assert load.now == Load(in_flight=1, slots=1)
    await first.end()


@pytest.mark.parametrize("intent", [Intent.LOAD, Intent.UNLOAD])
async def test_what_only_loads_or_unloads_does_not_wait_for_a_slot(intent: Intent) -> None:
    load = engine_load(max_waiting=0)
    first = Client(load)
    await settled()
    async with admitted(load, request("a", intent=intent), 1.0) as waited:
        assert waited.place == Place(0, 0.0)
        assert load.now == Load(in_flight=2, slots=1)
    await first.end()


async def test_who_wants_to_know_hears_of_every_step_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_module, "TELL_S", 0.001)
    told: list[Place] = []
    load = engine_load()
    ahead = [Client(load), Client(load)]
    await settled()
    curious = Client(load, on_place=told.append)
    await settled()
    assert told == [Place(2, 1.5)]
    await ahead[0].end()
    await until(lambda: len(told) == 2, what="the next place's being told")
    assert told[1:] == [Place(1, 0.5)]
    await ahead[1].end()
    await curious.end()
    assert len(told) == 2


async def test_a_failed_request_gives_its_place_back() -> None:
    load = engine_load()
    with contextlib.suppress(ValueError):
        async with admitted(load, A, 1.0):
            raise ValueError
    assert load.now.in_flight == 0


async def test_every_change_is_told() -> None:
    told: list[Load] = []
    load: EngineLoad = engine_load(changed=lambda: told.append(load.now))
    async with admitted(load, A, 1.0):
        pass
    load.set_slots(1)
    load.set_slots(4)
    assert [(entry.in_flight, entry.slots) for entry in told] == [(1, 1), (0, 1), (0, 4)]


def test_the_decode_rate_follows_slowly_and_ignores_answers_without_one() -> None:
    load = engine_load()
    load.learn(Usage(output_tokens=100, output_s=1.0))
    assert load.now.tokens_per_s == 100.0
    load.learn(Usage(output_tokens=50, output_s=1.0))
    assert load.now.tokens_per_s == 90.0
    load.learn(Usage(output_tokens=1))
    assert load.now.tokens_per_s == 90.0


async def test_more_may_be_sent_than_the_slots_that_are_told() -> None:
    load = EngineLoad(1, 8, lambda: None, clock=lambda: 0.0, width=2)
    clients = [Client(load) for _ in range(3)]
    await settled()
    assert [client.is_in.is_set() for client in clients] == [True, True, False]
    assert load.now == Load(in_flight=3, waiting=1, slots=1)
    for client in clients:
        await client.end()
