"""Membership as a whole, under virtual time: every run checks what must hold after every input."""

from random import Random

import pytest

from ollama_dist.core.view import MemberState
from ollama_dist.gossip.protocol.config import LAN
from ollama_dist.gossip.protocol.effects import EventKind
from ollama_dist.gossip.protocol.suspicion import LAST_SHARE
from ollama_dist.sim.invariants import Invariants
from ollama_dist.sim.network import VirtualNetwork, VirtualNode, event_times

ALIVE, SUSPECT, DEAD, LEFT = MemberState.ALIVE, MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT


def watched(seed: int) -> tuple[VirtualNetwork, Invariants]:
    """A network on which whatever must never be fails the test."""
    watch = Invariants(LAN)
    network = VirtualNetwork(seed, observers=[watch])
    watch.watch(network)
    return network, watch


def settled(size: int, seed: int = 1) -> tuple[VirtualNetwork, list[VirtualNode], Invariants]:
    """A cluster of ``size`` in which everybody knows everybody."""
    network, watch = watched(seed)
    nodes = network.cluster(size)
    network.run_until(network.agrees, within=10)
    return network, nodes, watch


def deaths(nodes: list[VirtualNode]) -> int:
    return sum(event.kind is EventKind.DEAD for node in nodes for _, event in node.events)


def state(observer: VirtualNode, member: VirtualNode) -> MemberState:
    return observer.view_of(member).state


def everybody_says(nodes: list[VirtualNode], member: VirtualNode, wanted: MemberState) -> bool:
    return all(state(node, member) is wanted for node in nodes if node is not member)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 20])
def test_nodes_that_share_a_seed_find_each_other(size: int) -> None:
    network, nodes, _ = settled(size)
    assert network.now < 3
    assert len({node.core.inside.members.fingerprint for node in nodes}) == 1


@pytest.mark.parametrize("late_s", [0.0, 0.1, 0.3, 1.5])
def test_nodes_that_start_shortly_before_their_seed_find_each_other(late_s: float) -> None:
    network, _ = watched(1)
    for name in ("n1", "n2"):
        network.add(name, seeds=["n0"])
    network.run(late_s)
    network.add("n0", seeds=["n0"])
    assert network.run_until(network.agrees, within=4) < 4


def test_a_cluster_at_rest_says_little() -> None:
    network, _, _ = settled(5)
    network.run(5)
    before = network.calls
    network.run(60)
    assert (network.calls - before) / 60 / 5 < 3  # calls a second that each member begins


@pytest.mark.parametrize("seed", range(12))
def test_nodes_that_know_only_each_others_old_addresses_meet_again(seed: int) -> None:
    network, nodes, _ = settled(4, seed)
    network.run(2)
    for node in nodes:
        network.crash(node)
    network.run(5)
    for node in nodes:
        network.restart(node)
    network.run_until(network.agrees, within=3)


# Death


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [2, 3, 5, 8])
def test_a_machine_that_vanishes_is_suspect_then_dead_within_six_seconds(size: int, seed: int) -> None:
    network, nodes, _ = settled(size, seed)
    victim = nodes[-1]
    network.silence(victim)
    at = network.now
    network.run_until(lambda: everybody_says(nodes, victim, DEAD), within=6.5)
    for node in nodes[:-1]:
        assert event_times(node, EventKind.SUSPECT, victim)[-1] - at < 3.5
        assert (
            event_times(node, EventKind.SUSPECT, victim)[-1] < event_times(node, EventKind.DEAD, victim)[-1]
        )
    assert deaths(nodes) == size - 1


def test_a_process_that_vanishes_is_known_sooner_since_its_machine_says_so() -> None:
    network, nodes, _ = settled(5)
    victim = nodes[-1]
    network.crash(victim)
    network.run_until(lambda: any(state(node, victim) is SUSPECT for node in nodes[:-1]), within=2)
    network.run_until(lambda: everybody_says(nodes, victim, DEAD), within=6)


def test_one_that_comes_back_is_alive_for_all_at_once() -> None:
    network, nodes, _ = settled(5)
    victim = nodes[-1]
    network.crash(victim)
    network.run_until(lambda: everybody_says(nodes, victim, DEAD), within=6)
    network.restart(victim)
    assert network.run_until(network.agrees, within=2) < 2
    assert nodes[0].view_of(victim).reason == "came back"


def test_one_that_comes_back_before_it_was_missed_is_in_its_new_life() -> None:
    network, nodes, _ = settled(3)
    network.do(nodes[2], nodes[2].core.set_state(network.now, "model", b"old"))
    network.run(2)
    generation = nodes[0].view_of(nodes[2]).generation
    network.restart(nodes[2])
    network.run_until(lambda: nodes[0].view_of(nodes[2]).generation > generation, within=2)
    network.run(1)
    assert "model" not in nodes[0].view_of(nodes[2]).cold
    assert deaths(nodes) == 0


def test_one_that_lost_its_disk_learns_from_the_others_what_it_was() -> None:
    network, nodes, _ = settled(3)
    victim = nodes[2]
    for _ in range(3):
        network.crash(victim)
        network.run(1)
        network.restart(victim)
        network.run_until(network.agrees, within=5)
    generation = nodes[0].view_of(victim).generation
    network.restart(victim, seeds=["n0"], keeps_disk=False)
    network.run_until(network.agrees, within=10)
    assert nodes[0].view_of(victim).generation > generation


def test_one_that_says_goodbye_has_left_and_is_not_suspected() -> None:
    network, nodes, _ = settled(5)
    leaver = nodes[3]
    network.do(leaver, leaver.core.leave(network.now))
    network.run_until(lambda: everybody_says(nodes, leaver, LEFT), within=1)
    assert any(event.kind is EventKind.DEPARTED for _, event in leaver.events)
    network.crash(leaver)
    network.run(20)
    assert everybody_says(nodes, leaver, LEFT)
    assert deaths(nodes) == 0
    assert not any(event_times(node, EventKind.SUSPECT, leaver) for node in nodes if node is not leaver)


# Errors of judgement


@pytest.mark.parametrize(("size", "seed"), [(3, 0), (3, 1), (5, 0), (5, 1), (8, 0)])
def test_losing_a_tenth_of_all_messages_kills_nobody(size: int, seed: int) -> None:
    network, nodes, _ = settled(size, seed)
    network.links.loss = 0.1
    network.run(120)
    assert deaths(nodes) == 0
    network.links.loss = 0.0
    network.run_until(network.agrees, within=5)


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0])
def test_a_process_that_stands_still_for_a_moment_kills_nobody_and_does_not_die(seconds: float) -> None:
    network, nodes, _ = settled(5)
    for node in nodes:
        network.pause(node, seconds)
        network.run(seconds + 8)
    assert deaths(nodes) == 0
    assert network.agrees()


def test_one_that_stood_still_for_long_is_dead_and_back_as_soon_as_it_wakes() -> None:
    network, nodes, _ = settled(5)
    sleeper = nodes[2]
    network.pause(sleeper, 20)
    network.run_until(lambda: everybody_says(nodes, sleeper, DEAD), within=20)
    network.run(20 - network.now % 20)
    network.run_until(network.agrees, within=25)
    assert all(state(sleeper, node) is ALIVE for node in nodes)
    assert nodes[0].view_of(sleeper).incarnation > 0


def test_a_link_that_is_cut_one_way_kills_nobody_and_is_known_at_both_ends() -> None:
    network, nodes, _ = settled(4)
    a, b = nodes[0], nodes[1]
    network.links.cut = {(a.name, b.name)}
    network.run(30)
    assert deaths(nodes) == 0
    assert state(nodes[2], b) is ALIVE
    assert not a.view_of(b).reachable
    assert not b.view_of(a).reachable
    network.links.cut = set()
    network.run_until(lambda: a.view_of(b).reachable and b.view_of(a).reachable, within=15)


# Partitions


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("size", "smaller"), [(4, 2), (5, 1), (8, 3)])
def test_two_halves_that_were_parted_become_one_again(size: int, smaller: int, seed: int) -> None:
    network, nodes, _ = settled(size, seed)
    here, there = nodes[:smaller], nodes[smaller:]
    network.part(here, there)
    network.run_until(
        lambda: (
            all(everybody_says(here, node, DEAD) for node in there)
            and all(everybody_says(there, node, DEAD) for node in here)
        ),
        within=20,
    )
    network.heal()
    before = deaths(nodes)
    network.run_until(network.agrees, within=5)
    network.run(5)
    assert deaths(nodes) == before
    assert network.agrees()


@pytest.mark.parametrize(
    ("size", "cut_s", "seed"), [(5, 3.0, 5), (5, 3.0, 11), (5, 4.0, 16), (20, 4.0, 1), (20, 5.0, 3)]
)
def test_where_a_partition_ends_while_many_are_suspect_nobody_dies_of_what_was_before(
    size: int, cut_s: float, seed: int
) -> None:
    network, nodes, _ = settled(size, seed)
    network.run(3)
    network.part(nodes[: size // 2], nodes[size // 2 :])
    network.run(cut_s)
    assert any(node.states()[other.id] is SUSPECT for node in nodes for other in nodes)
    network.heal()
    # A question that was on its way when the partition ended is lost, and may have been somebody's last. Who
    # could not reach its helpers gives more time, here up to four times as much.
    network.run(4 * LAST_SHARE * LAN.probe_timeout(size))
    before = deaths(nodes)
    network.run_until(network.agrees, within=5)
    network.run(5)
    assert deaths(nodes) == before


def test_two_clusters_that_never_met_become_one_by_a_single_address() -> None:
    network, _ = watched(3)
    for name, seed in (("a", ()), ("b", ("a",)), ("x", ()), ("y", ("x",))):
        network.add(name, seeds=seed)
    network.run(5)
    assert len(network.nodes["a"].core.members()) == 2
    network.do(network.nodes["b"], network.nodes["b"].core.candidate(network.now, "y:1", is_lasting=False))
    network.run_until(network.agrees, within=3)


# State


@pytest.mark.parametrize("size", [2, 5, 8])
def test_what_a_member_writes_reaches_everybody(size: int) -> None:
    network, nodes, _ = settled(size)
    writer = nodes[-1]
    for number in range(40):
        network.do(writer, writer.core.set_state(network.now, f"m:{number}", b"x" * 1000))
    network.do(writer, writer.core.set_state(network.now, "m:7", None))
    wanted = dict(writer.view_of(writer).cold)
    assert len(wanted) == 39
    network.run_until(lambda: all(dict(node.view_of(writer).cold) == wanted for node in nodes), within=5)


def test_who_was_away_while_things_were_deleted_does_not_keep_them() -> None:
    network, nodes, _ = settled(3)
    writer, away = nodes[0], nodes[2]
    for number in range(20):
        network.do(writer, writer.core.set_state(network.now, f"m:{number}", b"here"))
    network.run(3)
    network.part([away], nodes[:2])
    network.run(10)
    for number in range(20):
        network.do(writer, writer.core.set_state(network.now, f"m:{number}", None))
    network.do(writer, writer.core.set_state(network.now, "m:new", b"here"))
    network.run(5)
    network.heal()
    network.run_until(lambda: dict(away.view_of(writer).cold) == {"m:new": b"here"}, within=10)


# Copies


def test_a_node_with_a_copied_identity_yields_to_the_one_that_runs() -> None:
    network, nodes, _ = settled(3)
    original = nodes[1]
    copy = network.add("n1-copy", seeds=["n0"], identity="n1")
    network.run(5)
    assert [event.kind for _, event in copy.events].count(EventKind.CLONE) == 1
    assert not copy.core.is_member
    assert nodes[0].view_of(original).addresses == (original.address,)
    assert original.view_of(original).incarnation == 0
    assert deaths(nodes) == 0


def test_a_copy_whose_only_seed_is_its_original_yields_too() -> None:
    network, _, _ = settled(3)
    copy = network.add("n0-copy", seeds=["n0"], identity="n0")
    network.run(5)
    assert [event.kind for _, event in copy.events].count(EventKind.CLONE) == 1
    assert not copy.core.is_member


def clones(*nodes: VirtualNode) -> list[str]:
    """Who of these found that it has a twin, and yielded."""
    return [node.name for node in nodes if any(event.kind is EventKind.CLONE for _, event in node.events)]


def parted_copy(seed: int) -> tuple[VirtualNetwork, VirtualNode, VirtualNode]:
    """n1, and a copy that became a member while n1 could not be asked; now nothing is in the way."""
    network, nodes, _ = settled(4, seed)
    original = nodes[1]
    network.run(10)
    network.part([original], [node for node in nodes if node is not original])
    copy = network.prepare("n1-copy", seeds=["n0"], identity="n1")
    network.part([original], [copy])
    network.begin(copy, original.generation + 1)
    network.run(10)
    assert copy.core.is_member
    assert original.is_up
    network.heal()
    return network, original, copy


@pytest.mark.parametrize("seed", range(6))
def test_of_two_that_run_under_one_identity_the_newcomer_stops_and_says_so(seed: int) -> None:
    network, original, copy = parted_copy(seed)
    network.run(20)
    assert clones(original, copy) == [copy.name]
    assert original.counts["outlived_own_past"] <= 4
    assert network.agrees()
    assert network.nodes["n0"].view_of(original).addresses == (original.address,)


@pytest.mark.parametrize("seed", range(6))
def test_two_under_one_identity_that_never_reach_each_other_stop_outbidding_each_other(seed: int) -> None:
    network, original, copy = parted_copy(seed)
    network.part([original], [copy])
    network.run(60)
    assert len(clones(original, copy)) == 1
    stayed = copy if clones(original) else original
    assert stayed.counts["outlived_own_past"] <= 8
    assert network.agrees()


@pytest.mark.parametrize("seed", range(3))
def test_a_copy_that_was_alone_at_first_yields_when_it_meets_the_others(seed: int) -> None:
    network, nodes, _ = settled(3, seed)
    network.run(10)
    copy = network.add("n1-copy", generation=nodes[1].generation + 1, identity="n1")
    network.run(1)
    assert copy.core.is_member  # of a cluster of one: there was nobody to ask
    network.do(copy, copy.core.candidate(network.now, nodes[0].address, is_lasting=False))
    network.run(20)
    assert clones(nodes[1], copy) == [copy.name]
    assert network.agrees()
    assert deaths(nodes) == 0


@pytest.mark.parametrize("seed", range(6))
def test_of_two_that_start_at_once_from_one_disk_one_stays(seed: int) -> None:
    network, _, _ = settled(3, seed)
    pair = [network.add(name, seeds=["n0"], identity="twin") for name in ("left", "right")]
    network.run(20)
    assert len(clones(*pair)) == 1
    assert network.agrees()


@pytest.mark.parametrize("seed", range(3))
def test_one_that_moved_and_starts_from_an_old_disk_comes_back(seed: int) -> None:
    network, nodes, _ = settled(4, seed)
    old = nodes[1]
    for _ in range(3):
        network.restart(old)
        network.run(2)
    network.crash(old)
    moved = network.add("n1-elsewhere", seeds=["n0"], generation=1, identity="n1")
    network.run_until(lambda: nodes[0].view_of(moved).addresses == (moved.address,), within=10)
    assert not clones(moved)
    assert moved.core.generation > old.generation


# Everything at once


@pytest.mark.parametrize("seed", range(12))
def test_after_any_mix_of_faults_and_a_calm_all_see_the_same(seed: int) -> None:
    rng = Random(seed)
    network, nodes, watch = settled(rng.choice([3, 4, 5, 7]), seed)
    for _ in range(12):
        _mishap(network, rng)
        network.run(rng.uniform(0.2, 6))
    network.heal()
    network.links.loss = 0.0
    for node in network.nodes.values():
        if not node.is_up:
            network.restart(node, seeds=["n0"] if node.name != "n0" else ["n1"])
    network.run_until(network.agrees, within=60)
    network.run(5)
    assert network.agrees()
    assert len({node.core.inside.members.fingerprint for node in nodes}) == 1
    assert all(len(node.core.inside.rumours) == 0 for node in nodes)
    assert watch.states_seen >= {ALIVE, SUSPECT, DEAD}


def _mishap(network: VirtualNetwork, rng: Random) -> None:
    running = network.living()
    node = rng.choice(list(network.nodes.values()))
    match rng.randrange(9):
        case 0 if len(running) > 1 and node.is_up:
            network.crash(node)
        case 1 if len(running) > 1 and node.is_up:
            network.silence(node)
        case 2:
            network.restart(node, seeds=["n0"], keeps_disk=rng.random() < 0.8)
        case 3 if node.is_up and not node.is_paused:
            network.pause(node, rng.uniform(0.5, 12))
        case 4:
            some = set(rng.sample(sorted(network.nodes), rng.randrange(1, len(network.nodes))))
            here = [each for name, each in network.nodes.items() if name in some]
            there = [each for name, each in network.nodes.items() if name not in some]
            network.part(here, there)
        case 5:
            network.heal()
        case 6:
            network.links.loss = rng.choice([0.0, 0.05, 0.2, 0.4])
        case 7 if node.is_up:
            other = rng.choice(list(network.nodes.values()))
            if other is not node:
                network.links.cut.add((node.name, other.name))
        case _ if node.is_up and not node.is_paused:
            value = rng.choice([None, b"a", b"bb"])
            network.do(node, node.core.set_state(network.now, f"k{rng.randrange(5)}", value))
            network.do(node, node.core.set_load(network.now, rng.randbytes(8)))


def test_the_same_seed_gives_the_same_history() -> None:
    def history(seed: int) -> list[tuple[float, str, str]]:
        network, nodes, _ = settled(4, seed)
        network.links.loss = 0.2
        network.crash(nodes[1])
        network.run(20)
        return [(at, event.kind, event.member) for node in nodes for at, event in node.events]

    assert history(5) == history(5)
    assert history(5) != history(6)
