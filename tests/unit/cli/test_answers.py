from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.cli.answers import read_models, read_nodes, read_status
from ollama_dist.cli.problems import all_problems
from ollama_dist.cli.terminal import Terminal
from ollama_dist.cli.views import models_text, nodes_text, status_text
from tests.support.fake_node import MODELS, NODES, STATUS, node_row

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def test_what_a_node_promises_is_read() -> None:
    status = read_status(STATUS)
    assert (status.name, status.cluster, status.alive) == ("desk", "9f2c41d0", 2)
    assert (status.engine_kind, status.engine_error) == ("ollama", "")
    assert (status.in_flight, status.fallbacks) == (2, 7)
    desk, laptop = read_nodes(NODES)
    assert (desk.is_self, laptop.is_self) == (True, False)
    assert desk.loaded == ("llama3:8b",)
    (model,) = read_models(MODELS)
    assert [copy.progress for copy in model.replicas] == [None, 0.42]


def test_free_memory_is_that_of_the_gpus_where_there_are_any() -> None:
    gpus = [{"memory_free_bytes": 3}, {"memory_free_bytes": 4}]
    (with_gpus,) = read_nodes({"nodes": [node_row("a", resources={"memory_free_bytes": 9, "gpus": gpus})]})
    (without,) = read_nodes(
        {"nodes": [node_row("a", resources={"memory_bytes": 10, "memory_free_bytes": 9})]}
    )
    assert (with_gpus.memory_free, without.memory_free) == (7, 9)


def test_a_name_cannot_steer_the_terminal() -> None:
    (node,) = read_nodes({"nodes": [node_row("a\x1b[2J\n\u202eb")]})
    assert node.name == "a?[2J??b"


@given(JSON)
def test_any_answer_is_read_and_shown(body: Any) -> None:
    terminal = Terminal(80)
    status, nodes, models = read_status(body), read_nodes(body), read_models(body)
    assert all_problems(status, nodes) == []
    assert status_text(status, nodes, terminal)
    assert nodes_text(nodes, terminal)
    assert models_text(models, terminal)


@given(st.sampled_from(["cluster", "node", "engine", "models", "requests", "problems", "seen"]), JSON)
def test_a_part_of_another_shape_leaves_the_rest_readable(part: str, shape: Any) -> None:
    status = read_status(STATUS | {part: shape})
    assert part == "node" or status.name == "desk"
    assert status_text(status, (), Terminal(80))


@given(st.lists(st.dictionaries(st.sampled_from(sorted(node_row("a"))), JSON), max_size=3))
def test_a_row_of_another_shape_is_still_a_row(rows: list[dict[str, Any]]) -> None:
    nodes = read_nodes({"nodes": rows})
    assert len(nodes) == len(rows)
    assert len(nodes_text(nodes, Terminal(80))) >= 1 + len(rows)
