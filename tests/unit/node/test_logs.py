import asyncio
import io
import json
import logging
import warnings
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
import structlog

from ollama_dist.core.ids import RequestId
from ollama_dist.core.outcomes import Outcome, Result
from ollama_dist.node import logs
from ollama_dist.node.config import LogSettings
from ollama_dist.node.logs import MASK, Redactor, configure_logging, log_request, log_with
from ollama_dist.node.setting_values import LogFormat, LogLevel, Secret
from tests.support.wait import until

JSON = LogSettings(log_format=LogFormat.JSON)
TEXT = LogSettings()
LOG = structlog.get_logger()
REST_OF_REQUEST = {
    "request_id": "a" * 24,
    "route": "/api/chat",
    "node": "desk",
    "status": 200,
    "result": Result.OK,
    "first_byte_s": None,
    "total_s": 0.25,
    "tokens": 7,
}
"""What the log has to say of `request_ended`, beside its model."""


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    before = (root.handlers, root.level)
    yield
    root.handlers, level = before
    root.setLevel(level)
    logs._request_lines.set_up(Redactor(), None)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def request_ended(model: str) -> Outcome:
    return Outcome(RequestId("a" * 24), "/api/chat", model, "desk", 200, Result.OK, (), None, 0.25, 7)


def lines_of(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_object_with_its_fields() -> None:
    stream = io.StringIO()
    configure_logging(JSON, stream=stream)
    structlog.get_logger().warning("member_suspect", node="desk", rtt_ms=3)
    (line,) = lines_of(stream)
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "member_suspect", "level": "warning", "node": "desk", "rtt_ms": 3}


def test_what_matters_less_than_the_level_is_left_out() -> None:
    stream = io.StringIO()
    configure_logging(LogSettings(log_level=LogLevel.WARNING, log_format=LogFormat.JSON), stream=stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")
    logging.getLogger("some.library").info("quiet")
    assert [line["event"] for line in lines_of(stream)] == ["loud"]


async def test_the_request_is_in_every_line_of_it_and_of_the_tasks_it_starts() -> None:
    stream = io.StringIO()
    configure_logging(JSON, stream=stream)
    log = structlog.get_logger()

    async def work(name: str) -> None:
        log.info("working", name=name)
        await asyncio.sleep(0)
        log.info("worked", name=name)

    async def request(request_id: str) -> None:
        log_with(RequestId(request_id))
        await asyncio.create_task(work(request_id))

    async with asyncio.TaskGroup() as group:
        group.create_task(request("a" * 24))
        group.create_task(request("b" * 24))
    log.info("idle")
    *inside, outside = lines_of(stream)
    assert len(inside) == 4
    assert all(line["request_id"] == line["name"] for line in inside)
    assert "request_id" not in outside


def test_libraries_take_the_same_road() -> None:
    stream = io.StringIO()
    configure_logging(JSON, secrets=[Secret("open sesame")], stream=stream)

    def say() -> None:
        log_with(RequestId("a" * 24))
        logging.getLogger("some.library").warning("said %s", "open sesame", extra={"token": "t0ken"})

    copy_context().run(say)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        warnings.warn("about to change", stacklevel=1)
    first, second = lines_of(stream)
    assert first["event"] == f"said {MASK}"
    assert first["token"] == MASK
    assert first["logger"] == "some.library"
    assert first["request_id"] == "a" * 24
    assert "about to change" in second["event"]


def test_a_traceback_is_told_without_its_secrets() -> None:
    for settings in (JSON, TEXT):
        stream = io.StringIO()
        configure_logging(settings, secrets=[Secret("open sesame")], stream=stream)
        try:
            raise ValueError("wrong key open sesame \x1b[2J")
        except ValueError:
            structlog.get_logger().exception("join_failed")
        text = stream.getvalue()
        assert "ValueError: wrong key ***" in text
        assert "Traceback" in text
        assert "sesame" not in text
        assert "\x1b" not in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("token", "x"),
        ("admin_token", "x"),
        ("Authorization", "Bearer x"),
        ("cluster_key", "x"),
        ("api-key", "x"),
        ("invite", "x"),
        ("secret", b"x"),
    ],
)
def test_a_field_named_for_a_secret_is_masked(field: str, value: object) -> None:
    assert Redactor()("", "", {field: value}) == {field: MASK}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens", 264),
        ("output_tokens", 1),
        ("token", 17),
        ("code", "clock_skew"),
        ("key", "registry.ollama.ai/library/llama3:8b"),
        ("token", ""),
        ("reason", "loaded, 2 ahead, 71 tok/s"),
        ("url", "http://10.0.0.1:11434/api/tags"),
    ],
)
def test_what_only_resembles_a_secret_stays_readable(field: str, value: object) -> None:
    assert Redactor()("", "", {field: value}) == {field: value}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("bad key odk1-9f2c-0-c2VjcmV0-crc here", "bad key *** here"),
        ("ollama-dist join odi1qoxdgcsf5uqvr3orotgyxdwxrgjab6pvnon5", "ollama-dist join ***"),
        ("export OLLAMA_API_KEY=odc1-c2VjcmV0c2VjcmV0_-x now", "export OLLAMA_API_KEY=*** now"),
        ("sent Authorization: Bearer abc.def-123", "sent Authorization: Bearer ***"),
        ("via http://ada:pass@proxy:3128/x", "via http://***@proxy:3128/x"),
    ],
)
def test_text_shaped_like_a_secret_is_masked_wherever_it_stands(text: str, shown: str) -> None:
    redactor = Redactor()
    assert redactor("", "", {"event": text}) == {"event": shown}
    assert redactor("", "", {"error": ValueError(text)}) == {"error": shown}
    assert redactor("", "", {"detail": {"errors": [text]}}) == {"detail": {"errors": [shown]}}


def test_a_known_secret_is_masked_inside_anything() -> None:
    redactor = Redactor([Secret("sesame"), Secret("")])
    event = redactor("", "", {"a": "open sesame", "b": b"sesame!", "c": ("x", {"d": "sesame"}), "e": None})
    assert event == {"a": "open ***", "b": "***!", "c": ["x", {"d": "***"}], "e": None}


def test_nobody_outside_can_forge_a_line_or_steer_the_terminal() -> None:
    stream = io.StringIO()
    configure_logging(TEXT, stream=stream)
    structlog.get_logger().info("pull", model="x\n2026 [error] forged\x1b[2J\u2028")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert "\u2028" not in stream.getvalue()


@pytest.mark.parametrize(
    "model", ["tiny", "my model", "x\n2026 [error] forged\x1b[2J", "odk1-9f2c-0-c2VjcmV0-crc"]
)
def test_the_line_of_a_request_is_as_any_other(model: str) -> None:
    ended = request_ended(model)
    direct, general = io.StringIO(), io.StringIO()
    for stream, write in (
        (direct, log_request),
        (general, lambda _: LOG.info("request", model=model, **REST_OF_REQUEST)),
    ):
        configure_logging(TEXT, secrets=[Secret("open sesame")], stream=stream)
        write(ended)
    assert direct.getvalue().partition(" ")[2] == general.getvalue().partition(" ")[2]
    configure_logging(LogSettings(log_level=LogLevel.WARNING), stream=(silent := io.StringIO()))
    log_request(ended)
    assert silent.getvalue() == ""
    configure_logging(JSON, stream=(as_json := io.StringIO()))
    log_request(ended)
    [as_said] = lines_of(as_json)
    assert as_said["event"] == "request"
    assert REST_OF_REQUEST.items() <= as_said.items()


async def test_lines_of_requests_are_written_together_and_before_what_comes_after() -> None:
    configure_logging(TEXT, stream=(stream := io.StringIO()))
    ended = request_ended("tiny")
    log_request(ended)
    log_request(ended)
    assert stream.getvalue() == ""
    LOG.info("later")
    assert [line.split()[3] for line in stream.getvalue().splitlines()] == ["request", "request", "later"]
    log_request(ended)
    await until(lambda: stream.getvalue().count(" request ") == 3)


def test_setting_up_twice_logs_once() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging(JSON, stream=first)
    log = structlog.get_logger()
    log.info("one")
    configure_logging(JSON, stream=second)
    log.info("two")
    assert [line["event"] for line in lines_of(first)] == ["one"]
    assert [line["event"] for line in lines_of(second)] == ["two"]


def test_nothing_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(TEXT)
    structlog.get_logger().info("started")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "started" in captured.err


def test_a_log_that_cannot_be_written_fails_nobody() -> None:
    stream = io.StringIO()
    configure_logging(TEXT, stream=stream)
    stream.close()
    structlog.get_logger().info("request")
