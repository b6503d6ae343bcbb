from pathlib import Path

import pytest

from ollama_dist.core.view import ClusterView, MemberState
from ollama_dist.replication.moves.promises import PROMISE_S, NotPromised, Promises
from ollama_dist.replication.moves.shelf import Shelf
from tests.support.views import key, node, node_id, view

TINY = key("tiny")
CONTENT = "a" * 64
ASKER = node_id(2)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def book(folder: Path | None = None, seen: ClusterView | None = None, clock: Clock | None = None) -> Promises:
    shown = seen or view(node(1, ["tiny"]), node(2, ["tiny"]))
    return Promises(Shelf(folder), lambda: shown, clock or Clock())


async def test_who_has_promised_gives_nothing_up_until_it_has_run_out() -> None:
    clock = Clock()
    promises = book(clock=clock)
    assert await promises.give(TINY, CONTENT, ASKER) == PROMISE_S
    with pytest.raises(NotPromised, match="n2"):
        promises.give_up(TINY)
    clock.now += PROMISE_S + 1
    promises.give_up(TINY)


async def test_who_gives_its_own_up_promises_nothing() -> None:
    promises = book()
    promises.give_up(TINY)
    with pytest.raises(NotPromised, match="give its own copy up"):
        await promises.give(TINY, CONTENT, ASKER)
    promises.given_up(TINY)
    assert await promises.give(TINY, CONTENT, ASKER)


@pytest.mark.parametrize(
    ("seen", "content", "why"),
    [
        (view(node(1, []), node(2, ["tiny"])), CONTENT, "does not have"),
        (view(node(1, ["tiny"])), "b" * 64, "does not have"),
        (view(node(1, ["tiny"], draining=True)), CONTENT, "drained"),
    ],
)
async def test_what_cannot_be_kept_is_not_promised(seen: ClusterView, content: str, why: str) -> None:
    with pytest.raises(NotPromised, match=why):
        await book(seen=seen).give(TINY, content, ASKER)


async def test_a_promise_survives_a_restart_for_its_whole_time(tmp_path: Path) -> None:
    await book(tmp_path).give(TINY, CONTENT, ASKER)
    clock = Clock()
    clock.now = 5.0
    again = book(tmp_path, clock=clock)
    again.load()
    clock.now += PROMISE_S - 1
    assert again.kept_for(TINY) == ASKER
    clock.now += 2
    assert again.kept_for(TINY) is None


async def test_a_promise_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    promises = book(tmp_path / "file")
    with pytest.raises(NotPromised, match="cannot write"):
        await promises.give(TINY, CONTENT, ASKER)


async def test_a_promise_has_done_its_part_when_the_other_copy_is_gone() -> None:
    shown = view(node(1, ["tiny"]), node(2, ["tiny"]), node(3, ["tiny"]))
    promises = Promises(Shelf(None), lambda: shown, Clock())
    await promises.give(TINY, CONTENT, ASKER)
    shown = view(node(1, ["tiny"]), node(2, state=MemberState.DEAD), node(3, ["tiny"]))
    assert promises.kept_for(TINY) == ASKER
    shown = view(node(1, ["tiny"]), node(2), node(3, ["tiny"]))
    assert promises.kept_for(TINY) is None
    promises.give_up(TINY)


async def test_a_promise_that_is_needed_no_more_ends_for_good(tmp_path: Path) -> None:
    promises = book(tmp_path)
    await promises.give(TINY, CONTENT, ASKER)
    await promises.end(TINY, node_id(3))
    assert promises.kept_for(TINY) == ASKER
    await promises.end(TINY, ASKER)
    assert promises.kept_for(TINY) is None
    again = book(tmp_path)
    again.load()
    assert again.kept_for(TINY) is None


async def test_an_operator_may_have_it_given_up_whatever_was_promised() -> None:
    promises = book()
    await promises.give(TINY, CONTENT, ASKER)
    promises.give_up(TINY, is_forced=True)
    with pytest.raises(NotPromised, match="give its own copy up"):
        await promises.give(TINY, CONTENT, ASKER)
