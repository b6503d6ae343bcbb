"""Logging: events with fields, one line each, to standard error; the request's id in every line of it.

Our own events go through structlog and straight to the stream: there is one for every request, and the
standard library's road costs as much again. What libraries log there looks the same.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, Final, TextIO

import structlog
from structlog.typing import Processor

from ollama_dist.core.ids import RequestId
from ollama_dist.node.config import LogSettings
from ollama_dist.node.setting_values import LogFormat, Secret

MASK: Final = "***"

_SECRET_FIELD: Final = re.compile(
    r"(?i)(^|[_-])(token|secret|password|authorization|cookie|(api|cluster|private)[_-]?key|invite)$"
)
_SECRET_TEXT: Final = re.compile(
    r"odk1-[0-9A-Za-z._-]+|odi1[0-9a-z]{20,}|odc1-[0-9A-Za-z_-]+"  # keys, invitations
    r"|(?i:(?<=bearer )|(?<=basic ))[0-9A-Za-z._~+/=-]+"
    r"|(?<=://)[^/@\s:]+:[^/@\s]+(?=@)"  # user and password in an address
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_CONTROL_IN_TRACE: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_CHATTY: Final = ("asyncio", "aiohttp.access", "grpc", "zeroconf", "hpack")

_Event = MutableMapping[str, Any]


class Redactor:
    """Masks secrets in events: fields named like one, text shaped like one, and the very secrets we know."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        self._known = tuple(secret.reveal() for secret in secrets if secret.reveal())

    def __call__(self, _logger: Any, _method: str, event: _Event) -> _Event:
        for name, value in event.items():
            hidden = isinstance(value, str | bytes) and value and _SECRET_FIELD.search(name)
            event[name] = MASK if hidden else self._masked(value)
        return event

    def _masked(self, value: Any) -> Any:
        match value:
            case str():
                for secret in self._known:
                    value = value.replace(secret, MASK)
                return _SECRET_TEXT.sub(MASK, value)
            case bytes():
                return self._masked(value.decode("utf-8", "backslashreplace"))
            case dict():
                return dict(self("", "", {str(name): item for name, item in value.items()}))
            case list() | tuple() | set() | frozenset():
                return [self._masked(item) for item in value]
            case bool() | int() | float() | None:
                return value
        return self._masked(str(value))


class _Lines:
    """The end of our own events' road, and structlog's way to get there. No request fails for a lost log."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __call__(self, *_names: object) -> "_Lines":
        return self

    def msg(self, line: str) -> None:
        with suppress(OSError, ValueError):  # closed, or its reader is gone
            self._stream.write(f"{line}\n")
            self._stream.flush()

    debug = info = warning = error = critical = msg


def configure_logging(
    settings: LogSettings, *, secrets: Iterable[Secret] = (), stream: TextIO | None = None
) -> None:
    """Set up logging for the process; ``secrets`` are masked wherever they turn up. May be called again."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    redactor = Redactor(secrets)
    first: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.stdlib.add_log_level]
    last: list[Processor] = [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redactor,
    ]
    structlog.configure(
        processors=[*first, *last, *_renderer(settings, stream)],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Lines(stream),
        cache_logger_on_first_use=False,
    )
    foreign: list[Processor] = [structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder()]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*first, *foreign, *last],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderer(settings, stream),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


@contextmanager
def request_context(request_id: RequestId, **fields: Any) -> Iterator[None]:
    """Every event logged within, and in tasks started within, has the request's id and these fields."""
    with structlog.contextvars.bound_contextvars(request_id=request_id, **fields):
        yield


def _renderer(settings: LogSettings, stream: TextIO) -> list[Processor]:
    if settings.log_format is LogFormat.JSON:
        return [structlog.processors.JSONRenderer(sort_keys=False)]
    colours = stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return [
        _one_line,
        structlog.dev.ConsoleRenderer(colors=colours, exception_formatter=structlog.dev.plain_traceback),
    ]


def _one_line(_logger: Any, _method: str, event: _Event) -> _Event:
    """Names of models and nodes come from outside: none may forge a line or steer a terminal."""
    for name, value in event.items():
        if isinstance(value, str) and name not in ("exception", "stack"):
            event[name] = _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), value)
        elif isinstance(value, str):
            event[name] = _CONTROL_IN_TRACE.sub("?", value)
    return event
