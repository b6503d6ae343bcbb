import json
from dataclasses import replace
from pathlib import Path

import pytest

from ollama_dist.cli.failures import Exit
from ollama_dist.node.paths import StateLock, make_state_dir
from ollama_dist.node.runtime_file import write_runtime
from tests.support.fake_node import NODES, STATUS, FakeNode, node_row
from tests.unit.cli.conftest import Command
from tests.unit.cli.test_views import KNOWN


def test_a_healthy_cluster_ends_with_0(cli: Command) -> None:
    with FakeNode() as node:
        ended = cli("status", "--listen", node.address)
    assert ended.code == Exit.OK
    assert ended.out.startswith("desk 0.1.0: distributed, cluster 9f2c41d0")
    assert "laptop" in ended.out
    assert ended.err == ""


def test_a_problem_ends_with_3(cli: Command) -> None:
    nodes = {"nodes": [*NODES["nodes"], node_row("attic", state="dead")]}
    with FakeNode({"GET /api/distributed/nodes": (200, nodes)}) as node:
        ended = cli("status", "--listen", node.address)
    assert ended.code == Exit.DEGRADED
    assert "[member_dead]" in ended.out


def test_json_has_the_nodes_own_words_and_the_members(cli: Command) -> None:
    nodes = {"nodes": [node_row("attic", state="dead")]}
    with FakeNode({"GET /api/distributed/nodes": (200, nodes)}) as node:
        ended = cli("status", "--json", "--listen", node.address)
    body = json.loads(ended.out)
    assert body["schema"] == "ollama-dist.status/1"
    assert body["running"] is True
    assert body["cluster"] == STATUS["cluster"]
    assert body["members"] == nodes["nodes"]
    assert [problem["code"] for problem in body["problems"]] == ["member_dead"]


def test_a_pipe_gets_no_colour(cli: Command) -> None:
    with FakeNode() as node:
        assert "\x1b" not in cli("status", "--listen", node.address).out


def test_a_node_that_is_down_ends_with_4_and_what_is_last_known(cli: Command, bare_machine: Path) -> None:
    paths = make_state_dir(bare_machine)
    with FakeNode() as node:
        address = node.address
    write_runtime(paths.runtime, replace(KNOWN, listen=address, stopped_at="2026-11-20T11:00:00Z"))
    ended = cli("status")
    assert ended.code == Exit.NOT_RUNNING
    assert ended.out.startswith(f"no node is running at {address}\n")
    assert "node desk (0.1.0), cluster 9f2c41d0 with laptop, 12 models" in ended.out
    assert ended.out.endswith("start it:   ollama-dist serve\n")
    body = json.loads(cli("status", "--json").out)
    assert body["running"] is False
    assert body["last_known"]["peers"] == ["laptop"]


def test_a_plain_ollama_is_no_node(cli: Command) -> None:
    absent = (404, b"404 page not found")
    with FakeNode({"GET /api/distributed/status": absent}) as node:
        ended = cli("status", "--listen", node.address)
    assert ended.code == Exit.NOT_RUNNING
    assert f"an Ollama answers at {node.address}, but no node" in ended.out


def test_the_node_is_found_where_it_wrote_that_it_listens(cli: Command, bare_machine: Path) -> None:
    with FakeNode() as node:
        write_runtime(make_state_dir(bare_machine).runtime, replace(KNOWN, listen=node.address))
        assert cli("status").code == Exit.OK


def test_an_address_that_was_set_is_looked_at_first(
    cli: Command, bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FakeNode() as node:
        write_runtime(make_state_dir(bare_machine).runtime, replace(KNOWN, listen="127.0.0.1:1"))
        monkeypatch.setenv("OLLAMA_DIST_LISTEN", node.address)
        assert cli("status").code == Exit.OK


def test_a_node_that_holds_its_folder_and_does_not_answer_is_no_node_that_is_down(
    cli: Command, bare_machine: Path
) -> None:
    paths = make_state_dir(bare_machine)
    with FakeNode() as node:
        address = node.address
    write_runtime(paths.runtime, replace(KNOWN, listen=address))
    lock = StateLock(paths)
    lock.take()
    ended = cli("status")
    lock.release()
    assert ended.code == Exit.FAILED
    assert ended.err.startswith(f"ollama-dist: the node does not listen at {address}\n")
