"""Logging: events with fields, one line each, to standard error; the request's id in every line of it.

Our own events go through structlog and straight to the stream: there is one for every request, and the
standard library's road costs as much again. What libraries log there looks the same.
"""

import asyncio
import atexit
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Iterable, MutableMapping
from contextvars import ContextVar
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final, TextIO

import structlog
from structlog.typing import Processor

from ollama_dist.core.ids import RequestId
from ollama_dist.core.outcomes import Outcome
from ollama_dist.node.config import LogSettings
from ollama_dist.node.setting_values import LogFormat, Secret

log = structlog.get_logger()

MASK: Final = "***"

LATE_S: Final = 0.1
LATE_LINES: Final = 1000
"""How long, and how many, lines about requests may wait to be written together."""

_SECRET_FIELD: Final = re.compile(
    r"(?i)(^|[_-])(token|secret|password|authorization|cookie|(api|cluster|private)[_-]?key|invite)$"
)
_SECRET_TEXT: Final = re.compile(
    r"odk1-[0-9A-Za-z._-]+|odi1[0-9a-z]{20,}|odc1-[0-9A-Za-z_-]+"  # keys, invitations
    r"|(?i:(?<=bearer )|(?<=basic ))[0-9A-Za-z._~+/=-]+"
    r"|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"  # user and password in an address
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_UNCLEAR: Final = re.compile(r"[\s=\"']|\A\Z")
_CONTROL_IN_TRACE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CHATTY: Final = ("asyncio", "aiohttp.access", "grpc", "zeroconf", "hpack")

_WORD: Final = 80
_WORDS: Final = 1024
"""What was found out of so many texts, no longer than that, is remembered: most come again and again."""

_Event = MutableMapping[str, Any]


class Redactor:
    """Masks secrets in events: fields named like one, text shaped like one, and the very secrets we know."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._known = tuple(secret.reveal() for secret in secrets if secret.reveal())
        self._word = lru_cache(maxsize=_WORDS)(self.text)

    def __call__(self, _logger: Any, _method: str, event: _Event) -> _Event:
        for name, value in event.items():
            kind = type(value)
            if kind is not int and kind is not float:
                hidden = isinstance(value, str | bytes) and value and _names_a_secret(name)
                event[name] = MASK if hidden else self._masked(value)
        return event

    def text(self, text: str) -> str:
        """``text`` without what is secret in it."""
        for secret in self._known:
            text = text.replace(secret, MASK)
        return _SECRET_TEXT.sub(MASK, text)

    def _masked(self, value: Any) -> Any:
        match value:
            case str():
                return self._word(value) if len(value) <= _WORD else self.text(value)
            case bytes():
                return self._masked(value.decode("utf-8", "backslashreplace"))
            case dict():
                return dict(self("", "", {str(name): item for name, item in value.items()}))
            case list() | tuple() | set() | frozenset():
                return [self._masked(item) for item in value]
            case bool() | int() | float() | None:
                return value
        return self._masked(str(value))


@lru_cache(maxsize=512)
def _names_a_secret(field: str) -> bool:
    return _SECRET_FIELD.search(field) is not None


class _Lines:
    """The end of our own events' road, and structlog's way to get there. No request fails for a lost log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_flushed = getattr(stream, "line_buffering", False)

    def __call__(self, *_names: object) -> "_Lines":
        return self

    def msg(self, line: str) -> None:
        _request_lines.flush()  # what happened before is told before
        self.write(f"{line}\n")

    def write(self, lines: str) -> None:
        try:
            self._stream.write(lines)
            if not self._is_flushed:
                self._stream.flush()
        except (OSError, ValueError):  # closed, or its reader is gone
            pass

    debug = info = warning = error = critical = msg


def configure_logging(
    settings: LogSettings, *, secrets: Iterable[Secret] = (), stream: TextIO | None = None
) -> None:
    """Set up logging for the process; ``secrets`` are masked wherever they turn up. May be called again."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    redactor = Redactor(secrets)
    first: list[Processor] = [_add_request, structlog.stdlib.add_log_level]
    last: list[Processor] = [
        structlog.processors.format_exc_info,
        redactor,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer, lines = _renderer(settings, stream), _Lines(stream)
    is_plain = renderer == [_plain_line] and level <= logging.INFO
    _request_lines.set_up(redactor, lines if is_plain else None)
    structlog.configure(
        processors=[*first, *last, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lines,
        cache_logger_on_first_use=False,
    )
    foreign: list[Processor] = [structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, *foreign, *last],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


class _RequestLines:
    """Writes what `structlog` would of the one event that every request has, in the plain form.

    Its fields are always the same and their words come again and again, so most of it is looked up. Lines are
    written together, `LATE_S` after the first at the latest, before any other event and at the end of the
    process; one that is killed has its last `LATE_S` of them unwritten.
    """

    def __init__(self) -> None:
        self._lines: _Lines | None = None
        """None where the form or the level of now do not allow it."""
        self._due = 0.0
        """After that (Unix time) nobody comes any more to write what waits."""
        self._ended: deque[tuple[float, Outcome]] = deque()  # threads log too, and write it out first

    def set_up(self, redactor: Redactor, lines: _Lines | None) -> None:
        self.flush()

        def text(value: str) -> str:
            return _shown_text(redactor.text(value))

        def form(model: str, node: str, result: str, route: str, status: int) -> tuple[str, str]:
            """What comes again and again: what stands before the request's id, and what after it."""
            before = f"model={text(model)} node={text(node)} request_id="
            return before, f" result={result} route={route} status={status} tokens="

        self._lines, self._form, self._known_form = lines, form, lru_cache(maxsize=_WORDS)(form)

    def add(self, outcome: Outcome) -> None:
        """Log that a request has ended. No field is named like a secret."""
        if self._lines is None:  # another form or level is wanted
            log.info("request", **_fields(outcome))
            return
        now, waiting = time.time(), self._ended
        waiting.append((now, outcome))
        if now > self._due or len(waiting) >= LATE_LINES:
            self._arrange(now)

    def _arrange(self, now: float) -> None:
        """Have what waits written: soon where it is the first, now where there is much, or nobody came."""
        if len(self._ended) > 1:
            self.flush()
            return
        self._due = now + 2 * LATE_S
        try:
            asyncio.get_running_loop().call_later(LATE_S, self.flush)
        except RuntimeError:  # nobody would come back to it
            self.flush()

    def flush(self) -> None:
        if self._lines is None:
            return
        lines, waiting, second, at = [], self._ended, 0, ""
        while waiting:
            now, said = waiting.popleft()
            model, node, first_s = said.model, said.node, said.first_byte_s
            form = self._known_form if len(model) + len(node) <= 2 * _WORD else self._form
            before, after = form(model, node, said.result, said.route, said.status)
            if int(now) != second:
                second = int(now)
                at = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            if first_s is not None:
                first_s = int(first_s * 1e4 + 0.5) / 1e4  # as `_brief`, in place
            lines.append(
                f"{at}.{int((now - second) * 1e6):06}Z [info     ] request                    "
                f"    first_byte_s={first_s} {before}{said.request_id}{after}{said.tokens}"
                f" total_s={int(said.total_s * 1e4 + 0.5) / 1e4}\n"
            )
        self._due = 0.0
        if lines:
            self._lines.write("".join(lines))


def _brief(seconds: float | None) -> float | None:
    """To a tenth of a millisecond; `round` takes five times as long."""
    return None if seconds is None else int(seconds * 1e4 + 0.5) / 1e4


_request_lines: Final = _RequestLines()
atexit.register(_request_lines.flush)
log_request: Final = _request_lines.add


def _fields(outcome: Outcome) -> dict[str, Any]:
    """What the log says of each request."""
    return {
        "request_id": outcome.request_id,
        "route": outcome.route,
        "model": outcome.model,
        "node": outcome.node,
        "status": outcome.status,
        "result": outcome.result,
        "first_byte_s": _brief(outcome.first_byte_s),
        "total_s": _brief(outcome.total_s),
        "tokens": outcome.tokens,
    }


_REQUEST: Final[ContextVar[RequestId | None]] = ContextVar("request", default=None)


def log_with(request_id: RequestId) -> None:
    """Every event logged from now on in this task, and in tasks it starts, has the request's id."""
    _REQUEST.set(request_id)


def _add_request(_logger: Any, _method: str, event: _Event) -> _Event:
    if (request_id := _REQUEST.get()) is not None:
        event.setdefault("request_id", request_id)
    return event


def _renderer(settings: LogSettings, stream: TextIO) -> list[Processor]:
    if settings.log_format is LogFormat.JSON:
        return [structlog.processors.JSONRenderer(sort_keys=False)]
    if not stream.isatty() or "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb":
        return [_plain_line]
    return [
        _one_line,
        structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback),
    ]


def _plain_line(_logger: Any, _method: str, event: _Event) -> str:
    """What structlog's renderer makes without colours, at a third of its cost: each request has a line.

    What comes from outside may neither forge a line nor steer a terminal.
    """
    trace = "".join(
        "\n" + _CONTROL_IN_TRACE.sub("?", str(event.pop(name)))
        for name in ("stack", "exception")
        if name in event
    )
    at, level, said = event.pop("timestamp", ""), event.pop("level", ""), event.pop("event", "")
    fields = [f"{name}={_shown(event[name])}" for name in sorted(event)]
    said = _one_line("", "", {"event": str(said)})["event"]
    return f"{at} [{level:<9}] {said:<30} {' '.join(fields)}{trace}".rstrip(" ")


def _shown(value: Any) -> str:
    if not isinstance(value, str):
        return repr(value)
    return _shown_word(value) if len(value) <= _WORD else _shown_text(value)


def _shown_text(text: str) -> str:
    return str(text) if text.isprintable() and not _UNCLEAR.search(text) else repr(str(text))


_shown_word = lru_cache(maxsize=_WORDS)(_shown_text)


def _one_line(_logger: Any, _method: str, event: _Event) -> _Event:
    """Names of models and nodes come from outside: none may forge a line or steer a terminal."""
    for name, value in event.items():
        if isinstance(value, str) and name not in ("exception", "stack"):
            event[name] = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
        elif isinstance(value, str):
            event[name] = _CONTROL_IN_TRACE.sub("?", value)
    return event
