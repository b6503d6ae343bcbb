"""Turns at asking upstream: whose they are, and that one comes after the other."""

import asyncio
from collections import Counter

import pytest

from ollama_dist.core.errors import Busy
from ollama_dist.core.ids import Digest
from ollama_dist.replication.pulls import turns
from ollama_dist.replication.pulls.turns import Turns, arbiter
from tests.support.views import node_id

SUBJECTS = [Digest(f"{number:064x}") for number in range(300)]
NODES = [node_id(number) for number in range(1, 6)]


def test_everybody_finds_the_same_arbiter_and_the_work_is_spread() -> None:
    found = [arbiter(subject, NODES) for subject in SUBJECTS]
    assert found == [arbiter(subject, reversed(NODES)) for subject in SUBJECTS]
    assert min(Counter(found).values()) > len(SUBJECTS) / len(NODES) / 2


def test_only_what_a_lost_node_had_moves() -> None:
    for subject in SUBJECTS:
        before = arbiter(subject, NODES)
        assert before == NODES[0] or arbiter(subject, NODES[1:]) == before


async def test_one_after_the_other_and_each_is_told_of_the_one_before() -> None:
    given = Turns()
    told: list[bool] = []
    under_way = most = 0

    async def take(number: int) -> None:
        nonlocal under_way, most
        async with given.turn(SUBJECTS[0], NODES[number]) as is_after:
            told.append(is_after)
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.001)
            under_way -= 1

    await asyncio.gather(*(take(number) for number in (0, 1, 1, 2)))
    assert most == 1
    assert told == [False, True, False, True]
    assert len(given) == 0


async def test_other_subjects_do_not_wait() -> None:
    given = Turns()
    async with (
        given.turn(SUBJECTS[0], NODES[0]),
        asyncio.timeout(1),
        given.turn(SUBJECTS[1], NODES[1]) as is_after,
    ):
        assert not is_after


async def test_who_gives_up_waiting_leaves_the_line() -> None:
    given = Turns()
    async with given.turn(SUBJECTS[0], NODES[0]):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01), given.turn(SUBJECTS[0], NODES[1]):
                raise AssertionError("it was not its turn")
        assert len(given) == 1
    assert len(given) == 0


async def test_the_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "SUBJECTS_LIMIT", 1)
    given = Turns()
    async with given.turn(SUBJECTS[0], NODES[0]):
        with pytest.raises(Busy):
            async with given.turn(SUBJECTS[1], NODES[1]):
                raise AssertionError("there was no room")
