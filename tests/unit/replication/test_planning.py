"""What an operator's wish comes to, step by step."""

from dataclasses import replace
from typing import Any

import pytest

from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import ClusterView, LoadedModel, NodeView, Resources
from ollama_dist.replication.moves.operations import Action, Kind, Operation, State, Step, asked_for
from ollama_dist.replication.moves.planning import (
    Impossible,
    LastCopy,
    NoRoom,
    drained,
    is_drained,
    migration,
    removal,
)
from tests.support.views import SIZE, key, node, node_id, view

TINY = key("tiny")
ROOM = Resources(memory_bytes=2**40, disk_free_bytes=10**12)


def no(_node: NodeId, _key: ModelKey) -> bool:
    return False


def moved(seen: ClusterView, to: str = "n2", **more: Any) -> list[tuple[str, int | None]]:
    """What is done where, in order."""
    wish: dict[str, Any] = {"keep_source": False, "load": True, "reserve": 0, "pinned": no} | more
    return told(seen, migration(seen, "tiny", to, wish.pop("from", None), **wish))


def told(seen: ClusterView, steps: tuple[Step, ...]) -> list[tuple[str, int | None]]:
    """Each step and the number of its doer; that each waits for all before it is looked at here."""
    assert [step.after for step in steps] == [tuple(range(place)) for place in range(len(steps))]
    numbers = {node_id(number): number for number in range(1, 10)}
    return [(step.action, numbers.get(step.doer or NodeId(""))) for step in steps]


def test_what_is_in_memory_comes_into_memory_there_before_it_leaves() -> None:
    warm = view(node(1, loaded=["tiny"]), node(2, resources=ROOM))
    assert moved(warm) == [("copy", 2), ("load", 2), ("unload", 1), ("delete", 1)]
    assert moved(warm, keep_source=True) == [("copy", 2)]
    assert moved(warm, load=False) == [("copy", 2), ("unload", 1), ("delete", 1)]
    assert moved(view(node(1, ["tiny"]), node(2))) == [("copy", 2), ("delete", 1)]


def test_what_is_there_already_is_only_loaded_and_what_is_loaded_not_again() -> None:
    assert moved(view(node(1, loaded=["tiny"]), node(2, ["tiny"]))) == [
        ("load", 2),
        ("unload", 1),
        ("delete", 1),
    ]
    assert moved(view(node(1, loaded=["tiny"]), node(2, loaded=["tiny"]))) == [("unload", 1), ("delete", 1)]


def test_what_can_never_be_in_memory_there_is_moved_all_the_same() -> None:
    small = node(2, resources=Resources(memory_bytes=SIZE - 1, disk_free_bytes=10**12))
    assert moved(view(node(1, loaded=["tiny"]), small)) == [("copy", 2), ("unload", 1), ("delete", 1)]


def full(*models: str, **more: Any) -> NodeView:
    return node(2, models, resources=Resources(disk_free_bytes=10**9), **more)


def test_a_copy_that_does_not_fit_says_what_could_go() -> None:
    seen = view(
        node(1, ["tiny", "spare", "used", "pinned"]),
        replace(
            full("spare", "used", "pinned", "lonely"),
            loaded={key("used"): LoadedModel("used:latest", "a" * 64)},
        ),
    )
    contents = {name: number for number, name in enumerate(("tiny", "spare", "used", "pinned", "lonely"))}

    def apart(each: NodeView) -> NodeView:
        models = {
            found: replace(copy, digest=f"{contents[copy.name.partition(':')[0]]:064x}")
            for found, copy in each.models.items()
        }
        return replace(each, models=models)

    seen = view(*map(apart, seen.nodes.values()))
    with pytest.raises(NoRoom) as refused:
        moved(seen, pinned=lambda _, model: model == key("pinned"))
    assert str(refused.value).endswith(
        "; there could go: spare:latest (5.0 GB, also on n1) (ollama-dist rm MODEL --node n2)"
    )
    with pytest.raises(NoRoom, match="nothing there could go"):
        moved(view(node(1, ["tiny"]), full("lonely")))


def removed(seen: ClusterView, force: bool = False, **more: Any) -> tuple[Step, ...]:
    return removal(seen, "tiny", "n1", **{"force": force, "pinned": no, **more})


def test_one_node_gives_its_copy_up_unless_it_is_the_last_that_stays() -> None:
    steps = removed(view(node(1, loaded=["tiny"]), node(2, ["tiny"])))
    assert told(view(node(1), node(2)), steps) == [("unload", 1), ("delete", 1)]
    assert (steps[1].reason, steps[1].is_forced) == ("asked for; also on n2", False)
    for others in ([node(2)], [node(2, ["tiny"], draining=True)], [node(2, ["tiny"], digest="b")]):
        with pytest.raises(LastCopy, match="n1 has the last copy of tiny:latest"):
            removed(view(node(1, ["tiny"]), *others))
        [step] = removed(view(node(1, ["tiny"]), *others), force=True)
        assert step.is_forced
    with pytest.raises(Impossible, match="pinned"):
        removed(view(node(1, ["tiny"]), node(2, ["tiny"])), force=True, pinned=lambda *_: True)


# Emptying a node


def replanned(before: Operation, seen: ClusterView) -> Operation:
    return drained(before, seen, lambda _: (node_id(2), ""), 1000.0, {})


DRAIN = replace(asked_for(Kind.DRAIN, {"node": node_id(1)}), owner=node_id(1), is_open=True)


def ended(operation: Operation, state: State = State.SUCCEEDED) -> Operation:
    return operation.with_steps(
        step if step.state.is_final else step.ended(state) for step in operation.steps
    )


def actions(operation: Operation) -> list[tuple[Action, NodeId | None]]:
    return [(step.action, step.doer) for step in operation.steps]


@pytest.mark.parametrize("loaded", [State.SUCCEEDED, State.FAILED])
def test_what_is_in_memory_is_handed_over_once_it_is_kept_elsewhere(loaded: State) -> None:
    lonely = view(node(1, loaded=["tiny"]), node(2))
    copying = replanned(DRAIN, lonely)
    assert actions(copying) == [(Action.COPY, node_id(2))]
    there = view(node(1, loaded=["tiny"]), node(2, ["tiny"]))
    loading = replanned(ended(copying), there)
    assert actions(loading)[1:] == [(Action.LOAD, node_id(2))]
    assert replanned(loading, there) == loading
    warm = view(node(1, loaded=["tiny"]), node(2, loaded=["tiny"]))
    unloading = replanned(ended(loading, loaded), warm if loaded is State.SUCCEEDED else there)
    assert actions(unloading)[2:] == [(Action.UNLOAD, node_id(1))]
    assert not is_drained(unloading, warm)
    done = ended(unloading)
    cold = view(node(1, ["tiny"]), node(2, ["tiny"]))
    assert replanned(done, cold) == done
    assert is_drained(done, cold)


def test_what_is_in_memory_elsewhere_is_only_let_go() -> None:
    seen = view(node(1, loaded=["tiny"]), node(2, ["tiny"]), node(3, loaded=["tiny"]))
    assert actions(replanned(DRAIN, seen)) == [(Action.UNLOAD, node_id(1))]


def test_it_is_loaded_where_most_memory_is_free() -> None:
    def roomy(number: int, free: int) -> NodeView:
        return node(number, ["tiny"], resources=Resources(memory_bytes=2**40, memory_free_bytes=free))

    seen = view(node(1, loaded=["tiny"]), roomy(2, 10**9), roomy(3, 10**10), node(4, resources=ROOM))
    assert actions(replanned(DRAIN, seen)) == [(Action.LOAD, node_id(3))]
    small = node(2, ["tiny"], resources=Resources(memory_bytes=1))
    assert actions(replanned(DRAIN, view(node(1, loaded=["tiny"]), small))) == [(Action.UNLOAD, node_id(1))]
