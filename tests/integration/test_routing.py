"""Where requests go, what callers are told about it, and what the operator's routes say afterwards."""

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aiohttp
import pytest

from ollama_dist.api.passthrough import Passthrough
from ollama_dist.core.view import MemberState
from tests.support.fake_ollama import Fault
from tests.support.fake_ollama.faults import Hang
from tests.support.joined_nodes import JoinedNode, JoinedNodes, joined_nodes
from tests.support.solo_node import ADMIN_TOKEN
from tests.support.views import node_id
from tests.support.wait import until

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello there"}], "stream": False}
SENTENCE = "The quick brown fox jumps over the lazy dog"


@pytest.fixture
async def nodes() -> AsyncIterator[JoinedNodes]:
    """desk has nothing, laptop and office have tiny."""
    async with joined_nodes({"desk": [], "laptop": ["tiny"], "office": ["tiny"]}) as joined:
        yield joined


async def post(node: JoinedNode, path: str, body: Any, **headers: str) -> tuple[int, dict[str, str], bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(node.url + path, json=body, headers=headers) as response,
    ):
        return response.status, dict(response.headers), await response.read()


async def read_into(received: bytearray, response: aiohttp.ClientResponse) -> None:
    while part := await response.content.readany():
        received += part


async def get(node: JoinedNode, path: str, **headers: str) -> Any:
    async with (
        aiohttp.ClientSession() as session,
        session.get(node.url + path, headers=headers) as response,
    ):
        return await response.json()


async def test_a_node_without_the_model_answers_from_one_that_has_it(nodes: JoinedNodes) -> None:
    status, headers, body = await post(nodes["desk"], "/api/chat", CHAT)
    assert status == 200
    assert SENTENCE in json.loads(body)["message"]["content"]
    assert headers["X-Ollama-Node"] in ("laptop", "office")
    assert headers["X-Ollama-Mode"] == "distributed"
    assert headers["X-Ollama-Distributed"] == "true"
    assert headers["X-Ollama-Attempts"] == "1"
    assert "X-Ollama-Fallback" not in headers


async def test_a_request_crosses_one_boundary_and_the_engine_sees_it_once(nodes: JoinedNodes) -> None:
    await post(nodes["desk"], "/api/chat", CHAT, Authorization="Bearer secret", Cookie="a=b")
    seen = [seen for node in nodes for seen in node.fake.journal.on("/api/chat")]
    assert len(seen) == 1
    names = {name.lower() for name in seen[0].headers}
    assert not names & {"authorization", "cookie", "x-ollama-node", "x-forwarded-for"}
    assert json.loads(seen[0].body) == CHAT


async def test_a_stream_arrives_piece_by_piece(nodes: JoinedNodes) -> None:
    for node in nodes:
        node.fake.pace.tokens_per_s = 50
    async with (
        aiohttp.ClientSession() as session,
        session.post(nodes["desk"].url + "/api/chat", json={**CHAT, "stream": True}) as response,
    ):
        assert response.content_type == "application/x-ndjson"
        lines = [json.loads(line) async for line in response.content]
        assert response.headers["X-Ollama-Node"] in ("laptop", "office")
    assert len(lines) > 5
    assert lines[-1]["done"]


async def test_a_pinned_request_goes_where_it_is_told(nodes: JoinedNodes) -> None:
    for name in ("laptop", "office", "laptop"):
        _, headers, _ = await post(nodes["desk"], "/api/chat", CHAT, **{"X-Ollama-Node": name})
        assert headers["X-Ollama-Node"] == name
    status, _, body = await post(nodes["desk"], "/api/chat", CHAT, **{"X-Ollama-Node": "attic"})
    assert (status, json.loads(body)["error"]) == (404, "no node is called 'attic'")


async def test_a_model_nobody_has_gets_ollamas_own_words(nodes: JoinedNodes) -> None:
    status, _, body = await post(nodes["desk"], "/api/chat", {**CHAT, "model": "none"})
    assert (status, json.loads(body)) == (404, {"error": "model 'none' not found"})
    status, _, body = await post(nodes["desk"], "/v1/chat/completions", {**CHAT, "model": "none"})
    assert status == 404
    assert json.loads(body)["error"]["type"] == "not_found_error"


async def test_all_nodes_list_what_any_of_them_has(nodes: JoinedNodes) -> None:
    for node in nodes:
        assert [row["name"] for row in (await get(node, "/api/tags"))["models"]] == ["tiny:latest"]
        assert [row["id"] for row in (await get(node, "/v1/models"))["data"]] == ["tiny:latest"]


async def test_running_models_are_listed_with_their_node(nodes: JoinedNodes) -> None:
    _, headers, _ = await post(nodes["desk"], "/api/chat", CHAT)
    [row] = (await get(nodes["desk"], "/api/ps"))["models"]
    assert (row["name"], row["node"]) == ("tiny:latest", headers["X-Ollama-Node"])


async def test_a_model_is_shown_by_who_has_it(nodes: JoinedNodes) -> None:
    status, headers, body = await post(nodes["desk"], "/api/show", {"name": "tiny"})
    assert status == 200
    assert json.loads(body)["model_info"]["general.architecture"] == "llama"
    assert headers["X-Ollama-Node"] in ("laptop", "office")
    assert (await get(nodes["desk"], "/v1/models/tiny"))["id"] == "tiny"


async def test_a_question_opens_no_connection_of_its_own(
    nodes: JoinedNodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def opens_one(*_: object, **__: object) -> None:
        raise AssertionError("a fresh connection to the engine")

    monkeypatch.setattr(Passthrough, "send", opens_one)
    for name in ("laptop", "desk"):  # its own engine, and over a peer
        status, _, body = await post(nodes[name], "/api/show", {"name": "tiny"})
        assert status == 200
        assert json.loads(body)["model_info"]["general.architecture"] == "llama"
    status, _, body = await post(nodes["laptop"], "/api/show", {"name": "none"})
    assert (status, json.loads(body)) == (404, {"error": "model 'none:latest' not found"})


async def test_letting_a_model_go_reaches_every_node_that_has_it_loaded(nodes: JoinedNodes) -> None:
    for name in ("laptop", "office"):
        await post(nodes["desk"], "/api/chat", CHAT, **{"X-Ollama-Node": name})
    await until(lambda: sum(bool(peer.loaded) for peer in nodes["desk"].node.view().nodes.values()) == 2)
    status, _, body = await post(nodes["desk"], "/api/generate", {"model": "tiny", "keep_alive": 0})
    assert (status, json.loads(body)["done_reason"]) == (200, "unload")
    for name in ("laptop", "office"):
        await until(partial(_hears_of_nothing_loaded, nodes[name]))
        assert (await get(nodes[name], "/api/ps"))["models"] == []


def _hears_of_nothing_loaded(node: JoinedNode) -> bool:
    return not any(each.loaded for each in node.node.view().nodes.values())


# When places fail before they have said anything


@pytest.mark.parametrize(
    "fault",
    [
        Fault(reset=True, at_token=0),
        Fault(status=500, message="llama runner process has terminated"),
        Fault(load_failure=True),
        Fault(cut=True, at_token=0),
    ],
    ids=["reset", "dead runner", "load failure", "nothing said"],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_failure_before_the_first_byte_is_invisible(
    nodes: JoinedNodes, fault: Fault, stream: bool
) -> None:
    nodes["laptop"].fake.faults.add(fault)
    nodes["desk"].node.dispatcher._rng.seed(1)
    told = set()
    for _ in range(6):
        status, headers, body = await post(nodes["desk"], "/api/chat", {**CHAT, "stream": stream})
        assert status == 200
        assert json.loads(body.splitlines()[-1])["done"]
        assert headers["X-Ollama-Node"] == "office"
        told.add((headers.get("X-Ollama-Fallback"), headers["X-Ollama-Attempts"]))
    assert told <= {(None, "1"), ("true", "2")}


async def test_a_node_that_is_gone_is_left_out_at_once(nodes: JoinedNodes) -> None:
    await nodes["laptop"].relay.stop()
    for _ in range(4):
        status, headers, _ = await post(nodes["desk"], "/api/chat", CHAT)
        assert (status, headers["X-Ollama-Node"]) == (200, "office")


async def test_what_a_busy_node_refuses_the_next_one_takes(nodes: JoinedNodes) -> None:
    nodes["laptop"].fake.faults.add(Fault(busy=True))
    for _ in range(4):
        status, headers, _ = await post(nodes["desk"], "/api/chat", CHAT)
        assert (status, headers["X-Ollama-Node"]) == (200, "office")
        assert "X-Ollama-Fallback" not in headers


async def test_when_all_are_busy_the_caller_hears_ollamas_words(nodes: JoinedNodes) -> None:
    for node in nodes:
        node.fake.faults.add(Fault(busy=True))
    status, headers, body = await post(nodes["desk"], "/api/chat", CHAT)
    assert (status, headers["Retry-After"]) == (503, "1")
    assert json.loads(body)["error"] == "server busy, please try again.  maximum pending requests exceeded"


async def test_when_nobody_can_answer_that_is_said_with_the_reasons(nodes: JoinedNodes) -> None:
    await nodes["laptop"].relay.stop()
    await nodes["office"].relay.stop()
    status, _, body = await post(nodes["desk"], "/api/chat", CHAT)
    assert status == 502
    assert "laptop: " in json.loads(body)["error"]
    assert "office: " in json.loads(body)["error"]


async def test_what_a_node_says_for_its_engine_is_in_the_callers_dialect(nodes: JoinedNodes) -> None:
    for node in nodes:
        node.fake.faults.add(Fault(cut=True, at_token=0))
    status, _, body = await post(nodes["desk"], "/v1/chat/completions", {**CHAT, "stream": True})
    assert (status, json.loads(body)["error"]["type"]) == (502, "api_error")
    status, _, body = await post(nodes["desk"], "/v1/messages", {**CHAT, "max_tokens": 9})
    assert (status, json.loads(body)["type"]) == (502, "error")


@pytest.mark.parametrize("entry", ["desk", "laptop"])
@pytest.mark.parametrize(
    ("status", "words"),
    [(202, "status 202"), (301, "status 301"), (200, 'option "x" must be of type integer')],
)
async def test_what_is_neither_an_answer_nor_a_refusal_is_a_failure(
    nodes: JoinedNodes, entry: str, status: int, words: str
) -> None:
    for node in nodes:
        node.fake.faults.add(Fault(status=status, message=words))
    told, _, body = await post(nodes[entry], "/api/chat", CHAT)
    assert told == 502
    assert words in json.loads(body)["error"]


async def test_a_request_with_a_mistake_is_not_tried_twice(nodes: JoinedNodes) -> None:
    body = {**CHAT, "options": {"num_ctx": "many"}}
    status, headers, answer = await post(nodes["desk"], "/api/chat", body)
    assert (status, headers["X-Ollama-Attempts"]) == (500, "1")
    assert 'option "num_ctx" must be of type' in json.loads(answer)["error"]
    assert sum(len(node.fake.journal.on("/api/chat")) for node in nodes) == 1


async def test_stale_news_of_a_model_is_corrected_by_asking_the_next(nodes: JoinedNodes) -> None:
    nodes["laptop"].fake.faults.add(Fault(status=404, message="model 'tiny' not found"))
    for _ in range(4):
        status, headers, _ = await post(nodes["desk"], "/api/chat", CHAT)
        assert (status, headers["X-Ollama-Node"]) == (200, "office")


# When an answer breaks off


@pytest.mark.parametrize(
    "fault", [Fault(reset=True), Fault(cut=True), Fault(die=True)], ids=["reset", "cut", "die"]
)
async def test_a_broken_stream_ends_as_a_failure_and_is_not_begun_again(
    nodes: JoinedNodes, fault: Fault
) -> None:
    for node in nodes:
        node.fake.faults.add(fault)
    async with (
        aiohttp.ClientSession() as session,
        session.post(nodes["desk"].url + "/api/chat", json={**CHAT, "stream": True}) as response,
    ):
        assert response.status == 200
        received = bytearray()
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_into(received, response)
    lines = [json.loads(line) for line in received.splitlines()]
    assert "error" in lines[-1]
    assert not any(line.get("done") for line in lines)
    assert sum("error" in line for line in lines) == 1
    assert sum(len(node.fake.journal.on("/api/chat")) for node in nodes) == 1


async def test_a_model_that_repeats_itself_is_not_held_against_the_peer_that_runs_it(
    nodes: JoinedNodes,
) -> None:
    for node in nodes:
        node.fake.faults.add(Fault(repeat=True))
    for _ in range(4):
        async with (
            aiohttp.ClientSession() as session,
            session.post(nodes["desk"].url + "/api/chat", json={**CHAT, "stream": True}) as response,
        ):
            received = bytearray()
            with pytest.raises(aiohttp.ClientPayloadError):
                await read_into(received, response)
            assert "the model repeated itself" in json.loads(received.splitlines()[-1])["error"]
    assert nodes["desk"].node.dispatcher.stats.render()["outcomes"] == {"gave_out": 4}


async def test_a_node_that_dies_in_mid_stream_does_not_keep_its_caller_waiting(nodes: JoinedNodes) -> None:
    for name in ("laptop", "office"):
        nodes[name].fake.faults.add(Fault(hang=Hang.STREAM))
    async with (
        aiohttp.ClientSession() as session,
        session.post(nodes["desk"].url + "/api/chat", json={**CHAT, "stream": True}) as response,
    ):
        await response.content.readline()
        serving = response.headers["X-Ollama-Node"]
        number = {"laptop": 2, "office": 3}[serving]
        nodes.board.set_state(node_id(number), MemberState.DEAD, "probe failed")
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.content.read()


async def test_a_client_that_leaves_is_followed_to_the_engine(nodes: JoinedNodes) -> None:
    for name in ("laptop", "office"):
        nodes[name].fake.pace.tokens_per_s = 5
    async with aiohttp.ClientSession() as session:
        response = await session.post(nodes["desk"].url + "/api/chat", json={**CHAT, "stream": True})
        await response.content.readline()
        response.close()
    seen = [seen for node in nodes for seen in node.fake.journal.on("/api/chat")]
    await until(lambda: bool(seen[0].end), what="the engine's being told")
    assert seen[0].end == "client left"
    await until(lambda: nodes["desk"].node.dispatcher.stats.render()["outcomes"] == {"cancelled": 1})
    assert all(node.node.view().me.load.in_flight == 0 for node in nodes)


# What operators see and turn


async def test_why_a_request_went_where_it_did_can_be_read_afterwards(nodes: JoinedNodes) -> None:
    _, headers, _ = await post(nodes["desk"], "/api/chat", CHAT)
    [decision] = (await get(nodes["desk"], f"/api/distributed/decisions/{headers['X-Request-ID']}"))[
        "decisions"
    ]
    assert decision["winner"] == headers["X-Ollama-Node"]
    assert decision["model"] == "tiny"
    assert {candidate["node"] for candidate in decision["candidates"]} == {"laptop", "office"}
    assert decision["outcome"]["status"] == 200
    assert decision["outcome"]["tokens"] > 0
    assert decision["attempts"] == [{"node": headers["X-Ollama-Node"], "result": "ok", "detail": ""}]


async def test_local_mode_uses_no_peer_and_says_so(nodes: JoinedNodes) -> None:
    token = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    status, _, body = await post(nodes["desk"], "/admin/mode", {"mode": "local"}, **token)
    assert (status, json.loads(body)) == (200, {"mode": "local", "previous": "distributed"})
    status, headers, body = await post(nodes["desk"], "/api/chat", CHAT)
    assert (status, headers["X-Ollama-Mode"]) == (503, "local")
    assert "this node is in mode local" in json.loads(body)["error"]


async def test_without_fallback_the_first_failure_is_told(nodes: JoinedNodes) -> None:
    token = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    _, _, body = await post(nodes["desk"], "/admin/fallback", {"enabled": False}, **token)
    assert json.loads(body) == {"fallback": False}
    for node in nodes:
        node.fake.faults.add(Fault(status=500, message="llama runner process has terminated"))
    status, headers, _ = await post(nodes["desk"], "/api/chat", CHAT)
    assert (status, headers["X-Ollama-Attempts"]) == (500, "1")


@pytest.mark.parametrize("token", ["", "Bearer ", "Bearer wrong", f"Basic {ADMIN_TOKEN}", ADMIN_TOKEN])
async def test_operators_prove_themselves(nodes: JoinedNodes, token: str) -> None:
    status, _, body = await post(nodes["desk"], "/admin/mode", {"mode": "local"}, Authorization=token)
    assert (status, json.loads(body)["code"]) == (401, "unauthorized")
    assert nodes["desk"].node.mode == "distributed"


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("/admin/mode", {"mode": "global"}, "should be 'distributed', 'local' or 'standalone'"),
        ("/admin/mode", [], "must be a JSON object"),
        ("/admin/fallback", {"enabled": "yes"}, "valid boolean"),
        ("/api/distributed/join", {}, "is missing"),
    ],
)
async def test_mistakes_are_told(nodes: JoinedNodes, path: str, body: Any, words: str) -> None:
    status, _, answer = await post(nodes["desk"], path, body, Authorization=f"Bearer {ADMIN_TOKEN}")
    assert status == 400
    assert words in json.loads(answer)["error"]


async def test_lost_peers_leave_a_node_that_says_so(nodes: JoinedNodes) -> None:
    for number in (2, 3):
        nodes.board.set_state(node_id(number), MemberState.DEAD, "probe failed")
    status, headers, body = await post(nodes["desk"], "/api/chat", CHAT)
    assert (status, headers["X-Ollama-Mode"]) == (503, "standalone")
    assert "laptop is dead" in json.loads(body)["error"]
    report = await get(nodes["desk"], "/api/distributed/status")
    assert report["cluster"] == {"id": "c0ffee00", "nodes": 3, "alive": 1, "suspect": 0, "dead": 2}
    assert {problem["code"] for problem in report["problems"]} == {"member_dead"}
    status, headers, _ = await post(nodes["laptop"], "/api/chat", CHAT)
    assert (status, headers["X-Ollama-Mode"]) == (200, "distributed")


async def test_the_cluster_is_shown_in_the_promised_shapes(nodes: JoinedNodes) -> None:
    shown = (await get(nodes["desk"], "/api/distributed/nodes"))["nodes"]
    assert [(node["name"], node["self"], node["state"]) for node in shown] == [
        ("desk", True, "alive"),
        ("laptop", False, "alive"),
        ("office", False, "alive"),
    ]
    [model] = (await get(nodes["desk"], "/api/distributed/models"))["models"]
    assert (model["name"], [replica["node"] for replica in model["replicas"]]) == (
        "tiny:latest",
        ["laptop", "office"],
    )
    version = await get(nodes["desk"], "/api/version")
    assert version["version"] == "0.33.0-rc2"
    assert version["distributed"]["nodes"] == 3
    stats = await get(nodes["desk"], "/admin/stats", Authorization=f"Bearer {ADMIN_TOKEN}")
    assert stats["process"]["memory_bytes"] > 0


# Changes on every holder


async def delete(node: JoinedNode, body: Any) -> tuple[int, Any, bytes]:
    async with (
        aiohttp.ClientSession() as session,
        session.delete(node.url + "/api/delete", json=body) as response,
    ):
        return response.status, response.headers, await response.read()


async def names_at(node: JoinedNode) -> set[str]:
    return {row["name"] for row in (await get(node, "/api/tags"))["models"]}


async def test_a_copy_is_made_wherever_the_model_is_and_listed_at_once(nodes: JoinedNodes) -> None:
    status, headers, body = await post(nodes["desk"], "/api/copy", {"source": "tiny", "destination": "mine"})
    assert (status, body) == (200, b"")
    assert headers["X-Ollama-Node"] == "laptop, office"
    assert await names_at(nodes["desk"]) == {"tiny:latest", "mine:latest"}
    for holder in ("laptop", "office"):
        assert len(nodes[holder].fake.journal.on("/api/copy")) == 1
    assert nodes["desk"].fake.journal.on("/api/copy") == []
    status, _, _ = await post(nodes["desk"], "/api/chat", {**CHAT, "model": "mine"})
    assert status == 200


async def test_a_model_is_deleted_wherever_it_is_and_gone_at_once(nodes: JoinedNodes) -> None:
    status, _, body = await delete(nodes["desk"], {"model": "tiny"})
    assert (status, body) == (200, b"")
    assert await names_at(nodes["desk"]) == set()
    status, _, body = await post(nodes["desk"], "/api/chat", CHAT)
    assert (status, json.loads(body)["error"]) == (404, "model 'tiny' not found")


async def test_what_failed_on_one_node_is_not_hidden(nodes: JoinedNodes) -> None:
    nodes["office"].fake.faults.add(Fault(route="/api/delete", status=500, message="the disk is on fire"))
    status, headers, body = await delete(nodes["desk"], {"name": "tiny"})
    assert status == 502
    assert json.loads(body) == {"error": "done on laptop, but not everywhere: office: the disk is on fire"}
    assert headers["X-Ollama-Node"] == "laptop"


async def test_what_failed_everywhere_is_told_in_the_engines_words(nodes: JoinedNodes) -> None:
    for holder in ("laptop", "office"):
        nodes[holder].fake.faults.add(Fault(route="/api/copy", status=500, message="no room"))
    status, _, body = await post(nodes["desk"], "/api/copy", {"source": "tiny", "destination": "mine"})
    assert (status, json.loads(body)) == (500, {"error": "no room"})


async def test_a_node_that_cannot_be_told_is_named(nodes: JoinedNodes) -> None:
    await nodes["office"].relay.stop()
    status, _, body = await delete(nodes["desk"], {"model": "tiny"})
    assert status == 502
    assert json.loads(body)["error"].startswith(
        "done on laptop, but not everywhere: office: could not be told"
    )


@pytest.mark.parametrize(
    ("body", "status"), [({"model": "none"}, 404), ({}, 400), ({"model": "///"}, 400), ("x", 400)]
)
async def test_what_nobody_has_is_answered_as_any_ollama_does(
    nodes: JoinedNodes, body: Any, status: int
) -> None:
    async with aiohttp.ClientSession() as session:
        answers = []
        for url in (nodes["desk"].url, nodes["desk"].fake.url):
            async with session.delete(url + "/api/delete", json=body) as response:
                answers.append((response.status, await response.read()))
    assert answers[0] == answers[1]
    assert answers[0][0] == status


async def test_when_an_engine_vanishes_all_it_was_about_to_answer_moves() -> None:
    """However many they are: nobody has done anything for them yet."""
    async with joined_nodes({"desk": [], "laptop": ["tiny"], "office": ["tiny"]}, slots=32) as nodes:
        laptop, office = nodes["laptop"].fake, nodes["office"].fake
        for fake in (laptop, office):
            fake.faults.add(Fault(route="/api/chat", hang=Hang.ANSWER))
        requests = [asyncio.create_task(post(nodes["desk"], "/api/chat", CHAT)) for _ in range(24)]
        await until(
            lambda: len(laptop.journal.on("/api/chat")) + len(office.journal.on("/api/chat")) == 24,
            what="the requests' arriving",
        )
        assert len(laptop.journal.on("/api/chat")) > 5
        office.clear_faults()
        await laptop.stop()
        assert {(await request)[0] for request in requests} == {200}
