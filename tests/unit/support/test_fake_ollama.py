"""The fake is held to what it stands for: its rules to the recordings, its faults to recorded failures."""

import asyncio
import contextlib
import dataclasses
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from ollama_dist.core.dialects import DIALECTS
from ollama_dist.core.outcomes import Result
from ollama_dist.wire.ends import End, EndWatch, Verdict
from ollama_dist.wire.failures import classify
from ollama_dist.wire.inspection import inspect
from tests.contract.compare import differences
from tests.contract.play import play
from tests.support import recordings
from tests.support.fake_ollama import FakeOllama, Fault
from tests.support.fake_ollama.faults import HEADER, Hang
from tests.support.wait import until

HELLO = [{"role": "user", "content": "hello"}]
ASKED: dict[str, dict[str, Any]] = {
    "/api/generate": {"prompt": "hello"},
    "/api/chat": {"messages": HELLO},
    "/v1/chat/completions": {"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}},
    "/v1/completions": {"prompt": "hello", "stream": True, "stream_options": {"include_usage": True}},
    "/v1/responses": {"input": "hello", "stream": True},
    "/v1/messages": {"messages": HELLO, "max_tokens": 100, "stream": True},
}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def fake() -> AsyncIterator[FakeOllama]:
    async with FakeOllama() as fake:
        yield fake


async def ask(
    session: aiohttp.ClientSession, fake: FakeOllama, path: str, *, model: str = "tiny", **more: Any
) -> tuple[int, bytes, Verdict]:
    """The status, the body and how it ended."""
    body = json.dumps({"model": model, **ASKED.get(path, {}), **more}).encode()
    watch = EndWatch(DIALECTS[path], stream=inspect(path, body).stream)
    received = b""
    clean = True
    async with session.post(fake.url + path, data=body) as response:
        try:
            async for piece in response.content.iter_any():
                received += piece
                watch.feed(piece)
        except aiohttp.ClientError:
            clean = False
        return response.status, received, watch.finish(clean=clean)


# Its rules

WORDS_OF_THE_MODEL = {
    "gen-template": "what the chain goes on with after a bare prompt",
    "gen-context": "the tokens of a context come back",
    "gen-format-json": "a grammar bends the words",
    "chat-format-json": "a grammar bends the words",
    "oai-chat-response-format": "a grammar bends the words",
    "gen-messages-model": "a model with its own stop word",
    "gen-images-.*|chat-images-.*|oai-chat-image-.*": "pictures are refused or ignored by age",
    "gen-long-.*|embed-long-.*": "prompts are cut to the context",
    "gen-think.*|chat-think.*|.*-chat-think.*|ant-think|.*-effort": "how thinking is told differs by age",
    ".*logprobs": "probabilities are the model's",
    "chat-render.*": "the prompt as the template makes it",
    "embed-dimensions|embeddings|embed-completion-model": "vectors of another kind",
    "oai-embeddings-base64": "vectors in another form",
    "responses-tools|ant-tools": "tool calls in the younger dialects",
    "responses-previous": "settings come back",
    "gen-utf8-bad|gen-chunked-body": "bodies the book is not asked for",
}
"""What the simple rules leave to the book, and why."""


@pytest.mark.parametrize("age", recordings.VERSIONS)
async def test_the_rules_alone_agree_with_the_recordings_but_for_the_models_own_words(age: str) -> None:
    complaints = []
    async with FakeOllama(age, by_the_book=False) as fake:
        for exchange in recordings.exchanges(age):
            left_out = any(re.fullmatch(pattern, exchange.id) for pattern in WORDS_OF_THE_MODEL)
            if recordings.is_inference(exchange) and not left_out:
                answer = await play("127.0.0.1", fake.port, exchange)
                if b'"context":' in exchange.answer:
                    answer, exchange = without_context(answer), without_context(exchange)
                found = differences(answer, exchange, same_chunks=True)
                complaints += [f"{exchange.id}: {difference}" for difference in found]
    assert not complaints, "\n".join(complaints)


def without_context(answer: Any) -> Any:
    """The token ids of a tokenizer the fake does not have, taken out."""
    chunks = tuple(re.sub(rb'"context":\[[\d,]*\]', b'"context":[]', chunk) for chunk in answer.chunks)
    return dataclasses.replace(answer, chunks=chunks)


@pytest.mark.parametrize("path", sorted(ASKED))
@pytest.mark.parametrize("stream", [True, False])
async def test_any_question_gets_a_whole_answer_in_any_dialect(
    session: aiohttp.ClientSession, fake: FakeOllama, path: str, stream: bool
) -> None:
    status, body, verdict = await ask(session, fake, path, stream=stream, seed=7)
    assert (status, verdict.end) == (200, End.COMPLETE)
    assert b"morning" in body
    assert verdict.usage.output_tokens == 19


async def test_a_bound_and_a_stop_word_are_kept(session: aiohttp.ClientSession, fake: FakeOllama) -> None:
    options = {"num_predict": 3, "seed": 1}
    _, body, verdict = await ask(session, fake, "/api/generate", options=options, stream=False)
    assert json.loads(body)["response"] == " The quick brown"
    assert verdict.usage.output_tokens == 3
    _, body, _ = await ask(session, fake, "/api/chat", options={"stop": ["fox"], "seed": 1}, stream=False)
    assert json.loads(body)["message"]["content"] == " The quick brown "


@pytest.mark.parametrize(("age", "status"), [("0.17.7", 404), ("0.33.0-rc2", 200)])
async def test_only_the_young_hear(session: aiohttp.ClientSession, age: str, status: int) -> None:
    form = aiohttp.FormData({"model": "tiny", "response_format": "text"})
    form.add_field("file", b"RIFF", filename="a.wav")
    async with FakeOllama(age) as old_or_young:
        url = old_or_young.url + "/v1/audio/transcriptions"
        async with session.post(url, data=form) as response:
            assert (response.status, response.content_type) == (status, "text/plain")
            assert (b"brown fox" in await response.read()) == (status == 200)


async def test_progress_ends_in_success_or_says_why_not(
    session: aiohttp.ClientSession, fake: FakeOllama
) -> None:
    fake.catalogue.line_s = 0.01
    for model, last in (("tiny", b'{"status":"success"}'), ("none", b"no such file")):
        async with session.post(fake.url + "/api/push", json={"model": model}) as response:
            assert last in (await response.read()).splitlines()[-1]


async def test_stops_that_are_no_texts_are_refused_or_passed_over(
    session: aiohttp.ClientSession, fake: FakeOllama
) -> None:
    status, body, _ = await ask(session, fake, "/api/generate", options={"stop": [{}]})
    assert (status, json.loads(body)) == (500, {"error": 'option "stop" must be of type array'})
    status, body, _ = await ask(session, fake, "/v1/chat/completions", stop=[{}, " fox"], stream=False)
    assert json.loads(body)["choices"][0]["message"]["content"] == " The quick brown"


async def test_a_model_cannot_be_asked_for_by_what_is_no_name(
    session: aiohttp.ClientSession, fake: FakeOllama
) -> None:
    async with session.get(fake.url + "/v1/models/%3E") as response:
        assert response.status == 400


async def test_models_may_have_any_name(session: aiohttp.ClientSession) -> None:
    async with FakeOllama(models={"llama3.2:3b": "tiny"}) as fake:
        status, body, _ = await ask(session, fake, "/api/chat", model="llama3.2:3b")
        assert status == 200
        assert json.loads(body.split(b"\n")[0])["model"] == "llama3.2:3b"
        status, _, _ = await ask(session, fake, "/api/chat", model="tiny")
        assert status == 404
        async with session.get(f"{fake.url}/api/tags") as response:
            assert [row["name"] for row in (await response.json())["models"]] == ["llama3.2:3b"]


async def test_unknown_texts_have_vectors_of_their_own(
    session: aiohttp.ClientSession, fake: FakeOllama
) -> None:
    body = {"model": "tiny-embed", "input": ["hello", "a text", "another", "a text"], "dimensions": 8}
    async with session.post(f"{fake.url}/api/embed", json=body) as response:
        first, second, third, fourth = (await response.json())["embeddings"]
    assert second == fourth != third
    assert len(first) == 8


# Memory and slots


async def loaded(session: aiohttp.ClientSession, fake: FakeOllama) -> list[str]:
    async with session.get(f"{fake.url}/api/ps") as response:
        return [row["name"] for row in (await response.json())["models"]]


async def test_models_are_loaded_evicted_and_let_go(session: aiohttp.ClientSession, fake: FakeOllama) -> None:
    for model in ("tiny", "tiny-uni", "tiny-think", "tiny-tools"):
        await ask(session, fake, "/api/generate", model=model, prompt="")
    names = await loaded(session, fake)
    assert len(names) == 3
    assert "tiny-tools:latest" in names
    await ask(session, fake, "/api/generate", model="tiny-tools", prompt="", keep_alive=0)
    await ask(session, fake, "/api/generate", model="tiny-random", keep_alive=0, options={"num_predict": 2})
    assert set(await loaded(session, fake)) == set(names) - {"tiny-tools:latest"}


@pytest.mark.parametrize("slots", [1, 2])
async def test_no_more_generations_run_than_there_are_slots(
    session: aiohttp.ClientSession, slots: int
) -> None:
    async with FakeOllama(slots=slots, tokens_per_s=400) as fake:
        asked = [asyncio.create_task(ask(session, fake, "/api/chat")) for _ in range(4)]
        await until(lambda: fake.journal.in_slots == slots and fake.journal.waiting == 4 - slots)
        answers = await asyncio.gather(*asked)
    assert {verdict.end for _, _, verdict in answers} == {End.COMPLETE}
    assert fake.journal.most_in_slots == slots
    assert (fake.journal.in_slots, fake.journal.waiting) == (0, 0)


async def test_a_full_queue_is_busy(session: aiohttp.ClientSession) -> None:
    async with FakeOllama(load_s=0.1, max_queue=1) as fake:
        models = ("tiny", "tiny-uni", "tiny-think")
        answers = await asyncio.gather(*(ask(session, fake, "/api/chat", model=model) for model in models))
    statuses = sorted(status for status, _, _ in answers)
    assert statuses == [200, 503, 503]
    busy = next(body for status, body, _ in answers if status == 503)
    assert classify(503, busy, "/api/chat") is Result.BUSY


# Faults

EVERY_AGE_AND_PATH = [
    (age, path)
    for age in ("0.11.11", "0.33.0-rc2")
    for path in sorted(ASKED)
    if age == "0.33.0-rc2" or path not in ("/v1/responses", "/v1/messages")
]


@pytest.mark.parametrize(("age", "path"), EVERY_AGE_AND_PATH)
async def test_a_runner_dies_as_recorded(session: aiohttp.ClientSession, age: str, path: str) -> None:
    [recorded] = [
        failure
        for failure in recordings.failures(age)
        if failure.path == path and failure.case == "runner killed in the middle of a stream"
    ]
    async with FakeOllama(age) as fake:
        fake.faults.add(Fault(die=True, at_token=3))
        status, body, verdict = await ask(session, fake, path)
        assert fake.journal.requests[-1].end == "died"
    assert status == 200
    assert verdict.end is (End.ERROR if path.startswith("/api/") else End.CUT)
    last, last_recorded = body.rstrip().split(b"\n")[-1], recorded.tail.rstrip().split(b"\n")[-1]
    if path.startswith("/api/"):
        assert last == last_recorded
    elif age == "0.11.11":  # the other recording ends where the repeat guard was quicker than the kill
        assert shape(last) == shape(last_recorded)


def shape(line: bytes) -> Any:
    """What a record is made of, but neither its words nor the counts asked for."""

    def of(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: of(inner) for name, inner in value.items() if name != "usage"}
        if isinstance(value, list):
            return [of(inner) for inner in value]
        return "" if value == "" else type(value).__name__

    return of(json.loads(line.removeprefix(b"data: ")))


async def test_a_runner_that_dies_before_an_unstreamed_answer_is_told_in_the_status(
    session: aiohttp.ClientSession, fake: FakeOllama
) -> None:
    fake.faults.add(Fault(die=True))
    status, body, _ = await ask(session, fake, "/api/chat", stream=False)
    assert (status, classify(status, body, "/api/chat")) == (500, Result.FAILED)


@pytest.mark.parametrize("path", sorted(ASKED))
async def test_an_answer_may_end_without_its_marker(
    session: aiohttp.ClientSession, fake: FakeOllama, path: str
) -> None:
    fake.faults.add(Fault(cut=True, at_token=4))
    _, _, verdict = await ask(session, fake, path)
    assert verdict.end is End.CUT
    assert fake.journal.requests[-1].tokens_sent == 4


@pytest.mark.parametrize("path", sorted(ASKED))
async def test_a_model_may_repeat_itself_until_the_guard_ends_it(
    session: aiohttp.ClientSession, fake: FakeOllama, path: str
) -> None:
    fake.faults.add(Fault(repeat=True))
    _, _, verdict = await ask(session, fake, path)
    assert verdict.end is End.GAVE_OUT


async def test_a_connection_may_be_reset_at_any_byte(
    session: aiohttp.ClientSession, fake: FakeOllama
) -> None:
    for at_byte in (0, 1, 150, 700):
        fake.faults.add(Fault(reset_at_byte=at_byte, times=1))
        with contextlib.suppress(aiohttp.ClientError):
            _, body, verdict = await ask(session, fake, "/api/chat")
            assert verdict.end is End.CUT
            assert len(body) <= at_byte
        assert fake.journal.requests[-1].end == "reset"
        assert fake.journal.requests[-1].bytes_sent == at_byte
    status, _, _ = await ask(session, fake, "/api/chat")
    assert status == 200


async def test_a_hung_answer_ends_when_its_client_leaves_or_faults_are_cleared(
    session: aiohttp.ClientSession, fake: FakeOllama
) -> None:
    fake.faults.add(Fault(hang=Hang.ANSWER))
    first = asyncio.create_task(ask(session, fake, "/api/chat"))
    await until(lambda: len(fake.journal.under_way) == 1)
    second = asyncio.create_task(ask(session, fake, "/api/chat"))
    await until(lambda: len(fake.journal.under_way) == 2)
    first.cancel()
    await until(lambda: len(fake.journal.under_way) == 1)
    assert fake.journal.requests[0].end == "client left"
    fake.clear_faults()
    status, _, _ = await second
    assert status == 200


async def test_a_stream_may_hang_and_its_slot_is_free_when_the_client_has_left(
    session: aiohttp.ClientSession, fake: FakeOllama
) -> None:
    fake.faults.add(Fault(hang=Hang.STREAM, at_token=2, times=1))
    asked = asyncio.create_task(ask(session, fake, "/api/chat"))
    await until(lambda: bool(fake.journal.requests) and fake.journal.requests[0].tokens_sent == 2)
    assert fake.journal.in_slots == 1
    asked.cancel()
    await until(lambda: fake.journal.in_slots == 0)
    assert fake.journal.requests[0].end == "client left"
    assert (await ask(session, fake, "/api/chat"))[2].end is End.COMPLETE


@pytest.mark.parametrize(
    ("fault", "result"),
    [
        (Fault(busy=True), Result.BUSY),
        (Fault(load_failure=True), Result.FAILED),
        (Fault(status=502), Result.FAILED),
        (Fault(status=418, message="no"), Result.REJECTED),
    ],
)
async def test_refusals_are_those_of_a_real_server(
    session: aiohttp.ClientSession, fake: FakeOllama, fault: Fault, result: Result
) -> None:
    fake.faults.add(fault)
    for path in sorted(ASKED):
        status, body, _ = await ask(session, fake, path)
        assert classify(status, body, path) is result


async def test_a_fault_is_for_a_route_a_model_or_so_many_requests(
    session: aiohttp.ClientSession, fake: FakeOllama
) -> None:
    fake.faults.add(Fault(route="/api/generate", status=500))
    fake.faults.add(Fault(model="tiny-uni", status=500, times=1))
    statuses = [
        (await ask(session, fake, "/api/chat"))[0],
        (await ask(session, fake, "/api/generate"))[0],
        (await ask(session, fake, "/api/chat", model="tiny-uni"))[0],
        (await ask(session, fake, "/api/chat", model="tiny-uni"))[0],
    ]
    assert statuses == [200, 500, 500, 200]


async def test_other_routes_fail_only_when_they_are_named(
    session: aiohttp.ClientSession, fake: FakeOllama
) -> None:
    async def status_of(path: str) -> int:
        async with session.get(fake.url + path) as response:
            return response.status

    fake.faults.add(Fault(status=500))
    assert await status_of("/api/tags") == 200
    fake.faults.add(Fault(route="/api/ps", status=500))
    assert (await status_of("/api/ps"), await status_of("/api/tags")) == (500, 200)
    fake.faults.add(Fault(route="*", hang=Hang.ANSWER))
    asked = asyncio.create_task(status_of("/api/version"))
    await until(lambda: len(fake.journal.under_way) == 1)
    fake.clear_faults()
    assert await asked == 200


async def test_the_list_of_what_runs_may_be_slow(session: aiohttp.ClientSession, fake: FakeOllama) -> None:
    fake.catalogue.ps_s = 30.0
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loaded(session, fake), 0.1)
    await until(lambda: not fake.journal.under_way)
    assert fake.journal.requests[-1].end == "client left"


async def test_a_request_may_bring_its_own_fault(session: aiohttp.ClientSession, fake: FakeOllama) -> None:
    headers = {HEADER: json.dumps({"status": 503, "message": "as ordered"})}
    async with session.post(
        f"{fake.url}/api/chat", json={"model": "tiny", "messages": HELLO}, headers=headers
    ) as response:
        assert (response.status, await response.json()) == (503, {"error": "as ordered"})


# Coming and going


async def test_a_stopped_server_breaks_off_and_comes_back_where_it_was(
    session: aiohttp.ClientSession,
) -> None:
    fake = FakeOllama(tokens_per_s=20)
    await fake.start()
    port = fake.port
    asked = asyncio.create_task(ask(session, fake, "/api/chat"))
    await until(lambda: fake.journal.in_slots == 1 and fake.journal.requests[0].tokens_sent > 1)
    await fake.stop()
    _, _, verdict = await asked
    assert verdict.end is End.CUT
    with pytest.raises(aiohttp.ClientConnectorError):
        await ask(session, fake, "/api/chat")
    fake.pace.tokens_per_s = 0
    await fake.start()
    assert fake.port == port
    assert (await ask(session, fake, "/api/chat"))[2].end is End.COMPLETE
    await fake.stop()


async def test_it_runs_as_a_program_and_is_told_what_to_do(session: aiohttp.ClientSession) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.fake_ollama", "--age", "0.11.11", "--models", "mine=tiny"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        url = (await asyncio.wait_for(process.stdout.readline(), 20)).decode().strip()
        await session.post(f"{url}/fake/faults", json={"status": 500, "times": 1})
        await session.post(f"{url}/fake/settings", json={"slots": 2, "tokens_per_s": 1000})
        await session.post(f"{url}/fake/install", json={"more": "tiny-uni"})
        statuses = []
        for model in ("mine", "mine", "more", "none"):
            async with session.post(f"{url}/api/generate", json={"model": model, "prompt": "x"}) as response:
                statuses.append(response.status)
                await response.read()
        assert statuses == [500, 200, 200, 404]
        async with session.get(f"{url}/fake/journal") as response:
            journal = await response.json()
        assert [seen["status"] for seen in journal["requests"]] == statuses
        assert [seen["end"] for seen in journal["requests"]] == ["answered"] * 4
        await session.delete(f"{url}/fake/faults")
    finally:
        process.send_signal(signal.SIGTERM)
        await asyncio.wait_for(process.wait(), 10)
    assert process.returncode == 0
