"""What may go wrong, as data: said per request, per route, or for all that comes."""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from ollama_dist.core.dialects import DIALECTS


class Hang(StrEnum):
    """Where a request stops for ever (until its client leaves or the faults are cleared)."""

    ANSWER = "answer"
    """Before a byte of the answer: what a hung server and a first token that never comes look like."""
    STREAM = "stream"
    """After ``at_token`` tokens."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong. Counts of tokens are those sent before it happens."""

    route: str | None = None
    """Only on this path; ``*``: on every path; None: on every inference route. Beside those routes, only what
    happens before an answer does."""
    model: str | None = None
    """Only for this model, as the request spells it."""
    times: int | None = None
    """For so many requests; None: until cleared."""
    delay_s: float = 0.0
    """Before anything of the answer."""
    hang: Hang | None = None
    status: int | None = None
    """Refuse with this status and `message`."""
    message: str = "the fake was told to fail"
    busy: bool = False
    """Refuse as a full queue does."""
    load_failure: bool = False
    """Refuse as a model does that cannot be loaded."""
    at_token: int = 2
    """When `hang` at the stream, `die`, `cut`, `reset` or `repeat` happen."""
    die: bool = False
    """The runner dies, and the answer ends as it does at this age in this dialect."""
    cut: bool = False
    """The answer ends cleanly, without its end marker."""
    reset: bool = False
    """The connection is reset."""
    reset_at_byte: int | None = None
    """The connection is reset after so many bytes of the body, wherever that is."""
    repeat: bool = False
    """The model says the same word until the repeat guard ends the answer."""
    token_s: float | None = None
    """Seconds per token, instead of the server's own pace."""

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Raises TypeError for an unknown key."""
        hang = document.get("hang")
        return cls(**{**document, "hang": Hang(hang) if hang else None})


NO_FAULT = Fault()
EVERYWHERE = "*"
HEADER = "X-Fake-Fault"
"""A request may bring its own fault, as JSON."""


class Faults:
    """The faults switched on, the newest first."""

    def __init__(self) -> None:
        self._active: list[Fault] = []

    def add(self, fault: Fault) -> None:
        self._active.insert(0, fault)

    def clear(self) -> None:
        self._active.clear()

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._active)

    def take(self, path: str, model: str, header: str | None) -> Fault:
        """The fault for this request, `NO_FAULT` for most; one with ``times`` is used up."""
        if header:
            return Fault.from_json(json.loads(header))
        unnamed = None if path in DIALECTS else path
        for place, fault in enumerate(self._active):
            if fault.route not in (unnamed, path, EVERYWHERE) or fault.model not in (None, model):
                continue
            if fault.times is not None:
                left = dataclasses.replace(fault, times=fault.times - 1)
                self._active[place : place + 1] = [left] if left.times else []
            return fault
        return NO_FAULT
