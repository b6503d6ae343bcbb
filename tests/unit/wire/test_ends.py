import itertools
import json
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.dialects import DIALECTS, Dialect
from ollama_dist.core.outcomes import Result, Usage
from ollama_dist.core.requests import Intent
from ollama_dist.wire.ends import End, EndWatch, Verdict, usage_of_whole
from ollama_dist.wire.inspection import inspect
from ollama_dist.wire.tail import SETTLE_BYTES, Tail
from tests.support import recordings
from tests.support.fake_ollama.book import Book
from tests.support.fake_ollama.shapes import write
from tests.support.fake_ollama.words import speak
from tests.support.recordings import Recorded

OLLAMA, OPENAI, RESPONSES, ANTHROPIC = (
    Dialect.OLLAMA,
    Dialect.OPENAI,
    Dialect.RESPONSES,
    Dialect.ANTHROPIC,
)


def judge(
    body: bytes | list[bytes], dialect: Dialect = OLLAMA, *, stream: bool = True, clean: bool = True
) -> Verdict:
    watch = EndWatch(dialect, stream=stream)
    for piece in [body] if isinstance(body, bytes) else body:
        watch.feed(piece)
    return watch.finish(clean=clean)


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record, separators=(",", ":")).encode() + b"\n" for record in records)


def events(*records: Any, name: bool = False) -> bytes:
    parts = []
    for record in records:
        data = record if isinstance(record, str) else json.dumps(record, separators=(",", ":"))
        title = f"event: {record['type']}\n" if name else ""
        parts.append(f"{title}data: {data}\n\n".encode())
    return b"".join(parts)


def generated(text: str, **more: Any) -> dict[str, Any]:
    return {"model": "m", "created_at": f"t{random.random()}", "response": text, "done": False, **more}


def openai_chunk(text: str, finish_reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish_reason}]}


# What real servers sent

answers = {
    f"{version}-{exchange.id}": exchange
    for version in recordings.VERSIONS
    for exchange in recordings.exchanges(version)
    if recordings.is_inference(exchange) and exchange.status == 200
}


def answers_of(version: str) -> list[Recorded]:
    """The streams of every age, and the other answers of the newest."""
    return [
        answer
        for name, answer in answers.items()
        if name.startswith(version) and (answer.is_stream or version == "0.33.0-rc2")
    ]


def asks_for_stream(exchange: Recorded) -> bool:
    return inspect(exchange.path, exchange.body).stream


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_every_recorded_answer_is_complete(version: str) -> None:
    for name, answer in answers.items():
        if name.startswith(version) and answer.id != "gen-chunked-body":
            stream = asks_for_stream(answer)
            verdict = judge(list(answer.chunks), DIALECTS[answer.path], stream=stream)
            assert (name, verdict.end, verdict.result) == (name, End.COMPLETE, Result.OK)
            assert verdict.size == len(answer.answer)


SPOILT: list[Any] = [None, "", "…", [], {}, [1], {"message": "out of memory"}, False, 0, -3, 7.5]


def test_an_answer_that_is_here_as_a_whole_is_judged_as_one_that_comes() -> None:
    rng = random.Random(7)
    for name, answer in answers.items():
        if asks_for_stream(answer) or answer.id == "gen-chunked-body":
            continue
        dialect = DIALECTS[answer.path]
        cases = [answer.answer]
        for _ in range(20):  # with one field more, or one of its own spoilt, at its upper levels
            spoilt = json.loads(answer.answer)
            places = [
                spoilt,
                *(each for each in spoilt.values() if type(each) is dict),
                *(
                    item
                    for each in spoilt.values()
                    if type(each) is list
                    for item in each
                    if type(item) is dict
                ),
            ]
            place = rng.choice(places)
            place[rng.choice([*place, "error", "type", "response"])] = rng.choice(SPOILT)
            cases.append(json.dumps(spoilt).encode())
        for body in cases:
            verdict = judge(body, dialect, stream=False)
            expected = verdict.usage if verdict.end is End.COMPLETE else None
            assert (name, body, usage_of_whole(dialect, body)) == (name, body, expected)


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_where_an_answer_is_cut_into_pieces_does_not_matter(version: str) -> None:
    for answer in answers_of(version):
        dialect, stream, body = DIALECTS[answer.path], asks_for_stream(answer), answer.answer
        whole = judge(body, dialect, stream=stream)
        rng = random.Random(answer.id)
        for longest in (1, 7, 100, 3000):
            cuts = [0]
            while cuts[-1] < len(body):
                cuts.append(min(len(body), cuts[-1] + rng.randint(1, longest)))
            pieces = [body[begin:end] for begin, end in itertools.pairwise(cuts)]
            assert (answer.id, judge(pieces, dialect, stream=stream)) == (answer.id, whole)


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_usage_is_what_the_last_line_says(version: str) -> None:
    recorded = recordings.by_id(version)
    verdict = judge(list(recorded["chat-stream"].chunks))
    last = json.loads(recorded["chat-stream"].chunks[-1])
    assert verdict.usage == Usage(
        output_tokens=12,
        load_s=last["load_duration"] / 1e9,
        output_s=last["eval_duration"] / 1e9,
    )
    assert verdict.records == recorded["chat-stream"].answer.count(b"\n")
    counted = recorded["oai-chat-stream-usage"].answer
    assert judge(counted, OPENAI).usage == Usage(output_tokens=12)
    assert judge(recorded["oai-chat"].answer, OPENAI, stream=False).usage.output_tokens == 12
    assert judge(recorded["oai-completions-stream"].answer, OPENAI).usage.output_tokens == 6


@pytest.mark.parametrize("version", ["0.17.7", "0.33.0-rc2"])
def test_usage_of_the_younger_dialects(version: str) -> None:
    recorded = recordings.by_id(version)
    assert judge(recorded["responses-stream"].answer, RESPONSES).usage == Usage(6)
    assert judge(recorded["responses-previous"].answer, RESPONSES, stream=False).usage.output_tokens == 2
    assert judge(recorded["ant-messages-stream"].answer, ANTHROPIC).usage == Usage(6)
    assert judge(recorded["ant-messages"].answer, ANTHROPIC, stream=False).usage == Usage(6)


# At every byte


@dataclass(frozen=True)
class Whole:
    """An answer as a server that is well sends it."""

    id: str
    dialect: Dialect
    body: bytes
    is_stream: bool
    """Whether it is one."""
    was_asked_to: bool
    """Whether the request asked for a stream: some get one object all the same."""

    def judged(self, *pieces: bytes, clean: bool = True) -> Verdict:
        return judge(list(pieces), self.dialect, stream=self.was_asked_to, clean=clean)

    def lacks_nothing(self, cut: int) -> bool:
        """Whether the end mark is in the first ``cut`` bytes; one object needs no line end after it."""
        return cut == len(self.body) or (not self.is_stream and not self.body[cut:].strip())


def recorded_whole(version: str) -> list[Whole]:
    return [
        Whole(answer.id, DIALECTS[answer.path], answer.answer, answer.is_stream, asks_for_stream(answer))
        for answer in answers_of(version)
        if answer.id != "gen-chunked-body"
    ]


def made_up_whole(version: str) -> list[Whole]:
    """What the scripted server says in every dialect of its age: words, a thought, a call of a tool."""
    book, tools = Book(version), [{"type": "function", "function": {"name": "look", "parameters": {}}}]
    made = []
    for path in ("/api/generate", "/api/chat", "/v1/chat/completions", "/v1/completions", *YOUNG_PATHS):
        if path in YOUNG_PATHS and version in ("0.5.13", "0.11.11"):
            continue
        for model, stream in itertools.product(("tiny", "tiny-think", "tiny-tools"), (True, False)):
            speech = speak(model, "hello there", options={}, tools=tools, thinks=True)
            written = write(book, path, model, speech, stream=stream, usage=True, elapsed_s=0.1)
            body = b"".join([*written.opening, *written.tokens, *written.closing])
            made.append(Whole(f"{path} {model}", DIALECTS[path], body, stream, stream))
    return made


YOUNG_PATHS = ("/v1/responses", "/v1/messages")

EVERY_CUT = bool(os.environ.get("EVERY_CUT"))
"""All pairs of cuts instead of some, and no byte left out: for hours of one's own."""


def places(whole: Whole, seed: str, *, rarely: bool) -> list[int]:
    """Where to cut: everywhere; ``rarely`` everywhere near the end, and here and there before."""
    size = len(whole.body)
    if EVERY_CUT or not rarely:
        return list(range(1, size))
    near_the_end = range(max(1, size - 60), size)
    return sorted({*near_the_end, *Random(seed).sample(range(1, size), min(size - 1, 25))})


def all_whole(version: str) -> Iterator[tuple[Whole, bool]]:
    """The answers of an age, and whether to be sparing with them.

    Recorded streams are cut at every byte, each of those that differ in nothing but numbers once.
    """
    for whole in recorded_whole(version):
        yield whole, not (whole.is_stream and whole in FIRST_OF_THEIR_KIND)
    for whole in made_up_whole(version):
        yield whole, True


def first_of_their_kind() -> set[Whole]:
    kinds: dict[tuple[Dialect, bytes], Whole] = {}
    for version in recordings.VERSIONS:
        for whole in recorded_whole(version):
            kinds.setdefault((whole.dialect, re.sub(rb"\d+", b"0", whole.body)), whole)
    return set(kinds.values())


FIRST_OF_THEIR_KIND = first_of_their_kind()


@pytest.mark.timeout(0 if EVERY_CUT else 120)
@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_an_answer_is_complete_only_from_the_last_byte_of_its_end_mark_on(version: str) -> None:
    """Cut off at every byte, with the transport's end clean and unclean."""
    wrong = []
    for whole, rarely in all_whole(version):
        for cut in places(whole, version, rarely=rarely):
            watch = EndWatch(whole.dialect, stream=whole.was_asked_to)
            watch.feed(whole.body[:cut])
            unclean, clean = watch.finish(clean=False).end, watch.finish(clean=True).end
            is_complete = whole.lacks_nothing(cut)
            if unclean is not End.CUT or (clean is End.COMPLETE) != is_complete:
                wrong.append((whole.id, cut, unclean, clean))
    assert wrong == []


@pytest.mark.timeout(0 if EVERY_CUT else 120)
@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_in_two_pieces_an_answer_is_what_it_is_in_one(version: str) -> None:
    wrong: list[tuple[str, int]] = []
    for whole, rarely in all_whole(version):
        verdict = whole.judged(whole.body)
        assert (whole.id, verdict.end) == (whole.id, End.COMPLETE)
        wrong += [
            (whole.id, cut)
            for cut in places(whole, version, rarely=rarely)
            if whole.judged(whole.body[:cut], whole.body[cut:]) != verdict
        ]
    assert wrong == []


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_the_last_lines_alone_tell_the_same_as_all(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each stream after a longer beginning, cut near its end and in pieces of its lines."""
    bodies = []
    for whole, _ in all_whole(version):
        if whole.is_stream:
            record_end = b"\n" if whole.dialect is OLLAMA else b"\n\n"
            begin = b"".join(whole.body.partition(record_end)[:2])
            bodies += [
                (whole, (begin * 20 + whole.body[:cut]).splitlines(keepends=True))
                for cut in range(len(whole.body) - 40, len(whole.body) + 1)
            ]

    def verdicts() -> list[Verdict]:
        return [whole.judged(*body, clean=clean) for whole, body in bodies for clean in (True, False)]

    told = verdicts()
    assert {End.COMPLETE, End.CUT} <= {verdict.end for verdict in told}
    monkeypatch.setattr(Tail, "last", lambda *_: [])
    assert told == verdicts()


@pytest.mark.timeout(0 if EVERY_CUT else 120)
@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_in_three_pieces_an_answer_is_what_it_is_in_one(version: str) -> None:
    """Some pairs of cuts. All take hours: ``EVERY_CUT=1 scripts/test tests/unit/wire/test_ends.py``."""
    wrong = []
    for whole, _ in all_whole(version):
        verdict, body = whole.judged(whole.body), whole.body
        for first, second in pairs_of_cuts(len(body), Random(version + whole.id)):
            if whole.judged(body[:first], body[first:second], body[second:]) != verdict:
                wrong.append((whole.id, first, second))
    assert wrong == []


def pairs_of_cuts(size: int, rng: Random) -> Iterator[tuple[int, int]]:
    if EVERY_CUT:
        yield from itertools.combinations(range(1, size), 2)
        return
    for _ in range(60):
        near = rng.randint(max(1, size - 120), size - 1)  # most that matters is said at the end
        other = rng.choice((near, rng.randint(max(1, size - 120), size - 1), rng.randint(1, size - 1)))
        yield min(near, other), max(near, other)


broken = [
    pytest.param(failure, id=f"{version}-{failure.case[:24]}-{failure.path}-{number}")
    for version in ("0.11.11", "0.33.0-rc2")
    for number, failure in enumerate(recordings.failures(version))
    if failure.status == 200 and "nine requests" not in failure.case
]


@pytest.mark.parametrize("failure", broken)
def test_no_recorded_broken_answer_passes_for_complete(failure: recordings.Failure) -> None:
    stream = bool(failure.body.get("stream", failure.path.startswith("/api/")))
    clean = failure.end != "connection closed"
    whole_lines = failure.tail.partition(b"\n")[2] if stream else failure.tail
    verdict = judge(whole_lines, DIALECTS[failure.path], stream=stream, clean=clean)
    assert verdict.end is not End.COMPLETE
    if failure.case == "runner killed in the middle of a stream" and failure.path.startswith("/api/"):
        assert verdict.end is End.ERROR
        assert verdict.message == "an error was encountered while running the model: unexpected EOF"
        assert verdict.result is Result.CUT


def test_a_recorded_give_up_in_one_object_is_the_models_fault() -> None:
    [gave_out] = [
        failure.tail
        for failure in recordings.failures("0.11.11")
        if failure.path == "/api/generate" and failure.body.get("stream") is False and failure.status == 200
        if b'"done":false}' in failure.tail
    ]
    verdict = judge(gave_out, stream=False)
    assert (verdict.end, verdict.result) == (End.GAVE_OUT, Result.GAVE_OUT)


# Ollama's own dialect


def test_text_that_looks_like_the_end_is_not_the_end() -> None:
    assert judge(lines(generated('"done":true}\n{"done":true}'))).end is End.CUT
    assert judge(lines({"message": {"done": True}, "done": False})).end is End.CUT
    assert judge(lines(generated("x"), {"done": "true"})).end is End.CUT


def test_the_order_of_fields_and_space_between_them_do_not_matter() -> None:
    assert judge(b'{ "done" : true , "response" : "" }\n').end is End.COMPLETE


def test_a_stream_that_lost_only_its_last_byte_is_cut() -> None:
    whole = lines(generated("x"), generated("", done=True, done_reason="stop"))
    assert judge(whole).end is End.COMPLETE
    assert judge(whole[:-1]).end is End.CUT
    assert judge(lines(generated("", done=True))[:-1]).end is End.CUT


def test_a_marker_that_was_seen_counts_even_when_the_connection_broke_after_it() -> None:
    assert judge(lines(generated("", done=True)), clean=False).end is End.COMPLETE


@pytest.mark.parametrize("reason", ["load", "unload"])
def test_shortcut_answers_to_streaming_requests_have_no_line_end(reason: str) -> None:
    body = lines(generated("", done=True, done_reason=reason))[:-1]
    assert judge(body).end is End.COMPLETE
    assert judge(body, clean=False).end is End.CUT


def test_an_error_line_is_the_engines_word() -> None:
    verdict = judge(lines(generated("x"), {"error": "llama runner crashed"}))
    assert (verdict.end, verdict.message) == (End.ERROR, "llama runner crashed")
    assert verdict.result is Result.CUT


def test_an_error_line_about_the_request_is_the_callers_matter() -> None:
    words = 'invalid format: "5"; expected "json" or a valid JSON Schema object'
    assert judge(lines({"error": words})).result is Result.REJECTED


def test_nothing_at_all_is_a_cut() -> None:
    for dialect in Dialect:
        for stream in (True, False):
            watch = EndWatch(dialect, stream=stream)
            assert not watch.has_begun
            assert watch.finish(clean=True) == Verdict(End.CUT)


def test_a_last_line_of_megabytes_is_read_in_bounded_memory() -> None:
    last = generated("", done=True, done_reason="stop", context=list(range(400_000)), eval_count=7)
    body = lines(generated("x"), last)
    pieces = [body[at : at + 8192] for at in range(0, len(body), 8192)]
    watch = EndWatch(OLLAMA, stream=True)
    assert isinstance(watch._tail, Tail)
    for piece in pieces:
        watch.feed(piece)
        assert watch._tail._pending <= SETTLE_BYTES
    verdict = watch.finish(clean=True)
    assert (verdict.end, verdict.usage.output_tokens) == (End.COMPLETE, 7)
    assert judge(pieces[:-1]).end is End.CUT


def test_embeddings_of_megabytes_are_complete_only_whole() -> None:
    body = json.dumps({"model": "m", "embeddings": [[0.5] * 100_000] * 3, "prompt_eval_count": 9}).encode()
    pieces = [body[at : at + 30_000] for at in range(0, len(body), 30_000)]
    verdict = judge(pieces, stream=False)
    assert (verdict.end, verdict.records) == (End.COMPLETE, 1)
    assert judge(pieces[:-1], stream=False).end is End.CUT


def test_a_body_in_many_lines_is_still_one_object() -> None:
    body = json.dumps({"done": True, "options": list(range(200))}, indent=1).encode()
    assert judge(body, stream=False).end is End.COMPLETE


# The repeat guard


def repeated(count: int, token: str = " q") -> list[dict[str, Any]]:
    return [generated(token) for _ in range(count)]


def test_more_than_thirty_repeats_and_a_clean_end_are_the_models_fault() -> None:
    assert judge(lines(generated("a"), *repeated(31))).end is End.GAVE_OUT
    assert judge(lines(generated("a"), *repeated(15), *repeated(16, "q"))).end is End.GAVE_OUT


def test_fewer_repeats_or_a_broken_connection_are_not() -> None:
    assert judge(lines(generated("a"), *repeated(30))).end is End.CUT
    assert judge(lines(*repeated(31), generated("b"))).end is End.CUT
    assert judge(lines(*repeated(31)), clean=False).end is End.CUT


def test_repeats_are_found_when_lines_are_long() -> None:
    padding = {"logprobs": [{"token": "x" * 500}] * 20}
    assert judge(lines(*(generated("q", **padding) for _ in range(40)))).end is End.GAVE_OUT


def test_repeats_are_found_in_every_dialect() -> None:
    assert judge(events(*[openai_chunk("q")] * 31), OPENAI).end is End.GAVE_OUT
    assert judge(events(*[{"choices": [{"text": "q"}]}] * 31), OPENAI).end is End.GAVE_OUT
    deltas = [{"type": "response.output_text.delta", "delta": "q"}] * 31
    assert judge(events(*deltas, name=True), RESPONSES).end is End.GAVE_OUT
    blocks = [{"type": "content_block_delta", "delta": {"type": "text_delta", "text": "q"}}] * 31
    assert judge(events(*blocks, name=True), ANTHROPIC).end is End.GAVE_OUT


def test_the_empty_chunk_an_old_server_sends_when_its_runner_dies_is_no_repeat() -> None:
    assert judge(events(*[openai_chunk("q")] * 40, openai_chunk("")), OPENAI).end is End.CUT


@pytest.mark.parametrize("text", [" go stop" * 20, "foo bar" + " go" * 31, "x" + "\n" * 40])
def test_repeats_are_found_at_the_end_of_a_whole_text(text: str) -> None:
    body = {"choices": [{"message": {"content": text}, "finish_reason": None}], "usage": {}}
    expected = End.CUT if "stop" in text else End.GAVE_OUT
    assert judge(json.dumps(body).encode(), OPENAI, stream=False).end is expected


# The other dialects


def test_openai_needs_a_finish_reason_and_the_done_event() -> None:
    chunks = [openai_chunk("a"), openai_chunk("", "stop")]
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 4}}
    assert judge(events(*chunks, "[DONE]"), OPENAI).end is End.COMPLETE
    assert judge(events(*chunks, usage, "[DONE]"), OPENAI).usage == Usage(4)
    assert judge(events(*chunks), OPENAI).end is End.CUT
    assert judge(events(openai_chunk("a"), "[DONE]"), OPENAI).end is End.CUT
    assert judge(events(*chunks, "[DONE]")[:-1], OPENAI).end is End.CUT
    assert judge(events(*chunks, "[DONE]").replace(b"\n", b"\r\n"), OPENAI).end is End.COMPLETE


def test_errors_are_found_in_every_dialect() -> None:
    error = {"error": {"message": "boom", "type": "api_error"}}
    assert judge(events(openai_chunk("a"), error), OPENAI).message == "boom"
    assert judge(events(openai_chunk("a"), error, "[DONE]"), OPENAI).end is End.ERROR
    failed = {"type": "response.failed", "response": {"error": {"code": "x", "message": "boom"}}}
    assert judge(events(failed, name=True), RESPONSES).message == "boom"
    assert judge(events({"type": "error", "message": "boom"}, name=True), RESPONSES).message == "boom"
    overloaded = {"type": "error", "error": {"type": "overloaded_error", "message": "boom"}}
    assert judge(events(overloaded, name=True), ANTHROPIC).message == "boom"


def test_a_response_that_ran_into_its_bound_is_complete() -> None:
    incomplete = {"type": "response.incomplete", "response": {"usage": {"input_tokens": 1}}}
    assert judge(events(incomplete, name=True), RESPONSES).end is End.COMPLETE


def test_a_closing_event_of_megabytes_is_read() -> None:
    output = [{"type": "message", "content": [{"type": "output_text", "text": "word " * 200_000}]}]
    usage = {"input_tokens": 2, "output_tokens": 5}
    completed = {"response": {"output": output, "usage": usage}, "type": "response.completed"}
    body = events(completed, name=True)
    pieces = [body[at : at + 10_000] for at in range(0, len(body), 10_000)]
    verdict = judge(pieces, RESPONSES)
    assert (verdict.end, verdict.usage) == (End.COMPLETE, Usage(5))
    assert judge(body[:-1], RESPONSES).end is End.CUT


def test_an_unstreamed_answer_without_its_closing_words_is_cut() -> None:
    choice = {"message": {"content": "a"}, "finish_reason": None}
    assert judge(lines({"choices": [choice]}), OPENAI, stream=False).end is End.CUT
    assert judge(lines({"type": "message", "content": []}), ANTHROPIC, stream=False).end is End.CUT
    nothing_counted = {"status": "completed", "usage": {"input_tokens": 0, "output_tokens": 0}}
    assert judge(lines(nothing_counted), RESPONSES, stream=False).end is End.CUT
    assert judge(lines({"done": False, "response": "a"}), OLLAMA, stream=False).end is End.CUT


def test_an_answer_in_one_object_counts_only_when_it_ended_as_announced() -> None:
    body = lines({"choices": [{"finish_reason": "stop"}]})
    assert judge(body, OPENAI, stream=False, clean=True).end is End.COMPLETE
    assert judge(body, OPENAI, stream=False, clean=False).end is End.CUT


def test_comments_between_events_do_not_matter() -> None:
    body = b": ping\n\n" + events(openai_chunk("a", "stop")) + b": ping\n\n" + events("[DONE]")
    assert judge(body, OPENAI).end is End.COMPLETE


# Where a stream stands


@pytest.mark.parametrize(
    ("dialect", "body", "mid_record"),
    [
        (OLLAMA, b"", False),
        (OLLAMA, b'{"a":1}\n', False),
        (OLLAMA, b'{"a":1}\n{', True),
        (OPENAI, b"data: {}\n\n", False),
        (OPENAI, b"data: {}\r\n\r\n", False),
        (OPENAI, b"data: {}\n", True),
        (OPENAI, b"data: {", True),
    ],
)
def test_it_is_known_whether_a_record_is_unfinished(dialect: Dialect, body: bytes, mid_record: bool) -> None:
    watch = EndWatch(dialect, stream=True)
    watch.feed(body)
    assert watch.is_mid_record is mid_record


@pytest.mark.parametrize("version", recordings.VERSIONS)
def test_it_is_known_whether_ending_the_record_would_make_a_torso_whole(version: str) -> None:
    """Only line ends may be missing then; nothing else is to be said after such bytes."""
    for whole in recorded_whole(version):
        if not whole.is_stream:
            continue
        shown = whole.body.rstrip(b"\n")
        for cut in (*range(max(1, len(whole.body) - 120), len(whole.body)), len(whole.body)):
            watch = EndWatch(whole.dialect, stream=True)
            watch.feed(whole.body[:cut])
            expected = len(shown) <= cut < len(whole.body)
            assert (whole.id, cut, watch.lacks_only_a_line_end) == (whole.id, cut, expected)


@given(st.lists(st.binary(max_size=30), max_size=6), st.sampled_from(list(Dialect)), st.booleans())
def test_no_bytes_make_it_fail_or_pass(pieces: list[bytes], dialect: Dialect, stream: bool) -> None:
    verdict = judge(pieces, dialect, stream=stream)
    assert verdict.end is End.CUT or b"error" in b"".join(pieces)


def test_loading_is_told_from_generating_the_same_way_as_the_request_told_it() -> None:
    recorded = recordings.by_id("0.33.0-rc2")["gen-load"]
    assert inspect(recorded.path, recorded.body).intent is Intent.LOAD
    assert judge(recorded.answer).end is End.COMPLETE


@pytest.mark.parametrize("text", [b"", b"said", b"{", b"x" * 100_000])
def test_of_a_bare_text_only_the_transport_knows_the_end(text: bytes) -> None:
    for clean, end in ((True, End.COMPLETE), (False, End.CUT)):
        watch = EndWatch(OPENAI, stream=False, is_text=True)
        watch.feed(text)
        verdict = watch.finish(clean=clean)
        assert (verdict.end, verdict.size) == (end, len(text))


@pytest.mark.parametrize(
    ("body", "end"),
    [
        (b'{"text":"said"}\n', End.COMPLETE),
        (b'{"text":""}', End.COMPLETE),
        (b'{"text":"said"', End.CUT),
        (b'{"text":null}', End.CUT),
        (b"", End.CUT),
        (b'{"error":{"message":"deaf"}}', End.ERROR),
    ],
)
def test_a_transcript_is_whole_when_it_is_a_document_with_a_text(body: bytes, end: End) -> None:
    assert judge(body, OPENAI, stream=False).end is end
