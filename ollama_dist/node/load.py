"""What this node's engine has to do right now, counted by this node, and the bound on it."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from ollama_dist.core.errors import Busy
from ollama_dist.core.names import ModelKey
from ollama_dist.core.outcomes import Usage
from ollama_dist.core.view import Load

_SMOOTHING: Final = 0.2
"""Weight of the newest answer in the decode rate."""

BUSY_TEXT: Final = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's own words (``server/sched.go``), two spaces and all: clients look for them."""


class EngineLoad:
    """Counts requests in the engine or waiting for it, and refuses what is beyond the bound.

    Ollama queues requests for a loaded model without any limit; ``max_waiting`` is ours. ``changed`` is
    called after every change, to tell the others.
    """

    def __init__(self, slots: int, max_waiting: int, changed: Callable[[], None]) -> None:
        self._slots = slots
        self._max_waiting = max_waiting
        self._changed = changed
        self._active: Counter[ModelKey | None] = Counter()
        self._tokens_per_s = 0.0

    @property
    def now(self) -> Load:
        in_flight = self._active.total()
        return Load(in_flight, self._waiting(), self._slots, round(self._tokens_per_s, 1))

    def active(self, model: ModelKey) -> int:
        return self._active[model]

    def set_slots(self, slots: int) -> None:
        if slots != self._slots:
            self._slots = slots
            self._changed()

    @contextmanager
    def admitted(self, model: ModelKey | None) -> Iterator[None]:
        """One request for ``model`` for as long as the block runs; raises `Busy` when there is no room."""
        if self._active[model] >= self._slots and self._waiting() >= self._max_waiting:
            raise Busy(BUSY_TEXT)
        self._active[model] += 1
        self._changed()
        try:
            yield
        finally:
            self._active[model] -= 1
            if not self._active[model]:
                del self._active[model]
            self._changed()

    def learn(self, usage: Usage) -> None:
        """Fold the speed of an answer just finished into the decode rate."""
        if speed := usage.tokens_per_s:
            weight = _SMOOTHING if self._tokens_per_s else 1.0
            self._tokens_per_s += weight * (speed - self._tokens_per_s)

    def _waiting(self) -> int:
        return sum(max(0, count - self._slots) for count in self._active.values())
