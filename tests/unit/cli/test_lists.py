"""`nodes` and `models`."""

import json

import pytest

from ollama_dist.cli.failures import Exit
from tests.support.fake_node import MODELS, NODES, FakeNode
from tests.unit.cli.conftest import Command


def test_nodes_are_listed(cli: Command) -> None:
    with FakeNode() as node:
        ended = cli("nodes", "--listen", node.address)
    assert ended.code == Exit.OK
    assert [line.split()[0] for line in ended.out.splitlines()] == ["NODE", "desk*", "laptop"]


def test_models_are_listed_by_node(cli: Command) -> None:
    with FakeNode() as node:
        ended = cli("models", "--listen", node.address)
    assert ended.code == Exit.OK
    assert ended.out.splitlines()[0].split() == ["MODEL", "SIZE", "desk", "laptop"]


@pytest.mark.parametrize(("name", "answer"), [("nodes", NODES), ("models", MODELS)])
def test_programs_get_what_the_node_answered(cli: Command, name: str, answer: dict[str, object]) -> None:
    with FakeNode() as node:
        body = json.loads(cli(name, "--json", "--listen", node.address).out)
    assert body == {"schema": f"ollama-dist.{name}/1", **answer}


@pytest.mark.parametrize("name", ["nodes", "models"])
def test_without_a_node_there_is_nothing_to_list(cli: Command, name: str) -> None:
    ended = cli(name, "--listen", "127.0.0.1:1")
    assert ended.code == Exit.NOT_RUNNING
    assert ended.err == "ollama-dist: no node is running at 127.0.0.1:1\n  try: ollama-dist serve\n"
