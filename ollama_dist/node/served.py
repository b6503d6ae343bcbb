"""A request whose answer has begun, and how it ended."""

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final

from ollama_dist.backends.http1 import Header
from ollama_dist.core.modes import Mode
from ollama_dist.core.outcomes import Attempt, Result
from ollama_dist.core.requests import InferenceRequest
from ollama_dist.core.view import NodeView
from ollama_dist.node.answer_cache import Asking
from ollama_dist.node.answers import Answer
from ollama_dist.node.load import OnPlace, Waited
from ollama_dist.node.modes import EffectiveMode
from ollama_dist.scheduling.decision import Decision, Record

_UNDECIDED: Final = EffectiveMode(Mode.DISTRIBUTED)

Held = list[Callable[[], None]]
"""What is to be called when an answer is no longer needed, the last first."""


def let_go(held: Held) -> None:
    while held:
        held.pop()()


class Served:
    """A request whose answer has begun: where it comes from and what led there.

    A ``with`` block lasts as long as the answer; ``end`` hears of its end.
    """

    __slots__ = (
        "_end",
        "answer",
        "asking",
        "attempts",
        "began",
        "body",
        "decision",
        "first_byte_s",
        "headers",
        "held",
        "is_refusal",
        "kept_s",
        "mode",
        "node",
        "on_place",
        "record",
        "request",
        "retries",
        "waited",
        "was_left",
    )

    def __init__(
        self,
        request: InferenceRequest,
        headers: Sequence[Header],
        body: bytes,
        on_place: OnPlace | None,
        asking: Asking | None,
        began: float,
        end: "Callable[[Served, BaseException | None], None]",
    ) -> None:
        self.request = request
        self.headers = headers
        """What of the client's headers travels with it."""
        self.body = body
        self.on_place = on_place
        """Hears how the wait for a slot goes."""
        self.asking = asking
        """Under what its answer may be kept."""
        self.began = began
        """When, by the dispatcher's clock."""
        self._end = end
        self.held: Held = []
        self.attempts: list[Attempt] = []
        """Places that gave no answer."""
        self.first_byte_s: float | None = None
        """How long the beginning of the answer took."""
        self.mode = _UNDECIDED
        self.decision: Decision | None = None
        """The first one: later ones only go without the places already tried."""
        self.record: Record | None = None
        """What the decision log has of it."""
        self.node: NodeView | None = None
        """Where the answer comes from."""
        self.answer: Answer | None = None
        self.is_refusal = False
        """The answer is what a place said that could not serve the request."""
        self.retries = 0
        """Further tries that were charged to the budget."""
        self.waited: Waited | None = None
        """How it came to its slot, where that was here."""
        self.was_left = False
        """The caller went before there was an answer."""
        self.kept_s: float | None = None
        """The answer is one that was kept for so many seconds, since nobody can give it now."""

    def __enter__(self) -> "Served":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(self, error)

    @property
    def fallback_reason(self) -> str:
        """Why this is not the first choice's answer, in snake case; empty when it is."""
        if self.kept_s is not None:
            return "cached"
        for attempt in self.attempts:
            if attempt.result is not Result.OK and attempt.result.blames_node:
                return f"node_{attempt.result}"
        return self.mode.reason

    def result(self, *, is_read: bool) -> Result:
        """How the request ended; ``is_read`` is whether somebody read the answer to its end."""
        if self.was_left:
            return Result.CANCELLED
        if self.answer is None or self.is_refusal:
            return self.attempts[-1].result if self.attempts else Result.FAILED
        return self.answer.result if is_read or self.answer.result is not Result.OK else Result.CANCELLED
