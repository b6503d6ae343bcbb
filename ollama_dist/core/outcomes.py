"""How a request ended: what feeds the breaker, the predictor, the decision log and the counters."""

from enum import StrEnum
from typing import Final

from ollama_dist.core.ids import NodeId, RequestId
from ollama_dist.core.values import value


class Result(StrEnum):
    """The end of one attempt at one place."""

    OK = "ok"
    REFUSED = "refused"
    """Nobody listens there, or the connection broke before an answer: nothing was done."""
    BUSY = "busy"
    """The owner has no room; it said so with its fresh load."""
    MISSING = "missing"
    """The owner does not have the model after all."""
    UNSUPPORTED = "unsupported"
    """The engine there does not know the route or this kind of model, for want of age: another one may."""
    FAILED = "failed"
    """The engine there failed before the first byte was relayed."""
    TIMEOUT = "timeout"
    CUT = "cut"
    """The answer broke off after its first byte had been relayed."""
    REJECTED = "rejected"
    """The engine found fault with the request: the caller's matter, and an answer like any other."""
    CANCELLED = "cancelled"
    """The caller left."""
    GAVE_OUT = "gave_out"
    """The engine's repeat guard ended the answer: the model's fault, not the node's."""

    @property
    def blames_node(self) -> bool:
        """Whether this speaks against the place that was tried."""
        return self in _BLAMING


OK: Final = Result.OK
"""By a name of its own for what is done for each request, as `core.requests.GENERATE`."""

_BLAMING: Final = frozenset({Result.REFUSED, Result.FAILED, Result.TIMEOUT, Result.CUT})


@value(frozen=True, slots=True)
class Usage:
    """What the last line of an answer tells of its length and of the engine's time; seconds."""

    output_tokens: int = 0
    load_s: float = 0.0
    output_s: float = 0.0

    @property
    def tokens_per_s(self) -> float | None:
        tokens, seconds = self.output_tokens, self.output_s
        return tokens / seconds if tokens and seconds > 0 else None


NO_USAGE: Final = Usage()


@value(frozen=True, slots=True)
class Attempt:
    """One place that was tried."""

    node: NodeId
    result: Result
    detail: str = ""


@value(frozen=True, slots=True)
class Outcome:
    """The end of the request as its caller saw it. Times in seconds since the request was read.

    The names of the model and the node are as somebody outside wrote them.
    """

    request_id: RequestId
    route: str
    model: str
    node: str
    """Who answered; empty for nobody."""
    status: int
    result: Result
    attempts: tuple[Attempt, ...]
    first_byte_s: float | None
    total_s: float
    tokens: int = 0
    """Those of the answer."""
