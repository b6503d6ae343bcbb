import pytest

from ollama_dist.core.errors import NodeNotFound
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import ClusterView, InstalledModel, MemberState, NodeView
from tests.support.views import READY

TINY = ModelKey("registry.ollama.ai/library/tiny:latest")


def node(number: int, *models: ModelKey, state: MemberState = MemberState.ALIVE) -> NodeView:
    installed = {key: InstalledModel("tiny:latest", "0" * 64, 1) for key in models}
    return NodeView(NodeId(f"{number:016x}"), f"node-{number}", state=state, models=installed)


VIEW = ClusterView("c1", NodeId(f"{1:016x}"), {n.id: n for n in (node(1), node(2, TINY), node(3, TINY))})


def test_holders_are_everyone_who_has_it() -> None:
    assert VIEW.holders == {TINY: (NodeId(f"{2:016x}"), NodeId(f"{3:016x}"))}


def test_nodes_are_found_by_name_or_id() -> None:
    assert VIEW.find("node-2") is VIEW.find(f"{2:016x}")
    with pytest.raises(NodeNotFound, match="nobody"):
        VIEW.find("nobody")


def test_peers_are_the_others() -> None:
    assert [peer.name for peer in VIEW.peers()] == ["node-2", "node-3"]


def test_only_the_living_and_reachable_are_routable() -> None:
    assert node(1).is_routable
    assert not node(1, state=MemberState.SUSPECT).is_routable


def copy(digest: str, identity: str = "") -> InstalledModel:
    return InstalledModel("tiny:latest", digest * 64, 5, identity=identity * 64)


def test_content_is_told_apart_by_identity_where_it_is_known_and_else_by_the_manifest() -> None:
    assert copy("a", "1").is_same(copy("b", "1"))
    assert not copy("a", "1").is_same(copy("a", "2"))
    assert copy("a", "1").is_same(copy("a"))
    assert not copy("a", "1").is_same(copy("b"))


def test_two_spellings_of_one_manifest_are_no_conflict() -> None:
    def view(*copies: InstalledModel) -> ClusterView:
        nodes = [
            NodeView(NodeId(str(number)), f"n{number}", engine=READY, models={TINY: held})
            for number, held in enumerate(copies, 1)
        ]
        return ClusterView("c", nodes[0].id, {each.id: each for each in nodes})

    assert not view(copy("a", "1"), copy("b", "1")).is_in_conflict(TINY)
    assert view(copy("a", "1"), copy("b", "2")).is_in_conflict(TINY)
    assert view(copy("a"), copy("b")).is_in_conflict(TINY)
    voted = view(copy("c", "3"), copy("a", "1"), copy("b", "1"))
    assert voted.content(TINY, list(voted.peers())[:2]).identity == "1" * 64
