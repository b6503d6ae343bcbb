"""Policies that all nodes share, what they do by themselves for them, and deletions that somebody missed."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from ollama_dist.core.view import MemberState
from ollama_dist.node import missed, placing
from ollama_dist.replication.moves import driving
from tests.integration.test_operations import AS_OPERATOR, ask, finished, has
from tests.support.fake_copier import FakeCopier, with_copiers
from tests.support.joined_nodes import JoinedNode, JoinedNodes, joined_nodes
from tests.support.views import key
from tests.support.wait import until


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "ROUND_S", 0.05)
    monkeypatch.setattr(placing, "TELL_S", 0.05)
    monkeypatch.setattr(missed, "CATCH_UP_S", 0.05)


@asynccontextmanager
async def cluster(**models: list[str]) -> AsyncIterator[tuple[JoinedNodes, dict[str, FakeCopier]]]:
    async with joined_nodes(models) as nodes:
        yield nodes, with_copiers(nodes)


async def delete(node: JoinedNode, model: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.delete(f"{node.url}/api/delete", json={"model": model}) as answer,
    ):
        return answer.status, await answer.text()


def copies(nodes: JoinedNodes, name: str) -> set[str]:
    return {node.name for node in nodes if has(node, name)}


async def look(nodes: JoinedNodes) -> None:
    """What each node would do by itself in a while, one node after the other."""
    for node in nodes:
        await node.node.moves._placer.look()
        await nodes.settle()


async def test_a_policy_is_known_everywhere_and_the_newest_holds() -> None:
    async with cluster(desk=["tiny"], laptop=[]) as (nodes, _):
        wish = {"min": 1, "max": 3, "pinned": ["laptop"]}
        status, said = await ask(nodes["desk"], "PUT", "policies/hf.co/some/Tiny*", wish)
        assert (status, said["policy"]) == (200, {"pattern": "hf.co/some/tiny*", **wish})
        await until(lambda: bool(nodes["laptop"].node.moves.shared.policies), what="its being known")
        assert (await ask(nodes["laptop"], "GET", "policies"))[1]["policies"] == [said["policy"]]
        await ask(nodes["laptop"], "PUT", "policies/hf.co/some/tiny*", {"min": 2})
        await until(lambda: nodes["desk"].node.moves.shared.policies[0].min == 2, what="the newer one")
        assert (await ask(nodes["desk"], "DELETE", "policies/hf.co/some/tiny*"))[0] == 200
        await until(lambda: not nodes["laptop"].node.moves.shared.policies, what="its end")
        assert (await ask(nodes["laptop"], "GET", "policies/hf.co/some/tiny*"))[0] == 404


@pytest.mark.parametrize(
    ("pattern", "wish", "status"),
    [
        ("ti%20ny", {}, 400),
        ("tiny", {"min": 3, "max": 2}, 400),
        ("tiny", {"pinned": ["cellar"]}, 404),
        ("tiny", {"least": 1}, 400),
        ("tiny", {"min": 0, "max": 0}, 400),
    ],
)
async def test_a_policy_that_makes_no_sense_is_refused(
    pattern: str, wish: dict[str, Any], status: int
) -> None:
    async with cluster(desk=[]) as (nodes, _):
        found, said = await ask(nodes["desk"], "PUT", f"policies/{pattern}", wish)
        assert found == status
        assert said["error"]
        assert nodes["desk"].node.moves.shared.policies == ()


async def test_nodes_do_by_themselves_what_a_policy_asks_for_and_no_more() -> None:
    async with cluster(desk=["tiny"], laptop=[], attic=[]) as (nodes, copiers):
        await look(nodes)
        assert copies(nodes, "tiny") == {"desk"}
        await ask(nodes["desk"], "PUT", "policies/tiny", {"min": 2})
        await until(lambda: bool(nodes["attic"].node.moves.shared.policies), what="its being known")
        await look(nodes)
        await look(nodes)
        assert len(copies(nodes, "tiny")) == 2
        assert sum(len(copier.copied) for copier in copiers.values()) == 1
        _, said = await ask(nodes["desk"], "GET", "operations")
        [operation] = said["operations"]
        assert (operation["kind"], operation["requested_by"]) == ("replicate", "placement")
        assert operation["steps"][0]["reason"] == "1 of at least 2 copies"
        await ask(nodes["desk"], "PUT", "policies/tiny", {"min": 1, "max": 1, "pinned": ["desk"]})
        await until(lambda: nodes["attic"].node.moves.shared.policies[0].max == 1, what="the new one")
        await until(lambda: nodes["laptop"].node.moves.shared.policies[0].max == 1, what="the new one")
        await look(nodes)
        assert copies(nodes, "tiny") == {"desk"}


async def test_a_rebalance_does_it_at_once_on_all_nodes() -> None:
    async with cluster(desk=["tiny"], laptop=[], attic=[]) as (nodes, _):
        await ask(nodes["desk"], "PUT", "policies/*", {"min": 3})
        status, said = await ask(nodes["desk"], "POST", "rebalance", {"dry_run": True})
        assert (status, said["operation"]["kind"], len(said["operation"]["steps"])) == (200, "rebalance", 2)
        status, said = await ask(nodes["desk"], "POST", "rebalance", {"models": ["other"]})
        assert (status, said["operation"]["steps"]) == (202, [])
        status, said = await ask(nodes["desk"], "POST", "rebalance")
        assert status == 202
        assert (await finished(nodes["desk"], said["operation"]["id"]))["state"] == "succeeded"
        assert copies(nodes, "tiny") == {"desk", "laptop", "attic"}
        _, listed = await ask(nodes["desk"], "GET", "models")
        assert listed["models"][0]["policy"] == {"min": 3, "max": None, "pinned": []}


async def test_what_is_pinned_somewhere_is_not_deleted_there() -> None:
    async with cluster(desk=["tiny"], laptop=["tiny"]) as (nodes, _):
        await ask(nodes["desk"], "PUT", "policies/tiny", {"min": 0, "pinned": ["laptop"]})
        await until(lambda: bool(nodes["laptop"].node.moves.shared.policies), what="its being known")
        status, text = await delete(nodes["desk"], "tiny")
        assert status == 502
        assert "done on desk, but not everywhere" in text
        assert "pinned" in text
        assert copies(nodes, "tiny") == {"laptop"}
        await nodes.settle()
        status, text = await delete(nodes["laptop"], "tiny")
        assert (status, "pinned" in text) == (409, True)
        url = f"http://127.0.0.1:{nodes['laptop'].relay.address[1]}/api/delete"
        async with (
            aiohttp.ClientSession(headers=AS_OPERATOR) as session,
            session.delete(url, json={"model": "tiny"}) as answer,
        ):
            assert answer.status == 409
        assert copies(nodes, "tiny") == {"laptop"}


async def away(nodes: JoinedNodes, name: str) -> None:
    node = nodes[name].node.options.id
    nodes.board.set_state(node, MemberState.DEAD, "silent")
    await until(lambda: not nodes["desk"].node.view().nodes[node].is_routable, what="its being away")


async def back(nodes: JoinedNodes, name: str) -> None:
    nodes.board.set_state(nodes[name].node.options.id, MemberState.ALIVE, "joined")


async def test_a_holder_that_was_away_hears_of_a_deletion_when_it_is_back() -> None:
    async with cluster(desk=["tiny"], laptop=["tiny"], attic=[]) as (nodes, copiers):
        # What the others tell does not reach it while it is away.
        hear = nodes["laptop"].node.moves.shared.hear
        nodes["laptop"].node.moves.shared.hear = lambda members: None  # type: ignore[method-assign]
        await away(nodes, "laptop")
        assert (await delete(nodes["desk"], "tiny"))[0] == 200
        assert copies(nodes, "tiny") == {"laptop"}
        await until(lambda: bool(nodes["attic"].node.moves.shared.records.of("deletion")), what="its spread")
        await back(nodes, "laptop")
        nodes["laptop"].node.moves.shared.hear = hear  # type: ignore[method-assign]
        nodes.board.changed()
        await until(lambda: not copies(nodes, "tiny"), what="its deletion there")
        assert copiers["laptop"].deleted == ["tiny:latest"]
        await until(
            lambda: not any(node.node.moves.shared.records.of("deletion") for node in nodes),
            what="the record's end",
        )


async def test_what_was_pulled_anew_meanwhile_stays() -> None:
    async with cluster(desk=["tiny"], laptop=["tiny"]) as (nodes, copiers):
        shared = nodes["laptop"].node.moves.shared
        hear = shared.hear
        shared.hear = lambda members: None  # type: ignore[method-assign]
        await away(nodes, "laptop")
        assert (await delete(nodes["desk"], "tiny"))[0] == 200
        nodes["desk"].fake.catalogue.install("tiny", "tiny")
        nodes["desk"].node.engine.nudge()
        await until(lambda: key("tiny") in nodes["desk"].node.view().me.models, what="its being there anew")
        await back(nodes, "laptop")
        shared.hear = hear  # type: ignore[method-assign]
        nodes.board.changed()
        await until(
            lambda: (
                not any(node.node.moves.shared.records.of("deletion") for node in nodes)
                and any(each.kind == "deletion" for each in shared.records.all())
            ),
            what="the record's end",
        )
        assert copies(nodes, "tiny") == {"desk", "laptop"}
        assert copiers["laptop"].deleted == []


async def test_a_deletion_that_no_holder_hears_is_done_when_they_are_back() -> None:
    async with cluster(desk=[], laptop=["tiny"], attic=["tiny"]) as (nodes, copiers):
        heard = {name: nodes[name].node.moves.shared.hear for name in ("laptop", "attic")}
        for name in heard:
            nodes[name].node.moves.shared.hear = lambda members: None  # type: ignore[method-assign]
            await away(nodes, name)
        status, text = await delete(nodes["desk"], "tiny")
        assert status == 202
        assert "it is deleted when they are back: laptop, attic" in text
        for name, hear in heard.items():
            await back(nodes, name)
            nodes[name].node.moves.shared.hear = hear  # type: ignore[method-assign]
        nodes.board.changed()
        await until(lambda: not copies(nodes, "tiny"), what="their deletion")
        assert [copiers[name].deleted for name in heard] == [["tiny:latest"]] * 2
        await nodes.settle()
        assert (await delete(nodes["desk"], "tiny"))[0] == 404
