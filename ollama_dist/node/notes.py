"""What is learned of requests: how fast places are, which of them fail, and what people ask about later."""

import time
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import structlog

from ollama_dist.core.errors import DistError
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.outcomes import NO_USAGE, OK, Attempt, Outcome, Result, Usage
from ollama_dist.core.requests import EMBED, GENERATE, UNLOAD, InferenceRequest
from ollama_dist.core.view import ClusterView, NodeView
from ollama_dist.node.answers import AttemptFailed
from ollama_dist.node.load import EngineLoad
from ollama_dist.node.loads import Loads
from ollama_dist.node.logs import log_request
from ollama_dist.node.served import Served
from ollama_dist.node.stats import Stats
from ollama_dist.scheduling.breaker import Breakers
from ollama_dist.scheduling.decision import Decision, DecisionLog, Record
from ollama_dist.scheduling.rates import Rates

log = structlog.get_logger()

CLIENT_LEFT: Final = 499
"""What is noted as the status when nobody was left to be answered."""


Asked = Callable[[ModelKey, float, float], None]
"""Hears of each request from a client: its model, how long it was expected to wait for others, and when."""


class Notes:
    """Takes down what was decided, what failed and how each request ended."""

    def __init__(
        self,
        load: EngineLoad,
        loads: Loads,
        clock: Callable[[], float],
        asked: Asked,
    ) -> None:
        self._load = load
        self._loads = loads
        self._clock = clock
        self._asked = asked
        self.rates = Rates()
        self.breakers = Breakers()
        self.decisions = DecisionLog()
        self.stats = Stats()

    def decided(self, served: Served, decision: Decision, view: ClusterView) -> None:
        """Where the request goes first."""
        request = served.request
        served.decision = decision
        served.record = Record(
            request.id, time.time(), request.model_text, request.route, decision, view.names
        )
        self.decisions.add(served.record)

    def failed(self, served: Served, node: NodeView, failed: AttemptFailed) -> None:
        """One place gave no answer."""
        self.breakers.end(node.id, failed.result, self._clock())
        served.attempts.append(Attempt(node.id, failed.result, str(failed)))
        log.info("attempt_failed", node=node.name, result=failed.result, detail=str(failed))

    def ended(self, served: Served, error: BaseException | None) -> None:
        """The request is over; ``error`` is what ended it, if something did."""
        request, node, answer, now = served.request, served.node, served.answer, self._clock()
        result, attempts = served.result(is_read=error is None), tuple(served.attempts)
        if answer is None:
            status, tokens = error.status if isinstance(error, DistError) else CLIENT_LEFT, 0
        else:
            status, tokens = answer.status, answer.usage.output_tokens
            if node is not None and not served.is_refusal:
                self.breakers.end(node.id, result, now)
                attempts += _only(node.id, result)
                if result is OK:
                    self.learn(node, request, answer.usage, is_own=served.waited is not None)
        outcome = Outcome(
            request.id,
            request.route,
            request.model_text,
            "" if node is None else node.name,
            status,
            result,
            attempts,
            served.first_byte_s,
            now - served.began,
            tokens,
        )
        if served.record is not None:
            served.record.outcome = outcome
        if request.model is not None and request.intent in _WORK:
            expected = served.decision.expected if served.decision is not None else None
            self._asked(request.model, expected.wait_s if expected is not None else 0.0, now)
        self.stats.count(outcome, is_fallback=served.fallback_reason != "")
        log_request(outcome)

    def learn(self, node: NodeView, request: InferenceRequest, usage: Usage, *, is_own: bool) -> None:
        """An answer of ``node`` ended well; ``is_own`` is whether this node's engine gave it."""
        model = request.model
        if model is not None and usage is not NO_USAGE:
            self.rates.learn(node, model, usage)
        if is_own:
            if usage.output_tokens:
                self._load.learn(usage)
            if request.intent is not UNLOAD:
                self._loads.note(request)

    def forget(self, node: NodeId) -> None:
        """Drop what was learned of a node that is gone for good."""
        self.rates.forget(node)
        self.breakers.reset(node)


@lru_cache(maxsize=256)
def _only(node: NodeId, result: Result) -> tuple[Attempt, ...]:
    """One attempt of which no more is to be said: nearly all are alike."""
    return (Attempt(node, result),)


_WORK: Final = (GENERATE, EMBED)
