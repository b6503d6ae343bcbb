from dataclasses import replace

from ollama_dist.core.ids import NodeId
from ollama_dist.core.modes import Mode
from ollama_dist.core.view import ClusterView, MemberState, NodeView
from ollama_dist.node.modes import EffectiveMode, Switches, effective_mode

ME, PEER = (NodeView(NodeId(f"{number:016x}"), f"n{number}") for number in (1, 2))


def view(*peers: NodeView) -> ClusterView:
    return ClusterView("c", ME.id, {node.id: node for node in (ME, *peers)})


def test_peers_that_can_be_reached_are_used() -> None:
    assert effective_mode(Switches(), view(PEER)) == EffectiveMode(Mode.DISTRIBUTED)
    suspect = replace(PEER, state=MemberState.SUSPECT)
    assert effective_mode(Switches(), view(suspect)) == EffectiveMode(Mode.DISTRIBUTED)


def test_nobody_around_is_standalone_and_no_fallback() -> None:
    assert effective_mode(Switches(), view()) == EffectiveMode(Mode.STANDALONE)
    left = replace(PEER, state=MemberState.LEFT)
    assert effective_mode(Switches(), view(left)) == EffectiveMode(Mode.STANDALONE)


def test_lost_peers_make_it_a_fallback_that_says_so() -> None:
    expected = EffectiveMode(Mode.STANDALONE, is_fallback=True, reason="no_peer_reachable")
    assert effective_mode(Switches(), view(replace(PEER, state=MemberState.DEAD))) == expected
    assert effective_mode(Switches(), view(replace(PEER, reachable=False))) == expected


def test_what_the_operator_says_holds_whoever_is_there() -> None:
    switches = Switches().with_mode(Mode.LOCAL)
    assert effective_mode(switches, view(PEER)) == EffectiveMode(Mode.LOCAL)
    assert effective_mode(switches.with_mode(Mode.STANDALONE), view(PEER)) == EffectiveMode(Mode.STANDALONE)
