from typing import Any

from ollama_dist.api.union import conflicts, ps, tags, v1_models
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import parse_model_name
from ollama_dist.core.view import (
    ClusterView,
    Engine,
    EngineKind,
    EngineState,
    InstalledModel,
    MemberState,
    NodeView,
)


def row(name: str, digest: str, modified: str = "2026-11-20T10:00:00.123456789Z") -> dict[str, Any]:
    return {"name": name, "model": name, "modified_at": modified, "size": 1, "digest": digest * 64}


def node(number: int, *rows: dict[str, Any], state: MemberState = MemberState.ALIVE) -> NodeView:
    models = {
        parse_model_name(r["name"]).key: InstalledModel(r["name"], r["digest"], r["size"], r) for r in rows
    }
    engine = Engine(EngineKind.OLLAMA, "0.11.11", EngineState.READY)
    return NodeView(NodeId(f"{number:016x}"), f"n{number}", state=state, engine=engine, models=models)


def view(*nodes: NodeView) -> ClusterView:
    return ClusterView("c", nodes[0].id, {n.id: n for n in nodes})


def test_one_row_per_name_newest_first_and_untouched() -> None:
    old, new = row("a:latest", "a", "2026-01-01T00:00:00Z"), row("b:latest", "b", "2026-01-01T02:00:00+01:00")
    same = row("A:latest", "a", "2026-01-03T00:00:00Z")
    assert tags(view(node(1, old), node(2, same, new))) == [new, old]


def test_the_entry_nodes_own_content_wins() -> None:
    own, other = row("a:latest", "1"), row("a:latest", "2")
    assert tags(view(node(1, own), node(2, other), node(3, other))) == [own]


def test_without_an_own_copy_most_hold_wins_and_a_tie_goes_to_the_lowest_digest() -> None:
    rows = {digest: row("a:latest", digest) for digest in "123"}
    assert tags(view(node(1), node(2, rows["3"]), node(3, rows["3"]), node(4, rows["1"]))) == [rows["3"]]
    assert tags(view(node(1), node(2, rows["3"]), node(3, rows["2"]))) == [rows["2"]]


def test_what_only_the_dead_hold_is_not_listed() -> None:
    gone = node(2, row("a:latest", "1"), state=MemberState.DEAD)
    assert tags(view(node(1), gone)) == []
    assert conflicts(view(node(1, row("a:latest", "2")), gone)) == frozenset()


def test_one_name_with_two_contents_is_a_conflict() -> None:
    one, two = row("a:latest", "1"), row("a:latest", "2")
    assert conflicts(view(node(1, one), node(2, one))) == frozenset()
    assert conflicts(view(node(1, one), node(2, two))) == {parse_model_name("a").key}


def test_running_models_say_where_they_run() -> None:
    short, long = (
        {"name": "a", "expires_at": "2026-01-01T00:00:00Z"},
        {"name": "a", "expires_at": "2318-01-01T00:00:00Z"},
    )
    assert ps([("desk", [short]), ("laptop", [long])]) == [
        {**long, "node": "laptop"},
        {**short, "node": "desk"},
    ]


def test_the_openai_list_is_null_when_there_is_nothing() -> None:
    assert v1_models([]) == {"object": "list", "data": None}
    listed = v1_models([row("ns/a:b", "1", "2026-01-01T00:00:00Z")])
    assert listed["data"] == [{"id": "ns/a:b", "object": "model", "created": 1767225600, "owned_by": "ns"}]
