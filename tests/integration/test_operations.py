"""Moving models on request: nodes in one process, scripted Ollamas, copiers that move names between them."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from ollama_dist.core.errors import NoCandidate
from ollama_dist.replication.moves import driving
from ollama_dist.replication.moves.operations import OperationId, State
from tests.support.fake_copier import FakeCopier, with_copiers
from tests.support.fake_ollama import Fault
from tests.support.joined_nodes import JoinedNode, JoinedNodes, joined_nodes
from tests.support.solo_node import ADMIN_TOKEN
from tests.support.views import key
from tests.support.wait import until

AS_OPERATOR = {"Authorization": f"Bearer {ADMIN_TOKEN}"}


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "ROUND_S", 0.05)


@asynccontextmanager
async def cluster(**models: list[str]) -> AsyncIterator[tuple[JoinedNodes, dict[str, FakeCopier]]]:
    async with joined_nodes(models) as nodes:
        yield nodes, with_copiers(nodes)


async def ask(
    node: JoinedNode, method: str, path: str, body: dict[str, Any] | None = None
) -> tuple[int, dict[str, Any]]:
    url = f"{node.url}/api/distributed/{path}"
    async with (
        aiohttp.ClientSession(headers=AS_OPERATOR) as session,
        session.request(method, url, json=body) as answer,
    ):
        return answer.status, await answer.json()


async def finished(node: JoinedNode, operation: str) -> dict[str, Any]:
    """How an operation ended, read as a stream."""
    url = f"{node.url}/api/distributed/operations/{operation}?stream=true"
    async with aiohttp.ClientSession() as session, asyncio.timeout(30), session.get(url) as answer:
        assert answer.status == 200, await answer.text()
        lines = [json.loads(line) async for line in answer.content]
    return dict(lines[-1]["operation"])


async def noted(node: JoinedNode, operation: str) -> dict[str, Any]:
    """The only step of an operation, once it says why it does not go on."""
    async with asyncio.timeout(30):
        while True:
            _, said = await ask(node, "GET", f"operations/{operation}")
            [step] = said["operation"]["steps"]
            if step["note"]:
                return dict(step)
            await asyncio.sleep(0.02)


def has(node: JoinedNode, name: str) -> bool:
    return node.fake.catalogue.find(name) is not None


async def test_a_model_moves_and_is_deleted_only_when_it_is_whole() -> None:
    async with cluster(desk=["tiny"], laptop=[], attic=[]) as (nodes, copiers):
        copiers["laptop"].gate.clear()
        status, said = await ask(nodes["attic"], "POST", "migrate", {"model": "tiny", "to": "laptop"})
        assert status == 202
        operation = said["operation"]
        assert [(step["action"], step["from"], step["to"]) for step in operation["steps"]] == [
            ("copy", "desk", "laptop"),
            ("delete", "desk", "laptop"),
        ]
        driver_of = nodes["attic"].node.moves.operations
        await until(lambda: bool(copiers["laptop"].copied), what="the copy's begin")
        known = await driver_of.get(OperationId(operation["id"]))
        assert known.steps[1].state is State.PLANNED
        assert has(nodes["desk"], "tiny")
        copiers["laptop"].gate.set()
        ended = await finished(nodes["attic"], operation["id"])
        assert ended["state"] == "succeeded"
        assert [step["state"] for step in ended["steps"]] == ["succeeded", "succeeded"]
        assert has(nodes["laptop"], "tiny")
        assert not has(nodes["desk"], "tiny")
        assert copiers["laptop"].copied == [("tiny:latest", (nodes["desk"].node.options.id,))]
        assert nodes["laptop"].node.moves.promises.kept_for(key("tiny")) is None


async def test_a_model_goes_on_to_a_third_node_at_once() -> None:
    async with cluster(desk=["tiny"], laptop=[], attic=[]) as (nodes, _):
        for to in ("laptop", "attic", "desk", "laptop"):
            _, said = await ask(nodes["desk"], "POST", "migrate", {"model": "tiny", "to": to})
            assert (await finished(nodes["desk"], said["operation"]["id"]))["state"] == "succeeded"
            await nodes.settle()
            assert [node.name for node in nodes if has(node, "tiny")] == [to]


async def test_progress_is_told_by_every_node() -> None:
    async with cluster(desk=["tiny"], laptop=[], attic=[]) as (nodes, copiers):
        copiers["laptop"].gate.clear()
        wish = {"model": "tiny", "to": "laptop", "keep_source": True}
        _, said = await ask(nodes["desk"], "POST", "migrate", wish)
        identifier = said["operation"]["id"]
        for name in ("desk", "laptop", "attic"):
            while True:
                _, said = await ask(nodes[name], "GET", f"operations/{identifier}")
                [step] = said["operation"]["steps"]
                if step["bytes_done"]:
                    break
                await asyncio.sleep(0.02)
            assert (step["bytes_total"], step["bytes_done"], step["bytes_per_s"]) == (1000, 400, 100)
            _, listed = await ask(nodes[name], "GET", "operations")
            assert [each["id"] for each in listed["operations"]] == [identifier]
        copiers["laptop"].gate.set()
        assert (await finished(nodes["attic"], identifier))["state"] == "succeeded"
        assert has(nodes["desk"], "tiny")


async def test_a_dry_run_changes_nothing() -> None:
    async with cluster(desk=["tiny"], laptop=[]) as (nodes, copiers):
        status, said = await ask(
            nodes["desk"], "POST", "migrate", {"model": "tiny", "to": "laptop", "dry_run": True}
        )
        assert (status, said["operation"]["id"], said["operation"]["state"]) == (200, None, "planned")
        assert len(said["operation"]["steps"]) == 2
        assert (await ask(nodes["desk"], "GET", "operations"))[1] == {"operations": []}
        assert copiers["laptop"].copied == []


async def test_asking_twice_anywhere_is_asking_once() -> None:
    async with cluster(desk=["tiny"], laptop=[], attic=[]) as (nodes, copiers):
        copiers["laptop"].gate.clear()
        wish = {"model": "tiny", "to": "laptop"}
        first = (await ask(nodes["desk"], "POST", "migrate", wish))[1]["operation"]["id"]
        again = [(await ask(nodes[name], "POST", "migrate", wish)) for name in ("desk", "laptop", "attic")]
        assert [(status, said["operation"]["id"]) for status, said in again] == [(202, first)] * 3
        copiers["laptop"].gate.set()
        assert (await finished(nodes["desk"], first))["state"] == "succeeded"
        assert len(copiers["laptop"].copied) == 1


async def test_cancelled_from_anywhere_both_ends_keep_what_they_had() -> None:
    async with cluster(desk=["tiny"], laptop=[], attic=[]) as (nodes, copiers):
        copiers["laptop"].gate.clear()
        _, said = await ask(nodes["desk"], "POST", "migrate", {"model": "tiny", "to": "laptop"})
        identifier = said["operation"]["id"]
        await until(lambda: bool(copiers["laptop"].copied), what="the copy's begin")
        status, _ = await ask(nodes["attic"], "POST", f"operations/{identifier}/cancel", {})
        assert status == 200
        ended = await finished(nodes["attic"], identifier)
        assert ended["state"] == "cancelled"
        assert [step["state"] for step in ended["steps"]] == ["cancelled", "cancelled"]
        assert copiers["laptop"].cancelled == 1
        assert has(nodes["desk"], "tiny")
        assert not has(nodes["laptop"], "tiny")
        _, again = await ask(nodes["desk"], "POST", f"operations/{identifier}/cancel", {})
        assert again["operation"]["finished_at"] == ended["finished_at"]


async def test_a_step_that_fails_leaves_both_copies_and_says_why() -> None:
    async with cluster(desk=["tiny"], laptop=[]) as (nodes, copiers):

        class Refused(NoCandidate):
            retryable = False

        copiers["laptop"].errors.append(Refused("the disk is full"))
        _, said = await ask(nodes["desk"], "POST", "migrate", {"model": "tiny", "to": "laptop"})
        ended = await finished(nodes["desk"], said["operation"]["id"])
        assert ended["state"] == "failed"
        assert [(step["state"], step["error"]) for step in ended["steps"]] == [
            ("failed", "the disk is full"),
            ("cancelled", "not done: the copy of tiny:latest before it did not succeed"),
        ]
        assert has(nodes["desk"], "tiny")


async def test_a_copy_is_not_given_up_without_a_promise() -> None:
    async with cluster(desk=["tiny"], laptop=["tiny"]) as (nodes, copiers):
        laptop = nodes["laptop"].node
        [key] = laptop.view().me.models
        laptop.moves.promises.give_up(key)
        _, said = await ask(nodes["desk"], "POST", "migrate", {"model": "tiny", "to": "laptop"})
        identifier = said["operation"]["id"]
        step = await noted(nodes["desk"], identifier)
        assert "laptop is about to give its own copy up" in step["note"]
        assert has(nodes["desk"], "tiny")
        laptop.moves.promises.given_up(key)
        assert (await finished(nodes["desk"], identifier))["state"] == "succeeded"
        assert not has(nodes["desk"], "tiny")
        assert copiers["desk"].deleted == ["tiny:latest"]


@pytest.mark.parametrize(
    ("wish", "status", "code", "words"),
    [
        ({"model": "tiny", "to": "cellar"}, 404, "node_not_found", "cellar"),
        ({"model": "nosuch", "to": "laptop"}, 404, "model_not_found", "nosuch:latest"),
        ({"model": "a b", "to": "laptop"}, 400, "invalid_model_name", "invalid model name"),
        ({"model": "tiny", "to": "desk", "from": "desk"}, 400, "bad_request", "both desk"),
        ({"model": "both", "to": "attic"}, 400, "bad_request", '"from"'),
        ({"model": "tiny", "to": "laptop", "keep": True}, 400, "bad_request", '"from"'),
    ],
)
async def test_what_cannot_be_is_said_plainly(
    wish: dict[str, Any], status: int, code: str, words: str
) -> None:
    async with cluster(desk=["tiny"], laptop=[], attic=[]) as (nodes, _):
        for name in ("desk", "laptop"):
            nodes[name].fake.catalogue.install("both", "tiny")
            nodes[name].node.engine.nudge()
        await until(lambda: len(nodes["desk"].node.view().holders) == 2, what="the second model's being seen")
        await nodes.settle()
        found, said = await ask(nodes["desk"], "POST", "migrate", wish)
        assert (found, said["code"]) == (status, code)
        assert words in said["error"]


async def test_an_unknown_operation_is_not_found() -> None:
    async with cluster(desk=[], laptop=[]) as (nodes, _):
        owner = nodes["laptop"].node.options.id
        for identifier, status in (
            (f"{owner}-0123456789ab", 404),
            (f"{'f' * 16}-0123456789ab", 404),
            ("x", 400),
        ):
            assert (await ask(nodes["desk"], "GET", f"operations/{identifier}"))[0] == status
            assert (await ask(nodes["desk"], "POST", f"operations/{identifier}/cancel"))[0] == status


async def test_a_drained_node_keeps_nothing_to_itself() -> None:
    async with cluster(desk=["tiny", "tiny-embed"], laptop=["tiny"], attic=[]) as (nodes, copiers):
        for each in copiers.values():
            each.origin = "tiny-embed"
        status, said = await ask(nodes["attic"], "POST", "drain", {"node": "desk"})
        assert status == 202
        ended = await finished(nodes["attic"], said["operation"]["id"])
        assert ended["state"] == "succeeded"
        [step] = ended["steps"]
        assert (step["action"], step["model"], step["reason"]) == (
            "copy",
            "tiny-embed:latest",
            "only desk has it",
        )
        assert step["to"] in ("laptop", "attic")
        await until(lambda: nodes["attic"].node.view().find("desk").draining, what="the drain's being known")
        assert (await ask(nodes["attic"], "POST", "drain", {"node": "desk"})) == (200, {"operation": None})
        assert (await ask(nodes["attic"], "POST", "undrain", {"node": "desk"}))[0] == 200
        await until(lambda: not nodes["attic"].node.view().find("desk").draining, what="the end of the drain")
        assert has(nodes["desk"], "tiny-embed")


async def test_a_drain_that_cannot_finish_says_why_and_ends_with_undrain() -> None:
    async with cluster(desk=["tiny"], laptop=[]) as (nodes, copiers):
        nodes.board.set_state(nodes["laptop"].node.options.id, nodes["laptop"].node.view().me.state, "joined")
        nodes["laptop"].node.moves.draining.is_on = True
        nodes["laptop"].node._renew_self()
        await until(lambda: nodes["desk"].node.view().find("laptop").draining, what="both being drained")
        status, said = await ask(nodes["desk"], "POST", "drain", {"node": "desk"})
        assert status == 202
        identifier = said["operation"]["id"]
        step = await noted(nodes["desk"], identifier)
        assert (step["to"], step["note"]) == (None, "no node can take it (no other node takes models now)")
        _, said = await ask(nodes["desk"], "GET", f"operations/{identifier}")
        assert said["operation"]["state"] == "running"
        status, said = await ask(nodes["desk"], "POST", "undrain", {"node": "desk"})
        assert (await finished(nodes["desk"], identifier))["state"] == "cancelled"
        assert copiers["laptop"].copied == []
        assert not nodes["desk"].node.moves.draining.is_on


async def loaded(node: JoinedNode, name: str = "tiny") -> None:
    """Bring a model into the memory of a node's engine."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{node.fake.port}/api/generate", json={"model": name}) as answer,
    ):
        assert answer.status == 200
    node.node.engine.nudge()


def in_memory(nodes: JoinedNodes) -> set[str]:
    return {node.name for node in nodes if node.fake.runners.loaded()}


async def test_what_was_in_memory_is_in_memory_there_before_it_is_gone_here() -> None:
    async with cluster(desk=["tiny"], laptop=[]) as (nodes, copiers):
        await loaded(nodes["desk"])
        await until(lambda: bool(nodes["laptop"].node.view().find("desk").loaded), what="its being known")
        copiers["desk"].errors.append(NoCandidate("not asked"))
        _, said = await ask(nodes["laptop"], "POST", "migrate", {"model": "tiny", "to": "laptop"})
        ended = await finished(nodes["laptop"], said["operation"]["id"])
        assert [(step["action"], step["from"], step["to"], step["state"]) for step in ended["steps"]] == [
            ("copy", "desk", "laptop", "succeeded"),
            ("load", "desk", "laptop", "succeeded"),
            ("unload", "desk", "laptop", "succeeded"),
            ("delete", "desk", "laptop", "succeeded"),
        ]
        assert in_memory(nodes) == {"laptop"}
        assert not has(nodes["desk"], "tiny")


async def test_where_it_cannot_be_loaded_both_copies_stay() -> None:
    async with cluster(desk=["tiny"], laptop=[]) as (nodes, _):
        await loaded(nodes["desk"])
        await until(lambda: bool(nodes["laptop"].node.view().find("desk").loaded), what="its being known")
        nodes["laptop"].fake.faults.add(Fault(load_failure=True))
        _, said = await ask(nodes["laptop"], "POST", "migrate", {"model": "tiny", "to": "laptop"})
        ended = await finished(nodes["laptop"], said["operation"]["id"])
        assert ended["state"] == "failed"
        assert "the engine answered 500" in ended["steps"][1]["error"]
        assert (has(nodes["desk"], "tiny"), has(nodes["laptop"], "tiny")) == (True, True)
        assert in_memory(nodes) == {"desk"}
        _, said = await ask(
            nodes["laptop"], "POST", "migrate", {"model": "tiny", "to": "laptop", "load": False}
        )
        assert (await finished(nodes["laptop"], said["operation"]["id"]))["state"] == "succeeded"
        assert in_memory(nodes) == set()


async def test_a_drained_node_hands_over_what_it_has_in_memory() -> None:
    async with cluster(desk=["tiny"], laptop=[]) as (nodes, _):
        await loaded(nodes["desk"])
        await until(lambda: bool(nodes["laptop"].node.view().find("desk").loaded), what="its being known")
        _, said = await ask(nodes["laptop"], "POST", "drain", {"node": "desk"})
        ended = await finished(nodes["laptop"], said["operation"]["id"])
        assert ended["state"] == "succeeded"
        assert [step["action"] for step in ended["steps"]] == ["copy", "load", "unload"]
        assert in_memory(nodes) == {"laptop"}


async def test_one_node_gives_its_copy_up_and_never_the_last_unasked() -> None:
    async with cluster(desk=["tiny"], laptop=["tiny"], attic=[]) as (nodes, _):
        wish = {"model": "tiny", "from": "desk"}
        _, said = await ask(nodes["attic"], "POST", "migrate", wish)
        ended = await finished(nodes["attic"], said["operation"]["id"])
        assert [(step["action"], step["from"], step["reason"]) for step in ended["steps"]] == [
            ("delete", "desk", "asked for; also on laptop")
        ]
        assert (has(nodes["desk"], "tiny"), has(nodes["laptop"], "tiny")) == (False, True)
        await nodes.settle()
        status, said = await ask(nodes["attic"], "POST", "migrate", {**wish, "from": "laptop"})
        assert (status, said["code"]) == (409, "last_copy")
        forced = {"model": "tiny", "from": "laptop", "force": True}
        _, said = await ask(nodes["attic"], "POST", "migrate", forced)
        assert (await finished(nodes["attic"], said["operation"]["id"]))["state"] == "succeeded"
        assert not has(nodes["laptop"], "tiny")
        status, said = await ask(nodes["attic"], "POST", "migrate", {"model": "tiny"})
        assert (status, "from" in said["error"]) == (400, True)


async def test_a_deletion_for_one_node_is_done_there_alone() -> None:
    async with cluster(desk=["tiny"], laptop=["tiny"]) as (nodes, _):

        async def delete(node: str) -> tuple[int, str]:
            headers = {"X-Ollama-Node": node}
            async with (
                aiohttp.ClientSession(headers=headers) as session,
                session.delete(f"{nodes['desk'].url}/api/delete", json={"model": "tiny"}) as answer,
            ):
                return answer.status, await answer.text()

        assert await delete("laptop") == (200, "")
        assert (has(nodes["desk"], "tiny"), has(nodes["laptop"], "tiny")) == (True, False)
        wish = {"model": "tiny", "to": "laptop", "keep_source": True}
        _, said = await ask(nodes["desk"], "POST", "migrate", wish)
        assert (await finished(nodes["desk"], said["operation"]["id"]))["state"] == "succeeded"
        await nodes.settle()
        assert await delete("desk") == (200, "")
        _, said = await ask(nodes["desk"], "POST", "migrate", {**wish, "to": "desk", "keep_source": False})
        assert (await finished(nodes["desk"], said["operation"]["id"]))["state"] == "succeeded"
        await nodes.settle()
        status, text = await delete("desk")
        assert (status, "the last copy" in text) == (409, True)
        assert (await delete("laptop"))[0] == 404
        assert (await delete("cellar"))[0] == 404
        assert has(nodes["desk"], "tiny")
