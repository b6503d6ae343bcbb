"""When to stop sending to a place that fails, and when to try it again. Pure.

A place is blamed by the status of what it did, not by how it felt: a node that fails fast would otherwise
look like the fastest of all.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.core.outcomes import OK, Result

FAILURES_TO_OPEN: Final = 3
"""Failures in a row; a refused connection opens at once, since nobody is there."""

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 2.0
"""Short enough that a place that comes back is used within three seconds."""


class Circuit(StrEnum):
    CLOSED = "closed"
    OPEN = "open"
    """Nothing is sent there."""
    HALF_OPEN = "half-open"
    """One request may try."""


@dataclass(slots=True)
class _State:
    failures: int = 0
    pause_s: float = FIRST_PAUSE_S
    open_until: float | None = None
    trying_until: float | None = None


TRIAL_S: Final = 5.0
"""A trial that has not ended by then no longer keeps others from trying."""


class Breakers:
    """One circuit per place. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._states: dict[NodeId, _State] = {}

    def circuit(self, node: NodeId, now: float) -> Circuit:
        state = self._states.get(node)
        if state is None or state.open_until is None:
            return Circuit.CLOSED
        if now < state.open_until or (state.trying_until is not None and now < state.trying_until):
            return Circuit.OPEN
        return Circuit.HALF_OPEN

    @property
    def are_closed(self) -> bool:
        """Whether nothing is held against anybody."""
        return not self._states

    def not_closed(self, nodes: Iterable[NodeId], now: float) -> dict[NodeId, Circuit]:
        """Of ``nodes`` those whose circuit is not closed."""
        if not self._states:
            return {}
        circuits = {node: self.circuit(node, now) for node in nodes}
        return {node: circuit for node, circuit in circuits.items() if circuit is not Circuit.CLOSED}

    def begin(self, node: NodeId, now: float) -> None:
        """A request goes there; through a half-open circuit it is the one that tries."""
        if self._states and self.circuit(node, now) is Circuit.HALF_OPEN:
            self._states[node].trying_until = now + TRIAL_S

    def end(self, node: NodeId, result: Result, now: float) -> None:
        """How a request there ended."""
        if result is OK and not self._states:
            return
        if result is OK or not result.blames_node:
            if result is not Result.CANCELLED:
                self._states.pop(node, None)
            return
        state = self._states.setdefault(node, _State())
        state.failures += 1
        if state.trying_until is not None:
            state.trying_until = None
            state.pause_s = min(state.pause_s * 2, LONGEST_PAUSE_S)
            state.open_until = now + state.pause_s
        elif state.open_until is None and (result is Result.REFUSED or state.failures >= FAILURES_TO_OPEN):
            state.open_until = now + state.pause_s

    def reset(self, node: NodeId) -> None:
        """The place has come back by itself (a new life, a good probe): forget what was held against it."""
        self._states.pop(node, None)
