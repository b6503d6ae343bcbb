"""What was decided about a request, and why: the record behind ``/api/distributed/decisions``."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from ollama_dist.core.ids import NodeId, RequestId
from ollama_dist.core.outcomes import Outcome
from ollama_dist.core.values import value

KEPT: Final = 10_000
"""Records in memory, well below a kilobyte each."""


class Stage(StrEnum):
    """Which part of the pipeline settled it."""

    PINNED = "pinned"
    SCORED = "scored"


@value(frozen=True, slots=True)
class Candidate:
    """A node that could serve the request, and what it would meet there; seconds."""

    node: NodeId
    score: float
    """The smallest is the best."""
    wait_s: float
    load_s: float
    first_token_s: float
    total_s: float
    reason: str
    """Short, for people: "loaded, 2 ahead, 71 tok/s"."""
    service_s: float = 0.0
    """How long it would keep a slot there, if it ran alone."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """A node that could not, and why. ``filter`` is a code, ``reason`` a sentence."""

    node: NodeId
    filter: str
    reason: str


@value(frozen=True, slots=True)
class Decision:
    """Where a request goes first, and what else was looked at. Candidates stand best first."""

    winner: NodeId
    stage: Stage
    reason: str
    candidates: tuple[Candidate, ...]
    rejected: tuple[Rejection, ...] = ()
    expected: Candidate | None = None
    """The winner; None where nobody was compared."""


@dataclass(slots=True)
class Record:
    """A decision with the request it was about and, later, how it ended."""

    request_id: RequestId
    at: float
    """Unix time."""
    model: str
    route: str
    decision: Decision
    names: Mapping[NodeId, str]
    """What the nodes were called then."""
    outcome: Outcome | None = None

    def render(self) -> dict[str, Any]:
        """The promised JSON; durations in milliseconds."""
        decision, outcome = self.decision, self.outcome
        return {
            "request_id": self.request_id,
            "at": datetime.fromtimestamp(self.at, UTC)
            .isoformat(timespec="milliseconds")
            .replace("+00:00", "Z"),
            "model": self.model,
            "route": self.route,
            "stage": decision.stage,
            "winner": self._name(decision.winner),
            "reason": decision.reason,
            "candidates": [self._candidate(candidate) for candidate in decision.candidates],
            "rejected": [
                {"node": self._name(each.node), "filter": each.filter, "reason": each.reason}
                for each in decision.rejected
            ],
            "attempts": [
                {"node": self._name(attempt.node), "result": attempt.result, "detail": attempt.detail}
                for attempt in (outcome.attempts if outcome else ())
            ],
            "outcome": outcome
            and {
                "status": outcome.status,
                "result": outcome.result,
                "first_token_ms": None if outcome.first_byte_s is None else _ms(outcome.first_byte_s),
                "total_ms": _ms(outcome.total_s),
                "tokens": outcome.tokens,
            },
        }

    def _candidate(self, candidate: Candidate) -> dict[str, Any]:
        return {
            "node": self._name(candidate.node),
            "score": round(candidate.score, 3),
            "wait_ms": _ms(candidate.wait_s),
            "load_ms": _ms(candidate.load_s),
            "first_token_ms": _ms(candidate.first_token_s),
            "total_ms": _ms(candidate.total_s),
        }

    def _name(self, node: NodeId) -> str:
        return self.names.get(node, node)


class DecisionLog:
    """The last `KEPT` records; the oldest is dropped for a new one."""

    def __init__(self, kept: int = KEPT) -> None:
        self._records: deque[Record] = deque(maxlen=kept)
        self.add = self._records.append

    def get(self, request_id: str) -> Record | None:
        """The record of a request. It is looked for one by one: that is asked seldom, and `add` often."""
        return next((record for record in self.newest() if record.request_id == request_id), None)

    def newest(self) -> Iterator[Record]:
        """All records, the newest first."""
        return reversed(self._records)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
