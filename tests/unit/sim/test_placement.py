"""Placement with many nodes, each deciding for itself: nothing is lost, nothing goes to and fro."""

from collections import Counter

import pytest

from ollama_dist.replication.moves.demand import Demand
from ollama_dist.replication.moves.operations import Action
from ollama_dist.replication.moves.placement import Picture, Wish
from ollama_dist.replication.moves.policies import Policy, policy_for
from ollama_dist.sim.placement import GB, Broken, World

SEEDS = range(4)
HOUR = 3600.0


@pytest.mark.parametrize("seed", SEEDS)
def test_no_model_is_lost_and_no_disk_fills_whatever_happens(seed: int) -> None:
    world = World(seed)
    world.run(4 * HOUR, trouble=0.02)  # raises `Broken`
    assert world.deeds


@pytest.mark.parametrize("seed", SEEDS)
def test_once_it_is_calm_all_that_is_wished_comes_to_be_and_then_nothing_moves(seed: int) -> None:
    world = World(seed)
    world.run(2 * HOUR, trouble=0.02)
    world.calm()
    world.run(2 * HOUR)
    before = len(world.deeds)
    world.run(HOUR)
    assert world.deeds[before:] == []
    for key in world.keys:
        policy = policy_for(world.policies, key)
        copies = sum(key in node.models for node in world.nodes.values())
        if policy is not None and policy.max is not None:
            pinned = len(policy.pinned)
            assert copies <= max(policy.max, pinned, 1), (key, policy)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_was_fetched_is_not_given_up_again_and_the_other_way_round(seed: int) -> None:
    world = World(seed)
    world._rule()
    world._shift()
    world.run(6 * HOUR)
    moves = Counter((deed.node, deed.model) for deed in world.deeds)
    assert all(count == 1 for count in moves.values()), moves


@pytest.mark.parametrize("seed", range(6))
def test_two_that_see_each_other_never_both_drop(seed: int) -> None:
    """All drop to one copy at the same moment, from pictures of different age."""
    world = World(seed, nodes=3, models=6, by_demand=False)
    for node in world.nodes.values():
        for key in world.keys:
            node.models[key] = next(n.models[key] for n in world.nodes.values() if key in n.models)
        node.phase = 0.0
    world.policies = (Policy("*", 0, 1),)
    world.run(HOUR)
    assert all(sum(key in node.models for node in world.nodes.values()) == 1 for key in world.keys)


def eager(picture: Picture) -> list[Wish]:
    """Gives up whatever it has, as often as it can."""
    me = picture.view.me
    return [
        Wish(Action.DELETE, key, copy.digest, copy.size, "for no reason") for key, copy in me.models.items()
    ]


def every_copy_everywhere(seed: int) -> World:
    world = World(seed, nodes=4, models=6, decide=eager)
    for node in world.nodes.values():
        for key in world.keys:
            node.models[key] = next(n.models[key] for n in world.nodes.values() if key in n.models)
        node.phase = 0.0
    return world


@pytest.mark.parametrize("seed", range(8))
def test_promises_alone_keep_the_last_copy_whatever_the_nodes_wish(seed: int) -> None:
    world = every_copy_everywhere(seed)
    world.run(2 * HOUR, trouble=0.02)
    assert world.deeds
    assert world.refused


def test_without_promises_models_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "_is_promised", lambda *_: True)
    with pytest.raises(Broken):
        every_copy_everywhere(1).run(2 * HOUR)


def test_without_policies_and_demand_nothing_moves() -> None:
    world = World(1)
    world.run(HOUR, trouble=0.0)
    assert world.deeds == []


def test_a_model_that_is_waited_for_gets_more_copies_until_it_is_not_worth_it() -> None:
    world = World(3)
    key = world.keys[0]
    world.demand = {key: Demand(0.5, 2.0)}
    before = sum(key in node.models for node in world.nodes.values())
    world.run(2 * HOUR)
    after = sum(key in node.models for node in world.nodes.values())
    assert before < after
    assert {deed.action for deed in world.deeds} == {Action.COPY}


TIGHT = 32 * GB


@pytest.mark.parametrize("seed", SEEDS)
def test_full_disks_make_room_without_losing_anything_or_moving_for_ever(seed: int) -> None:
    """Six nodes with room for three or four models each; the minima of all fit, but not where they lie."""
    world = World(seed, by_demand=True, disk=TIGHT)
    world.policies = (Policy("*", 1), *(Policy(f"m{number}", 2) for number in range(3)))
    world.run(4 * HOUR, trouble=0.0)
    moves = Counter((deed.node, deed.model, deed.action) for deed in world.deeds)
    assert max(moves.values(), default=0) <= 1, moves
    before = len(world.deeds)
    world.run(2 * HOUR)
    assert world.deeds[before:] == []


@pytest.mark.parametrize("seed", SEEDS)
def test_full_disks_lose_nothing_whatever_happens(seed: int) -> None:
    world = World(seed, disk=TIGHT)
    world.run(4 * HOUR, trouble=0.02)
    assert any(deed.action is Action.DELETE for deed in world.deeds)
