"""How long a request would take at a node: the wait, the load, the first token, the whole answer. Pure."""

from functools import lru_cache
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.requests import GENERATE, InferenceRequest, Priority, RunnerOption
from ollama_dist.core.values import value
from ollama_dist.core.view import LoadedModel, NodeView
from ollama_dist.scheduling.decision import Candidate
from ollama_dist.scheduling.rates import Rates, guess, prefill

BYTES_PER_TOKEN: Final = 4.0

GPU_SHARING: Final = 0.09
CPU_SHARING: Final = 0.7
"""How much slower each request gets with every other that is answered at the same time."""

UNKNOWN_RTT_S: Final = 0.001

FIRST_TOKEN_WEIGHT: Final = {Priority.INTERACTIVE: 0.8, Priority.NORMAL: 0.5, Priority.BATCH: 0.0}
"""How much the first token counts against the whole answer in the one figure candidates are compared by."""


@value(frozen=True, slots=True)
class Holding:
    """What of an estimate follows from the picture alone, to be worked out once for each picture."""

    node: NodeView
    key: ModelKey
    is_self: bool
    size: int
    slots: int
    sharing: float
    prefill_bytes: float
    """Bytes of a prompt read in the time one token is written."""
    place: tuple[NodeId, ModelKey]
    guess: float
    """See `rates.guess`."""
    loaded: LoadedModel | None

    @classmethod
    def of(cls, key: ModelKey, node: NodeView, *, is_self: bool) -> "Holding":
        size = node.models[key].size
        return cls(
            node,
            key,
            is_self,
            size,
            slots=max(1, node.load.slots),
            sharing=GPU_SHARING if node.resources.gpus else CPU_SHARING,
            prefill_bytes=prefill(node, BYTES_PER_TOKEN),
            place=(node.id, key),
            guess=guess(node, size),
            loaded=in_memory(key, node),
        )


def estimate(request: InferenceRequest, holding: Holding, ahead: int, rates: Rates) -> Candidate:
    """What ``request`` would meet at a node, where ``ahead`` requests are already.

    Every figure is an expectation in seconds, never a promise.
    """
    slots, loaded = holding.slots, holding.loaded
    decode = alone = rates.measured(holding.place) or holding.guess
    readiness, wait_s, load_s = "loaded", 0.0, 0.0
    if ahead:
        decode /= 1 + holding.sharing * min(ahead, slots - 1)
        if ahead >= slots:
            wait_s = (ahead - slots + 1) * rates.output_tokens(holding.key, None) / decode / slots
    if loaded is None:
        readiness, load_s = "cold", rates.load_s(holding.node, holding.size)
    elif (loaded.options or request.runner_options) and not fits(request.runner_options, loaded):
        # An engine lets all that is under way end before it reloads.
        wait_s = ahead * rates.output_tokens(holding.key, None) / decode / slots
        readiness = "loaded with other options"
        load_s = rates.load_s(holding.node, holding.size) + wait_s
    prompt_s = request.prompt_bytes / (alone * holding.prefill_bytes)
    first = max(wait_s, load_s) + prompt_s
    if not holding.is_self:
        first += holding.node.rtt_s or UNKNOWN_RTT_S
    reason = _reason(readiness, ahead, round(decode))
    node = holding.node.id
    if request.intent is not GENERATE:
        return Candidate(node, first, wait_s, load_s, first, first, reason, prompt_s)
    tokens = rates.output_tokens(holding.key, request.max_tokens)
    rest = tokens / decode
    score = first + (1 - FIRST_TOKEN_WEIGHT[request.priority]) * rest
    return Candidate(node, score, wait_s, load_s, first, first + rest, reason, prompt_s + tokens / alone)


@lru_cache(maxsize=256)
def _reason(readiness: str, ahead: int, tokens_per_s: int) -> str:
    """For people; the same few come again and again."""
    return f"{readiness}, {ahead} ahead, {tokens_per_s} tok/s"


def service_s(request: InferenceRequest, key: ModelKey, node: NodeView, rates: Rates) -> float:
    """How long ``request`` would keep a slot of ``node``, seconds."""
    decode = rates.decode(node, key, node.models[key].size if key in node.models else 0)
    prompt_s = request.prompt_bytes / BYTES_PER_TOKEN / prefill(node, decode)
    if request.intent is not GENERATE:
        return prompt_s
    return prompt_s + rates.output_tokens(key, request.max_tokens) / decode


def loaded_as_asked(request: InferenceRequest, key: ModelKey, node: NodeView) -> LoadedModel | None:
    """The model in the node's memory, unless the request's options would make the engine load it anew."""
    loaded = in_memory(key, node)
    return loaded if loaded is not None and fits(request.runner_options, loaded) else None


def in_memory(key: ModelKey, node: NodeView) -> LoadedModel | None:
    """The model in the node's memory, with whatever options.

    An engine lists what runs by the name that caused the load: another name of the same content counts too.
    """
    loaded = node.loaded.get(key)
    if loaded is None and key in node.models:
        digest = node.models[key].digest
        loaded = next((other for other in node.loaded.values() if other.digest == digest), None)
    return loaded


def fits(asked: tuple[RunnerOption, ...], loaded: LoadedModel) -> bool:
    """Whether an engine would answer with the model as it is: its ``needsReload`` (``server/sched.go``)."""
    if not asked and not loaded.options:
        return True
    wanted = {option.name: option.value for option in asked}
    context = wanted.pop("num_ctx", None)
    if loaded.options is None:  # somebody else had it loaded: engines tell no more than its context
        return context is None or context == (loaded.context_length or context)
    had = {option.name: option.value for option in loaded.options}
    had_context = had.pop("num_ctx", None)
    # An engine cuts the context to what the model was trained with, and tells what is left.
    return wanted == had and (context == had_context or (context or 0) == (loaded.context_length or -1))
