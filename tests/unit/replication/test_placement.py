from dataclasses import replace
from typing import Any

import pytest

from ollama_dist.core.view import EngineKind, LoadedModel, MemberState, NodeView, Resources
from ollama_dist.replication.moves.demand import Demand
from ollama_dist.replication.moves.operations import Action
from ollama_dist.replication.moves.placement import GRACE_S, Picture, Wish, plan
from ollama_dist.replication.moves.policies import Policy
from tests.support.views import NO_ENGINE, key, node, node_id, view

TINY = key("tiny")
NOW = 1_000_000.0
TB = 10**12


def seen(*nodes: NodeView, me: int = 1, **more: Any) -> list[Wish]:
    return plan(Picture(view(*nodes, self_number=me), NOW, **more))


def wishes_of_all(*nodes: NodeView, **more: Any) -> dict[int, Action]:
    found = {number: seen(*nodes, me=number, **more) for number in range(1, len(nodes) + 1)}
    return {number: wishes[0].action for number, wishes in found.items() if wishes}


def test_without_a_policy_nothing_is_done() -> None:
    assert wishes_of_all(node(1, ["tiny"]), node(2), node(3)) == {}


def test_as_many_nodes_act_as_copies_are_missing() -> None:
    nodes = [node(1, ["tiny"]), *(node(number) for number in range(2, 8))]
    for least in range(2, 6):
        wished = wishes_of_all(*nodes, policies=[Policy("tiny", least)])
        assert list(wished.values()) == [Action.COPY] * (least - 1)


def test_one_copy_too_many_goes_at_a_time() -> None:
    nodes = [node(number, ["tiny"]) for number in range(1, 5)]
    wished = wishes_of_all(*nodes, policies=[Policy("tiny", 1, 2)])
    assert list(wished.values()) == [Action.DELETE]
    [goes] = wished
    other = node_id(goes % 4 + 1)
    intents = {other: {TINY: Action.DELETE}}
    assert seen(*nodes, me=goes, policies=[Policy("tiny", 1, 2)], intents=intents) == []


def test_neither_a_pinned_copy_nor_one_in_memory_goes() -> None:
    pinned = tuple(node_id(number) for number in (1, 2, 3))
    nodes = [node(number, ["tiny"]) for number in range(1, 5)]
    assert wishes_of_all(*nodes, policies=[Policy("tiny", 1, 1, pinned)]) == {4: Action.DELETE}
    nodes[3] = replace(nodes[3], loaded={TINY: LoadedModel("tiny:latest", "a" * 64)})
    assert wishes_of_all(*nodes, policies=[Policy("tiny", 1, 1, pinned)]) == {}


def test_the_last_copy_stays_whatever_a_policy_says() -> None:
    assert wishes_of_all(node(1, ["tiny"]), node(2), policies=[Policy("tiny", 0, 1)]) == {}


@pytest.mark.parametrize(
    "unfit",
    [
        {"draining": True},
        {"engine": NO_ENGINE},
        {"state": MemberState.SUSPECT},
        {"resources": Resources(disk_free_bytes=5_000_000_000)},
        {"resources": Resources(memory_bytes=10**9, disk_free_bytes=TB)},
        {"store": "shared"},
    ],
)
def test_a_node_that_cannot_take_it_is_passed_over(unfit: dict[str, Any]) -> None:
    nodes = [node(1, ["tiny"], store="shared"), node(2, **unfit)]
    assert wishes_of_all(*nodes, policies=[Policy("tiny", 2)], reserve=10**9) == {}
    fit = node(2, resources=Resources(disk_free_bytes=TB))
    assert wishes_of_all(nodes[0], fit, policies=[Policy("tiny", 2)], reserve=10**9) == {2: Action.COPY}


def test_a_holder_that_is_gone_for_a_moment_counts() -> None:
    gone = node(2, ["tiny"], state=MemberState.DEAD, since=NOW - GRACE_S + 1)
    policies = [Policy("tiny", 2)]
    assert seen(node(1, ["tiny"]), gone, node(3), me=3, policies=policies) == []
    gone = replace(gone, since=NOW - GRACE_S - 1)
    assert [wish.action for wish in seen(node(1, ["tiny"]), gone, node(3), me=3, policies=policies)] == [
        Action.COPY
    ]


def test_what_others_are_fetching_counts_as_there() -> None:
    nodes = [node(1, ["tiny"]), node(2), node(3)]
    intents = {node_id(2): {TINY: Action.COPY}}
    assert seen(*nodes, me=3, policies=[Policy("tiny", 2)], intents=intents) == []


def test_different_contents_of_one_name_are_left_alone() -> None:
    nodes = [node(1, ["tiny"], digest="a"), node(2, ["tiny"], digest="b"), node(3)]
    assert wishes_of_all(*nodes, policies=[Policy("tiny", 3, 3)]) == {}


def test_demand_adds_a_copy_only_where_it_pays_and_only_if_wanted() -> None:
    nodes = [node(1, ["tiny"], size=10**9), node(2), node(3)]
    much, little = {TINY: Demand(1.0, 5.0)}, {TINY: Demand(0.01, 1.0)}
    assert wishes_of_all(*nodes, demand=much) == {}
    assert list(wishes_of_all(*nodes, demand=much, by_demand=True).values()) == [Action.COPY]
    assert wishes_of_all(*nodes, demand=little, by_demand=True) == {}
    assert wishes_of_all(*nodes, demand=much, by_demand=True, policies=[Policy("tiny", 1, 1)]) == {}


def test_where_the_disk_is_short_only_what_placement_put_there_goes() -> None:
    short = Resources(disk_free_bytes=1)
    nodes = [node(1, ["tiny", "other"], resources=short), node(2, ["tiny", "other"])]
    assert seen(*nodes, reserve=10) == []
    [wish] = seen(*nodes, reserve=10, placed_here=frozenset({TINY}))
    assert (wish.action, wish.model) == (Action.DELETE, TINY)
    assert seen(nodes[0], node(2), reserve=10, placed_here=frozenset({TINY})) == []


def test_a_node_that_is_drained_or_has_no_engine_plans_nothing() -> None:
    policies = [Policy("*", 2)]
    assert seen(node(1, draining=True), node(2, ["tiny"]), policies=policies) == []
    assert (
        seen(node(1, engine=replace(NO_ENGINE, kind=EngineKind.NONE)), node(2, ["tiny"]), policies=policies)
        == []
    )


def disks(*nodes: NodeView) -> list[NodeView]:
    """With contents that differ by name."""
    contents = {
        each: f"{number:064x}" for number, each in enumerate(sorted({k for n in nodes for k in n.models}))
    }
    return [
        replace(
            each,
            models={found: replace(copy, digest=contents[found]) for found, copy in each.models.items()},
        )
        for each in nodes
    ]


FULL = Resources(disk_free_bytes=10**9)


def makes_room(*nodes: NodeView, me: int = 2, **more: Any) -> list[str]:
    """What node ``me`` gives up to get ``tiny``; nothing where it does not get it."""
    more = {"policies": [Policy("tiny", 2), Policy("cold*", 1)], **more}
    wishes = [wish for wish in seen(*disks(*nodes), me=me, **more) if wish.action is Action.COPY]
    assert all(each.action is Action.DELETE for wish in wishes for each in wish.first)
    return [each.model for wish in wishes for each in wish.first]


def test_a_copy_that_is_wanted_makes_room_by_what_is_enough_elsewhere() -> None:
    keeper, taker = node(1, ["tiny", "cold"]), node(2, ["cold"], resources=FULL)
    assert makes_room(keeper, taker) == [key("cold")]
    [wish] = seen(*disks(keeper, taker), me=2, policies=[Policy("tiny", 2), Policy("cold", 1)])
    assert wish.first[0].reason == "makes room for tiny:latest; also on n1"
    assert wish.reason == "1 of at least 2 copies"


@pytest.mark.parametrize(
    "why",
    [
        "last",
        "in memory",
        "pinned",
        "needed",
        "nobody's word",
        "same content",
        "drained",
        "going",
        "asked for",
    ],
)
def test_what_does_not_make_room(why: str) -> None:
    keeper, taker = node(1, ["tiny", "cold"]), node(2, ["cold"], resources=FULL)
    more: dict[str, Any] = {}
    match why:
        case "last":
            keeper = node(1, ["tiny"])
        case "in memory":
            taker = replace(taker, loaded={key("cold"): LoadedModel("cold:latest", "a" * 64)})
        case "pinned":
            more["policies"] = [Policy("tiny", 2), Policy("cold", 1, None, (taker.id,))]
        case "needed":
            more["policies"] = [Policy("tiny", 2), Policy("cold", 2)]
        case "nobody's word":
            more["policies"] = [Policy("tiny", 2)]
        case "same content":
            taker = node(2, ["cold", "cold:other"], resources=FULL)
            assert seen(keeper, taker, me=2, policies=[Policy("tiny", 2), Policy("cold*", 1)]) == []
            return
        case "drained":
            keeper = node(1, ["tiny"])
            assert makes_room(keeper, taker, node(3, ["cold"], draining=True)) == []
            return
        case "going":
            more["intents"] = {keeper.id: {key("cold"): Action.DELETE}}
        case "asked for":
            more["demand"] = {key("cold"): Demand(1.0, 10.0)}
    assert makes_room(keeper, taker, **more) == []


def test_what_placement_put_there_makes_room_without_a_policy() -> None:
    keeper, taker = node(1, ["tiny", "cold"]), node(2, ["cold"], resources=FULL)
    policies = [Policy("tiny", 2)]
    assert makes_room(keeper, taker, policies=policies, placed_here=frozenset({key("cold")})) == [key("cold")]


def test_no_more_goes_than_has_to_and_what_is_missed_least_first() -> None:
    keeper = node(1, ["tiny", "cold-a", "cold-b", "cold-c"])
    taker = node(2, ["cold-a", "cold-b", "cold-c"], resources=FULL)
    demand = {key("cold-a"): Demand(0.001, 1.0), key("cold-b"): Demand(0.002, 1.0)}
    assert makes_room(keeper, taker, demand=demand) == [key("cold-c")]
    large = replace(
        keeper, models={k: replace(m, size=9 * 10**9) if k == TINY else m for k, m in keeper.models.items()}
    )
    assert makes_room(large, taker, demand=demand) == [key("cold-c"), key("cold-a")]


def test_who_has_room_comes_before_who_has_to_make_it() -> None:
    keeper, full = node(1, ["tiny", "cold"]), node(2, ["cold"], resources=FULL)
    roomy = node(3, resources=Resources(disk_free_bytes=10**10))
    policies = [Policy("tiny", 2), Policy("cold", 1)]
    found = [seen(*disks(keeper, full, roomy), me=number, policies=policies) for number in (2, 3)]
    assert [len(wishes) for wishes in found] == [0, 1]
    assert found[1][0].first == ()


def test_by_demand_what_is_given_up_counts_as_cost() -> None:
    keeper, taker = node(1, ["tiny", "cold"]), node(2, ["cold"], resources=FULL)
    more: dict[str, Any] = {"policies": [Policy("cold", 1)], "by_demand": True}
    for waits, is_worth_it in ((0.6, True), (0.5, False)):
        demand = {TINY: Demand(1.0, waits), key("cold"): Demand(0.05, 2.0)}
        wishes = makes_room(keeper, taker, demand=demand, **more)
        assert wishes == ([key("cold")] if is_worth_it else []), waits
