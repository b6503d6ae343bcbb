from dataclasses import replace

import pytest

from ollama_dist.core.names import parse_model_name
from ollama_dist.core.view import EngineKind, EngineState, InstalledModel, Load, MemberState, NodeView
from ollama_dist.gossip.protocol.effects import MemberView
from ollama_dist.node.announce import Cold, Hot, encode_cold, encode_hot
from ollama_dist.node.cluster_view import ViewStore
from tests.support.views import node_id

ROW = {"name": "tiny:latest", "digest": "a" * 64, "size": 5}
KEY = parse_model_name("tiny").key
COLD = Cold(
    "laptop",
    "0.1.0",
    EngineKind.OLLAMA,
    "0.11.11",
    11437,
    models={KEY: InstalledModel("tiny:latest", "a" * 64, 5, ROW)},
)
HOT = Hot(Load(2, 1, 1), engine_state=EngineState.READY)
ME = NodeView(node_id(1), "desk")


def member(number: int = 2, cold: Cold = COLD, hot: Hot = HOT, generation: int = 7) -> MemberView:
    return MemberView(
        id=node_id(number),
        state=MemberState.ALIVE,
        is_self=False,
        reachable=True,
        since=90.0,
        reason="joined",
        addresses=("192.168.1.20:11436", "10.0.0.1:11436"),
        generation=generation,
        incarnation=0,
        rtt=0.001,
        hot=encode_hot(hot),
        hot_version=3,
        hot_at=95.0,
        heard_at=99.5,
        cold=encode_cold(cold),
        cold_version=4,
    )


def store(*members: MemberView) -> ViewStore:
    views = ViewStore("c0ffee00", ME)
    views.set_members(members, now=100.0, wall=1_000_000.0)
    return views


def test_a_peer_is_shown_as_it_announced_itself() -> None:
    peer = store(member()).current.nodes[node_id(2)]
    assert peer.name == "laptop"
    assert peer.relay == ("192.168.1.20", 11437)
    assert (peer.engine.kind, peer.engine.state) == (EngineKind.OLLAMA, EngineState.READY)
    assert peer.load == Load(2, 1, 1)
    assert peer.models[KEY].row == ROW
    assert peer.since == 999_990.0
    assert peer.age_s == 0.5
    assert peer.load_version == 3


def test_a_peer_that_has_said_nothing_yet_is_known_by_its_id_and_serves_nothing() -> None:
    peer = store(replace(member(), hot=b"", cold={})).current.nodes[node_id(2)]
    assert peer.name == node_id(2)
    assert peer.relay is None
    assert not peer.can_serve


def test_of_two_nodes_with_one_name_the_younger_is_shown_with_a_piece_of_its_id() -> None:
    nodes = store(member(2, generation=9), member(3, generation=4)).current.nodes
    assert nodes[node_id(3)].name == "laptop"
    assert nodes[node_id(2)].name == "laptop-0000"


def test_this_node_keeps_its_own_name() -> None:
    nodes = store(member(2, replace(COLD, name="desk"))).current.nodes
    assert nodes[ME.id].name == "desk"
    assert nodes[node_id(2)].name == "desk-0000"


def test_who_holds_what_is_not_worked_out_again_for_a_mere_change_of_load() -> None:
    views = store(member())
    holders = views.current.holders
    views.set_self(replace(ME, load=Load(5)))
    assert views.current.me.load.in_flight == 5
    assert views.current.holders is holders


def test_members_that_are_gone_from_the_list_are_gone_from_the_picture() -> None:
    views = store(member(2), member(3))
    views.set_members([member(3)], now=101.0, wall=1_000_001.0)
    assert set(views.current.nodes) == {ME.id, node_id(3)}


def test_a_peer_that_started_again_keeps_its_name_until_it_has_said_it() -> None:
    views = store(member())
    fresh = replace(member(generation=8), cold={}, cold_version=0, hot=b"", hot_version=0)
    views.set_members([fresh], now=101.0, wall=1_000_001.0)
    peer = views.current.nodes[node_id(2)]
    assert peer.name == "laptop"
    assert not peer.models


def test_a_peer_that_has_not_told_its_load_is_starting_and_not_broken() -> None:
    unheard = replace(member(), hot=b"", hot_version=0)
    assert store(unheard).current.nodes[node_id(2)].engine.state is EngineState.STARTING


def test_what_one_member_told_is_taken_over_alone() -> None:
    views = store(member(2), member(3, replace(COLD, name="shelf")))
    before, holders = views.current, views.current.holders
    told = replace(member(), hot=encode_hot(Hot(Load(4))), hot_version=4, hot_at=101.0)
    assert views.set_some([told], now=101.0, wall=1_000_001.0)
    peer = views.current.nodes[node_id(2)]
    assert (peer.load, peer.load_version, peer.age_s) == (Load(4), 4, 0.0)
    assert views.current.nodes[node_id(3)] is before.nodes[node_id(3)]
    assert views.current.holders is holders


def test_of_one_name_it_stays_the_same_two_that_are_told_apart() -> None:
    views = store(member(2, generation=9), member(3, generation=4))
    assert views.set_some([member(2, generation=9)], now=101.0, wall=1_000_001.0)
    assert views.current.nodes[node_id(2)].name == "laptop-0000"


@pytest.mark.parametrize(
    "told",
    [
        member(3),
        member(2, generation=8),
        replace(member(2), state=MemberState.DEAD),
        replace(member(2, replace(COLD, name="desk")), cold_version=5),
    ],
    ids=["new", "started again", "dead", "renamed"],
)
def test_who_stands_otherwise_than_before_concerns_the_whole_picture(told: MemberView) -> None:
    views = store(member(2))
    before = views.current
    assert not views.set_some([told], now=101.0, wall=1_000_001.0)
    assert views.current is before
