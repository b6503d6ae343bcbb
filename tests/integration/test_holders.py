"""What begins with a model runs where the model is, whichever node was asked."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict

from ollama_dist.core.view import MemberState
from ollama_dist.scheduling.breaker import Circuit
from tests.support.fake_ollama import Fault
from tests.support.fake_ollama.faults import Hang
from tests.support.joined_nodes import JoinedNode, JoinedNodes, joined_nodes
from tests.support.views import node_id
from tests.support.wait import until

MAKE = {"model": "mine", "from": "tiny", "system": "Answer in rhymes."}
ASK = {"model": "mine", "prompt": "hello", "stream": False}
MADE = [{"status": "using existing layer"}, {"status": "writing manifest"}, {"status": "success"}]

TRANSCRIBE = "/v1/audio/transcriptions"
AUDIO = b"RIFF\0\r\n--" + bytes(range(256)) * 300
HEARD = "The quick brown fox jumps over the lazy dog and then it goes back to sleep until morning"
FORM = b'--b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--b--\r\n'


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


async def names_at(node: JoinedNode) -> set[str]:
    async with aiohttp.ClientSession() as session, session.get(node.url + "/api/tags") as response:
        return {row["name"] for row in (await response.json())["models"]}


def asked(nodes: JoinedNodes, path: str) -> list[str]:
    """Whose engines were asked on ``path``."""
    return [node.name for node in nodes for _ in node.fake.journal.on(path)]


async def read_into(received: bytearray, response: aiohttp.ClientResponse) -> None:
    while part := await response.content.readany():
        received += part


def lines_of(body: bytes) -> list[Any]:
    return [json.loads(line) for line in body.splitlines()]


# Making a model of another


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_is_made_where_its_beginning_is_and_there_for_all_at_once(
    nodes: JoinedNodes, stream: bool
) -> None:
    status, headers, body = await post(nodes["desk"], "/api/create", {**MAKE, "stream": stream})
    assert status == 200
    assert lines_of(body) == (MADE if stream else MADE[-1:])
    assert headers["Content-Type"] == ("application/x-ndjson" if stream else "application/json")
    assert asked(nodes, "/api/create") == [headers["X-Ollama-Node"]]
    assert headers["X-Ollama-Node"] in ("laptop", "office")
    assert await names_at(nodes["desk"]) == {"tiny:latest", "mine:latest"}
    status, told, _ = await post(nodes["desk"], "/api/generate", ASK)
    assert (status, told["X-Ollama-Node"]) == (200, headers["X-Ollama-Node"])


async def test_the_last_byte_waits_until_the_model_can_be_asked(nodes: JoinedNodes) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(nodes["desk"].url + "/api/create", json=MAKE) as response,
    ):
        async for line in response.content:
            if b"success" in line:
                break
        view = nodes["desk"].node.view()
    assert any("mine" in key for key in view.holders)


async def test_a_model_made_anew_is_waited_for_too(nodes: JoinedNodes) -> None:
    pinned = {"X-Ollama-Node": "laptop"}
    before = []
    for system in ("one", "two"):
        await post(nodes["desk"], "/api/create", {**MAKE, "system": system}, **pinned)
        [model] = [
            model
            for key, model in nodes["desk"].node.view().nodes[node_id(2)].models.items()
            if "mine" in key
        ]
        before.append(model.row["modified_at"])
    assert before[0] != before[1]


async def test_progress_passes_as_it_comes(nodes: JoinedNodes) -> None:
    for node in nodes:
        node.fake.catalogue.line_s = 0.3
    async with (
        aiohttp.ClientSession() as session,
        session.post(nodes["desk"].url + "/api/create", json=MAKE) as response,
    ):
        began = asyncio.get_running_loop().time()
        assert json.loads(await response.content.readline()) == MADE[0]
        assert asyncio.get_running_loop().time() - began < 0.25
        assert len(lines_of(await response.read())) == 2


async def test_the_own_engine_comes_first_if_it_has_the_model() -> None:
    async with joined_nodes({"desk": ["tiny"], "laptop": ["tiny"]}) as nodes:
        _, headers, body = await post(nodes["desk"], "/api/create", MAKE)
        assert lines_of(body)[-1] == {"status": "success"}
        assert headers["X-Ollama-Node"] == "desk"
        assert asked(nodes, "/api/create") == ["desk"]
        assert any("mine" in key for key in nodes["desk"].node.view().me.models)


async def test_what_was_given_to_a_node_is_used_there(nodes: JoinedNodes) -> None:
    for given in ({"files": {"a.gguf": "sha256:" + "0" * 64}}, {"adapters": {"a": "sha256:" + "0" * 64}}):
        await post(nodes["desk"], "/api/create", {**MAKE, **given, "stream": False})
    assert asked(nodes, "/api/create") == ["desk", "desk"]
    status, _, body = await post(
        nodes["desk"], "/api/create", {**MAKE, "files": {"a": "b"}}, **{"X-Ollama-Node": "laptop"}
    )
    assert status == 400
    assert "was given to 'desk'" in json.loads(body)["error"]


async def test_a_beginning_nobody_has_is_the_own_engines_matter(nodes: JoinedNodes) -> None:
    status, headers, body = await post(nodes["desk"], "/api/create", {"model": "mine", "from": "none"})
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            nodes["desk"].fake.url + "/api/create", json={"model": "mine", "from": "none"}
        ) as direct,
    ):
        assert (status, body) == (direct.status, await direct.read())
    assert headers["X-Ollama-Node"] == "desk"


@pytest.mark.parametrize("stream", [True, False])
async def test_what_the_engine_there_says_is_passed_on(nodes: JoinedNodes, stream: bool) -> None:
    body = {**MAKE, "model": "a b", "stream": stream}
    status, _, answer = await post(nodes["desk"], "/api/create", body)
    assert (status, json.loads(answer)) == (400, {"error": "invalid model name"})
    assert asked(nodes, "/api/create") in (["laptop"], ["office"])


async def test_of_two_contents_the_one_that_most_hold_is_taken() -> None:
    models = {"desk": [], "laptop": ["tiny"], "office": ["tiny"], "attic": []}
    async with joined_nodes(models) as nodes:
        nodes["attic"].fake.catalogue.install("tiny", "tiny-random")
        nodes["attic"].node.engine.nudge()
        await until(lambda: bool(nodes["desk"].node.view().nodes[node_id(4)].models), what="its being known")
        for number in range(4):
            _, headers, _ = await post(nodes["desk"], "/api/create", {**MAKE, "model": f"mine{number}"})
            assert headers["X-Ollama-Node"] in ("laptop", "office")


# Pins


@pytest.mark.parametrize("name", ["laptop", "office"])
async def test_a_pin_is_kept(nodes: JoinedNodes, name: str) -> None:
    for path, body in (("/api/create", MAKE), ("/api/push", {"model": "tiny"})):
        _, headers, _ = await post(nodes["desk"], path, body, **{"X-Ollama-Node": name})
        assert headers["X-Ollama-Node"] == name
        assert asked(nodes, path) == [name]


@pytest.mark.parametrize(
    ("pin", "words"),
    [("attic", "no node is called 'attic'"), ("desk", "by name, but it does not have the model")],
)
async def test_a_pin_that_cannot_be_kept_is_an_error(nodes: JoinedNodes, pin: str, words: str) -> None:
    status, _, body = await post(nodes["desk"], "/api/create", MAKE, **{"X-Ollama-Node": pin})
    assert status == 404
    assert words in json.loads(body)["error"]
    assert asked(nodes, "/api/create") == []


# Pushing


@pytest.mark.parametrize("stream", [True, False])
async def test_a_model_is_pushed_from_where_it_is(nodes: JoinedNodes, stream: bool) -> None:
    status, headers, body = await post(nodes["desk"], "/api/push", {"name": "tiny", "stream": stream})
    assert status == 200
    lines = lines_of(body)
    assert lines[-1] == {"status": "success"}
    assert len(lines) == (4 if stream else 1)
    assert asked(nodes, "/api/push") == [headers["X-Ollama-Node"]]


async def test_pushing_what_nobody_has_is_told_as_ollama_tells_it(nodes: JoinedNodes) -> None:
    _, headers, body = await post(nodes["desk"], "/api/push", {"model": "none"})
    assert "no such file or directory" in lines_of(body)[-1]["error"]
    assert headers["X-Ollama-Node"] == "desk"


# Failures


async def test_a_node_that_takes_nothing_is_passed_over(nodes: JoinedNodes) -> None:
    await nodes["laptop"].relay.stop()
    for _ in range(3):
        status, headers, _ = await post(nodes["desk"], "/api/create", MAKE)
        assert (status, headers["X-Ollama-Node"]) == (200, "office")


async def test_a_node_whose_engine_is_gone_is_passed_over(nodes: JoinedNodes) -> None:
    await nodes["laptop"].fake.stop()
    for _ in range(3):
        status, headers, _ = await post(nodes["desk"], "/api/push", {"model": "tiny", "stream": False})
        assert (status, headers["X-Ollama-Node"]) == (200, "office")


async def test_when_nobody_takes_it_that_is_said(nodes: JoinedNodes) -> None:
    for name in ("laptop", "office"):
        await nodes[name].relay.stop()
    status, _, body = await post(nodes["desk"], "/api/create", MAKE)
    assert status == 503
    assert "laptop: " in json.loads(body)["error"]
    for number in (2, 3):
        nodes.board.set_state(node_id(number), MemberState.DEAD, "probe failed")
    status, _, body = await post(nodes["desk"], "/api/create", MAKE)
    assert status == 503
    assert "laptop (dead)" in json.loads(body)["error"]
    assert asked(nodes, "/api/create") == []


async def test_what_was_begun_on_a_node_that_dies_is_not_begun_again(nodes: JoinedNodes) -> None:
    for name in ("laptop", "office"):
        nodes[name].fake.faults.add(Fault(route="/api/create", hang=Hang.ANSWER))
    request = asyncio.create_task(post(nodes["desk"], "/api/create", MAKE))
    await until(lambda: bool(asked(nodes, "/api/create")), what="the request's arriving")
    [name] = asked(nodes, "/api/create")
    nodes.board.set_state(node_id({"laptop": 2, "office": 3}[name]), MemberState.DEAD, "probe failed")
    status, _, body = await request
    assert status == 502
    assert "error" in json.loads(body)
    assert asked(nodes, "/api/create") == [name]


async def test_a_node_that_dies_in_the_middle_ends_the_stream_as_a_failure(nodes: JoinedNodes) -> None:
    for node in nodes:
        node.fake.catalogue.line_s = 0.3
    received = bytearray()
    async with (
        aiohttp.ClientSession() as session,
        session.post(nodes["desk"].url + "/api/create", json=MAKE) as response,
    ):
        received += await response.content.readline()
        number = {"laptop": 2, "office": 3}[response.headers["X-Ollama-Node"]]
        nodes.board.set_state(node_id(number), MemberState.DEAD, "probe failed")
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_into(received, response)
    lines = lines_of(bytes(received))
    assert [set(line) for line in lines] == [{"status"}, {"error"}]


async def test_an_engine_that_dies_in_the_middle_is_told_of_once(nodes: JoinedNodes) -> None:
    for node in nodes:
        node.fake.catalogue.line_s = 0.3
    received = bytearray()
    async with (
        aiohttp.ClientSession() as session,
        session.post(nodes["desk"].url + "/api/create", json=MAKE) as response,
    ):
        received += await response.content.readline()
        await nodes[response.headers["X-Ollama-Node"]].fake.stop()
        with pytest.raises(aiohttp.ClientPayloadError):
            await read_into(received, response)
    lines = lines_of(bytes(received))
    assert [set(line) for line in lines] == [{"status"}, {"error"}]


async def test_a_client_that_leaves_ends_it(nodes: JoinedNodes) -> None:
    for node in nodes:
        node.fake.catalogue.line_s = 0.5
    async with aiohttp.ClientSession() as session:
        response = await session.post(nodes["desk"].url + "/api/create", json=MAKE)
        await response.content.readline()
        response.close()
    [seen] = [seen for node in nodes for seen in node.fake.journal.on("/api/create")]
    await until(lambda: bool(seen.end), what="the engine's being told")
    assert seen.end == "client left"


# Speech as text


async def transcribe(node: JoinedNode, model: str = "tiny", **more: str) -> tuple[int, Any, bytes]:
    headers = {"X-Ollama-Node": more.pop("pin")} if "pin" in more else {}
    form = aiohttp.FormData({"model": model, **more})
    form.add_field("file", AUDIO, filename="a.wav", content_type="audio/wav")
    async with (
        aiohttp.ClientSession() as session,
        session.post(node.url + TRANSCRIBE, data=form, headers=headers) as response,
    ):
        return response.status, response.headers, await response.read()


async def test_speech_is_heard_where_the_model_is(nodes: JoinedNodes) -> None:
    status, headers, body = await transcribe(nodes["desk"], language="en")
    assert (status, json.loads(body)) == (200, {"text": HEARD})
    assert headers["Content-Type"] == "application/json"
    assert headers["X-Ollama-Node"] in ("laptop", "office")
    [seen] = nodes[headers["X-Ollama-Node"]].fake.journal.on(TRANSCRIBE)
    assert AUDIO in seen.body
    assert asked(nodes, TRANSCRIBE) == [headers["X-Ollama-Node"]]
    [record] = nodes["desk"].node.dispatcher.decisions.newest()
    assert (record.route, record.model) == (TRANSCRIBE, "tiny")


async def test_a_form_travels_byte_for_byte(nodes: JoinedNodes) -> None:
    boundary = "b 1'()+_,-./:=?"
    head = f"--{boundary}\r\nContent-Disposition: form-data; name="
    body = (
        f'{head}"model"\r\n\r\ntiny\r\n'
        f'{head}"file"; filename="a"\r\n\r\n\0\r\n\r\nsound\r\n--{boundary}--\r\n'
    ).encode()
    content_type = f'multipart/form-data; x=y; boundary="{boundary}"'
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            nodes["desk"].url + TRANSCRIBE, data=body, headers={"Content-Type": content_type}
        ) as response,
    ):
        assert response.status == 200
        [seen] = nodes[response.headers["X-Ollama-Node"]].fake.journal.on(TRANSCRIBE)
    assert seen.body == body
    assert CIMultiDict(seen.headers)["Content-Type"] == content_type


async def test_the_text_alone_is_a_whole_answer(nodes: JoinedNodes) -> None:
    status, headers, body = await transcribe(nodes["desk"], response_format="text")
    assert (status, headers["Content-Type"], body) == (200, "text/plain", HEARD.encode())
    assert nodes["desk"].node.dispatcher.stats.render()["outcomes"] == {"ok": 1}


@pytest.mark.parametrize("form", ["json", "text"])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(reset_at_byte=5),
        Fault(die=True),
        Fault(busy=True),
        Fault(status=404, message="model 'tiny' not found"),
    ],
    ids=["reset", "dead runner", "busy", "no longer there"],
)
async def test_a_failure_is_invisible_while_another_node_can_hear(
    nodes: JoinedNodes, fault: Fault, form: str
) -> None:
    nodes["laptop"].fake.faults.add(fault)
    for _ in range(4):
        status, headers, body = await transcribe(nodes["desk"], response_format=form)
        assert (status, headers["X-Ollama-Node"]) == (200, "office")
        assert HEARD.encode() in body


async def test_an_answer_that_is_no_document_is_not_passed_for_one(nodes: JoinedNodes) -> None:
    for name in ("laptop", "office"):
        nodes[name].fake.faults.add(Fault(cut=True))
    status, _, body = await transcribe(nodes["desk"])
    assert status == 502
    assert json.loads(body)["error"]["type"] == "api_error"


async def test_a_node_that_died_is_passed_over(nodes: JoinedNodes) -> None:
    await nodes["laptop"].relay.stop()
    for _ in range(3):
        status, headers, _ = await transcribe(nodes["desk"])
        assert (status, headers["X-Ollama-Node"]) == (200, "office")


async def test_an_engine_too_old_to_hear_is_passed_over() -> None:
    async with joined_nodes({"desk": [], "laptop": ["tiny"]}) as nodes:
        await nodes.add("attic", ["tiny"], age="0.17.7")
        await nodes.settle()
        for _ in range(4):
            status, headers, body = await transcribe(nodes["desk"])
            assert (status, headers["X-Ollama-Node"], json.loads(body)) == (200, "laptop", {"text": HEARD})
        status, _, body = await transcribe(nodes["desk"], pin="attic")
        assert (status, body) == (404, b"404 page not found")
        assert nodes["desk"].node.dispatcher.breakers.circuit(node_id(3), 0.0) is Circuit.CLOSED


async def test_only_the_content_that_is_meant_is_asked() -> None:
    async with joined_nodes({"desk": [], "laptop": ["tiny"], "office": ["tiny"], "attic": []}) as nodes:
        nodes["attic"].fake.catalogue.install("tiny", "tiny-random")
        nodes["attic"].node.engine.nudge()
        await until(lambda: bool(nodes["desk"].node.view().nodes[node_id(4)].models), what="its being known")
        for _ in range(6):
            _, headers, _ = await transcribe(nodes["desk"])
            assert headers["X-Ollama-Node"] in ("laptop", "office")


@pytest.mark.parametrize("name", ["laptop", "office"])
async def test_a_transcription_can_be_pinned(nodes: JoinedNodes, name: str) -> None:
    _, headers, _ = await transcribe(nodes["desk"], pin=name)
    assert headers["X-Ollama-Node"] == name


@pytest.mark.parametrize(
    ("body", "content_type", "status", "words"),
    [
        (b"{}", "application/json", 400, "failed to parse multipart form"),
        (b"--b\r\n", "multipart/form-data; boundary=b", 400, "failed to parse multipart form"),
        (FORM % (b"other", b"tiny"), "multipart/form-data; boundary=b", 400, "model is required"),
        (FORM % (b"model", b"tiny"), "multipart/form-data; boundary=b", 400, "file is required"),
    ],
)
async def test_mistakes_are_told_in_openais_dialect(
    nodes: JoinedNodes, body: bytes, content_type: str, status: int, words: str
) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.post(
            nodes["desk"].url + TRANSCRIBE, data=body, headers={"Content-Type": content_type}
        ) as response,
    ):
        assert response.status == status
        error = (await response.json())["error"]
        assert (words in error["message"], error["type"]) == (True, "invalid_request_error")


async def test_a_model_nobody_has_is_not_found(nodes: JoinedNodes) -> None:
    status, _, body = await transcribe(nodes["desk"], "none")
    assert (status, json.loads(body)["error"]["type"]) == (404, "not_found_error")
