"""Pulls through nodes: from the registry once for all, from each other later, told as Ollama tells it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import ollama
import orjson
import pytest

from ollama_dist.core.modes import Mode
from ollama_dist.core.view import MemberState
from ollama_dist.replication.pulls.pulling import WAITING
from ollama_dist.replication.pulls.turns import arbiter
from tests.support.joined_nodes import JoinedNode, JoinedNodes, joined_nodes
from tests.support.store_source import StoreSource
from tests.support.upstream_registry import UpstreamRegistry, digest_of
from tests.support.wait import until

WEIGHTS = bytes(range(256)) * 4096
OTHER_WEIGHTS = WEIGHTS[::-1]


@pytest.fixture
async def registry(tmp_path: Path) -> AsyncIterator[UpstreamRegistry]:
    async with UpstreamRegistry(tmp_path / "registry") as serving:
        yield serving


@contextlib.asynccontextmanager
async def nodes_at(registry: UpstreamRegistry, folder: Path, *names: str) -> AsyncIterator[JoinedNodes]:
    held: dict[str, tuple[str, ...]] = dict.fromkeys(names, ())
    async with joined_nodes(held, folder=folder, pull_hosts={registry.host}) as nodes:
        for node in nodes:
            small_parts(node)
        yield nodes


def small_parts(node: JoinedNode) -> None:
    assert node.fake.catalogue.puller is not None
    node.fake.catalogue.puller.timing.part_bytes = 100_000
    node.fake.catalogue.puller.timing.backoff_s = 0.01


async def pull(
    node: JoinedNode, model: str, *, to: str = "", **fields: Any
) -> tuple[int, list[dict[str, Any]]]:
    headers = {"X-Ollama-Node": to} if to else {}
    body = {"model": model, "insecure": True, **fields}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{node.url}/api/pull", json=body, headers=headers) as answer,
    ):
        return answer.status, [orjson.loads(line) for line in (await answer.read()).splitlines()]


async def names(node: JoinedNode, place: str = "") -> list[str]:
    async with aiohttp.ClientSession() as session, session.get(f"{place or node.url}/api/tags") as answer:
        return sorted(row["name"] for row in (await answer.json())["models"])


def has_it(node: JoinedNode, model: str, registry: UpstreamRegistry) -> bool:
    assert node.fake.store is not None
    copied = StoreSource(node.fake.store.folder, model).manifest
    return copied.identity == StoreSource(registry.store.folder, model).manifest.identity


def size_of(registry: UpstreamRegistry, model: str) -> int:
    return StoreSource(registry.store.folder, model).manifest.size


async def test_the_first_comes_from_the_registry_and_the_next_from_the_first(
    registry: UpstreamRegistry, tmp_path: Path
) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        status, lines = await pull(nodes["one"], model)
        assert status == 200
        assert registry.total == size_of(registry, model)
        assert has_it(nodes["one"], model, registry)
        weights = digest_of(WEIGHTS)
        says = [line["status"] for line in lines]
        assert says[0] == "pulling manifest"
        assert says[-3:] == ["verifying sha256 digest", "writing manifest", "success"]
        assert says.count("pulling manifest") == says.count("success") == 1
        whole = {line["digest"]: line for line in lines if "digest" in line}
        assert whole[weights]["status"] == f"pulling {weights[7:19]}"
        assert whole[weights]["completed"] == whole[weights]["total"] == len(WEIGHTS)
        assert await names(nodes["one"]) == await names(nodes["one"], nodes["one"].fake.url) == [model]

        await nodes.settle()
        await pull(nodes["two"], model)
        assert has_it(nodes["two"], model, registry)
        assert registry.total == size_of(registry, model), "not a byte more"


async def test_however_many_ask_at_once_it_is_fetched_once(
    registry: UpstreamRegistry, tmp_path: Path
) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    registry.block_s = 0.01
    async with nodes_at(registry, tmp_path, "one", "two", "three") as nodes:
        answers = await asyncio.gather(*(pull(node, model) for node in nodes for _ in range(2)))
        assert [lines[-1] for _, lines in answers] == [{"status": "success"}] * 6
        assert all(has_it(node, model, registry) for node in nodes)
        assert registry.total == size_of(registry, model)


async def test_who_waits_for_another_pull_is_told_so_all_the_time(
    registry: UpstreamRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_dist.replication.pulls.pulling.TELL_S", 0.02)
    model = registry.publish("tiny:1b", WEIGHTS).short
    registry.block_s = 0.05
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        first = asyncio.create_task(pull(nodes["one"], model))
        await until(lambda: registry.total > 0, what="the first one's turn")
        _, lines = await pull(nodes["two"], model)

        says = [line["status"] for line in lines]
        waited = says.count(WAITING)
        assert waited > 1
        assert says[: waited + 2] == [
            "pulling manifest",
            *[WAITING] * waited,
            f"pulling {digest_of(WEIGHTS)[7:19]}",
        ]
        assert says[-1] == "success"
        assert WAITING not in [line["status"] for line in (await first)[1]]
        assert registry.total == size_of(registry, model)


async def test_a_new_version_is_noticed_and_what_it_shares_comes_from_members(
    registry: UpstreamRegistry, tmp_path: Path
) -> None:
    model = registry.publish("tiny:1b", WEIGHTS, "Be brief.").short
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        await pull(nodes["one"], model)
        await nodes.settle()
        registry.publish("tiny:1b", WEIGHTS, "Be long.")
        before = registry.given.copy()
        await pull(nodes["two"], model)
        assert has_it(nodes["two"], model, registry)
        assert set(registry.given - before) == {digest_of(b"Be long.")}


@pytest.mark.parametrize("trouble", ["away", "hangs", "lacks it", "broken"])
async def test_without_the_registry_the_newest_that_members_have_counts(
    registry: UpstreamRegistry, tmp_path: Path, trouble: str
) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        await pull(nodes["one"], model)
        await nodes.settle()
        match trouble:
            case "away":
                await registry.stop()
            case "hangs":
                registry.hangs = True
                for node in nodes:
                    assert node.node.mover is not None
                    node.node.mover._upstream._manifest_s = 0.1
            case "lacks it":
                registry.status = 404
            case "broken":
                registry.status = 500
        _, lines = await pull(nodes["two"], model)
        assert lines[-1] == {"status": "success"}
        assert has_it(nodes["two"], model, registry)


async def test_what_nobody_has_is_told_in_the_engines_own_words(
    registry: UpstreamRegistry, tmp_path: Path
) -> None:
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        status, lines = await pull(nodes["one"], registry.named("none").short)
        assert status == 200
        assert lines == [
            {"status": "pulling manifest"},
            {"error": "pull model manifest: file does not exist"},
        ]
        status, lines = await pull(nodes["one"], registry.named("none").short, stream=False)
        assert (status, lines) == (500, [{"error": "pull model manifest: file does not exist"}])
        status, lines = await pull(nodes["one"], "a b")
        assert (status, lines) == (400, [{"error": "invalid model name"}])


async def test_other_registries_are_the_engines_business(registry: UpstreamRegistry, tmp_path: Path) -> None:
    nobody: dict[str, tuple[str, ...]] = {"one": (), "two": ()}
    async with joined_nodes(nobody, folder=tmp_path, pull_hosts={"registry.ollama.ai"}) as nodes:
        model = registry.publish("tiny:1b", WEIGHTS).short
        _, lines = await pull(nodes["one"], model)
        assert lines[-1] == {"status": "success"}
        assert nodes["one"].fake.journal.on("/api/copy") == []


@pytest.mark.parametrize("mode", [Mode.LOCAL, Mode.STANDALONE])
async def test_a_node_that_is_to_be_alone_leaves_it_to_its_engine(
    registry: UpstreamRegistry, tmp_path: Path, mode: Mode
) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        nodes["one"].node.switches = nodes["one"].node.switches.with_mode(mode)
        _, lines = await pull(nodes["one"], model)
        assert lines[-1] == {"status": "success"}
        assert nodes["one"].fake.journal.on("/api/copy") == []


async def test_a_pull_goes_to_the_node_it_names(registry: UpstreamRegistry, tmp_path: Path) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        _, lines = await pull(nodes["one"], model, to="two")
        assert lines[-1] == {"status": "success"}
        assert await names(nodes["one"], nodes["one"].fake.url) == []
        assert has_it(nodes["two"], model, registry)
        status, lines = await pull(nodes["one"], model, to="nobody")
        assert status == 404
        assert "nobody" in lines[0]["error"]


async def test_not_streamed_is_one_object(registry: UpstreamRegistry, tmp_path: Path) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        assert await pull(nodes["one"], model, stream=False) == (200, [{"status": "success"}])


async def test_what_goes_wrong_on_the_way_is_the_last_line(
    registry: UpstreamRegistry, tmp_path: Path
) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        assert nodes["one"].fake.store is not None
        nodes["one"].fake.store.disk_bytes = 300_000
        status, lines = await pull(nodes["one"], model)
        assert status == 200
        assert "no space left on device" in lines[-1]["error"]
        nodes["one"].fake.store.disk_bytes = 300_000
        status, lines = await pull(nodes["one"], model, stream=False)
        assert status == 500
        assert await names(nodes["one"]) == []


async def test_a_client_that_leaves_ends_its_pull_and_the_next_goes_on_from_there(
    registry: UpstreamRegistry, tmp_path: Path
) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    registry.block_s = 0.02
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        one = nodes["one"]
        pulling = asyncio.create_task(pull(one, model))
        await until(lambda: registry.total > 500_000, what="half of it")
        pulling.cancel()
        await asyncio.wait({pulling})
        await until(lambda: not one.fake.journal.under_way, what="the engine's pull being over")
        registry.block_s = 0.0
        await pull(one, model)
        assert has_it(one, model, registry)
        assert registry.total < size_of(registry, model) + 16 * 2 * 65536


async def test_a_node_that_dies_in_its_turn_gives_way(registry: UpstreamRegistry, tmp_path: Path) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    registry.block_s = 0.05
    async with nodes_at(registry, tmp_path, "one", "two", "three") as nodes:
        first = asyncio.create_task(pull(nodes["one"], model))
        await until(lambda: registry.total > 100_000, what="the first one's turn")
        second = asyncio.create_task(pull(nodes["two"], model))
        await asyncio.sleep(0.1)
        registry.block_s = 0.0
        nodes.board.set_state(nodes["one"].node.view().self_id, MemberState.DEAD, "killed")
        first.cancel()
        _, lines = await second
        assert lines[-1] == {"status": "success"}
        assert has_it(nodes["two"], model, registry)


async def test_the_official_client_sees_nothing_unusual(registry: UpstreamRegistry, tmp_path: Path) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        client = ollama.AsyncClient(nodes["one"].url)
        told = [line async for line in await client.pull(model, insecure=True, stream=True)]
        assert told[-1].status == "success"
        assert max(line.completed or 0 for line in told) == len(WEIGHTS)
        assert (await client.pull(model, insecure=True)).status == "success"
        with pytest.raises(ollama.ResponseError, match="file does not exist"):
            await client.pull(registry.named("none").short, insecure=True)
        await client._client.aclose()


async def test_names_in_passing_are_seen_by_nobody(registry: UpstreamRegistry, tmp_path: Path) -> None:
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        passing = "127.0.0.1:1/ollama-dist-0123/tiny:1b"
        nodes["one"].fake.catalogue.install(passing, "tiny")
        assert await names(nodes["one"]) == []
        nodes["one"].fake.catalogue.install("plain", "tiny")
        nodes["one"].node.engine.nudge()
        await until(lambda: bool(nodes["two"].node.view().holders), what="hearing of the other model")
        assert await names(nodes["two"]) == await names(nodes["one"]) == ["plain:latest"]


async def test_a_model_that_its_node_may_not_read_is_lent(tmp_path: Path) -> None:
    nodes = JoinedNodes()
    try:
        hosts = {"registry.ollama.ai"}
        await nodes.add("one", ("tiny",), folder=tmp_path, pull_hosts=hosts, is_readable=False)
        two = await nodes.add("two", (), folder=tmp_path, pull_hosts=hosts)
        await nodes.settle()
        assert nodes["one"].fake.store is not None
        assert two.node.mover is not None
        two.node.mover._upstream._manifest_s = 0.001
        _, lines = await pull(two, "tiny")
        assert lines[-1] == {"status": "success"}, lines
        original = StoreSource(nodes["one"].fake.store.folder, "tiny").manifest
        assert two.fake.store is not None
        assert StoreSource(two.fake.store.folder, "tiny").manifest.raw == original.raw
        [copy] = nodes["one"].node.view().me.models
        await until(
            lambda: nodes["one"].node.view().me.models[copy].identity == original.identity,
            what="its being known by the other's",
        )
        assert await names(nodes["one"], nodes["one"].fake.url) == ["tiny:latest"]
    finally:
        await nodes.stop()


async def test_a_registry_that_wants_a_key_is_the_engines_business(
    registry: UpstreamRegistry, tmp_path: Path
) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    async with nodes_at(registry, tmp_path, "one", "two") as nodes:
        await pull(nodes["one"], model)
        await nodes.settle()
        registry.status = 401
        _, lines = await pull(nodes["two"], model)
        assert lines[-1] == {"error": "pull model manifest: 401: "}


async def test_when_the_arbiter_dies_those_who_wait_find_another(
    registry: UpstreamRegistry, tmp_path: Path
) -> None:
    model = registry.publish("tiny:1b", WEIGHTS).short
    subject = StoreSource(registry.store.folder, model).manifest.identity
    registry.block_s = 0.05
    async with nodes_at(registry, tmp_path, "one", "two", "three") as nodes:
        ids = {node.node.view().self_id: node for node in nodes}
        chosen = arbiter(subject, ids)
        first, second = (node for node_id, node in ids.items() if node_id != chosen)
        pulls = [asyncio.create_task(pull(first, model))]
        await until(lambda: registry.total > 0, what="the first one's turn")
        pulls.append(asyncio.create_task(pull(second, model)))
        await asyncio.sleep(0.1)
        nodes.board.set_state(chosen, MemberState.DEAD, "killed")
        registry.block_s = 0.0
        for _, lines in await asyncio.gather(*pulls):
            assert lines[-1] == {"status": "success"}
        assert has_it(first, model, registry)
        assert has_it(second, model, registry)
