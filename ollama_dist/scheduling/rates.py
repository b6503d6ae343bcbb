"""How fast each node is with each model, learned from answers. Pure.

Rates are averaged in log space: twice as slow is as far away as twice as fast. Until something was measured
a rate is guessed from what is known of the node, scaled by the model's size.
"""

import math
from functools import lru_cache
from typing import Final, TypeVar

from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.outcomes import Usage
from ollama_dist.core.view import NodeView

Key = TypeVar("Key")

ALPHA: Final = 0.2
"""Weight of the newest measurement."""

REFERENCE_BYTES: Final = 5e9
"""The size the priors are for: an 8B model quantised to 4 bits."""

SMALLEST_BYTES: Final = 2.5e8
"""Below that a model is not faster for being smaller: other costs outweigh."""

SIZE_EXPONENT: Final = -0.9
"""Decoding slows down a little less than in proportion to size."""

GPU_DECODE_TOKENS_PER_S: Final = 70.0
CPU_DECODE_TOKENS_PER_S: Final = 8.0

GPU_PREFILL_RATIO: Final = 35.0
CPU_PREFILL_RATIO: Final = 5.0
"""Prompt tokens read in the time one token is written.

Prefill is not learned from answers: engines count cached prompt tokens but not the time they saved, so one
prefix hit would make a node look a hundred times too fast.
"""

LOAD_BYTES_PER_S: Final = 1e9
LOAD_OVERHEAD_S: Final = 1.0

NOTABLE_LOAD_S: Final = 0.5
"""A shorter ``load_duration`` is no load: engines report a few milliseconds for a warm model."""

OUTPUT_TOKENS: Final = 200.0
"""The length of an answer nobody has seen yet."""

MAX_ENTRIES: Final = 4096
"""Pairs of node and model remembered; the longest unused goes first."""


def prefill(node: NodeView, decode: float) -> float:
    """Prompt tokens read per second where ``decode`` are written."""
    return decode * (GPU_PREFILL_RATIO if node.resources.gpus else CPU_PREFILL_RATIO)


def guess(node: NodeView, size: int) -> float:
    """Tokens one request gets per second when it runs alone, where this node has measured nothing."""
    return node.load.tokens_per_s or _guessed(bool(node.resources.gpus), size)


class Rates:
    """What has been measured, and a guess for what has not."""

    def __init__(self) -> None:
        self._decode: dict[tuple[NodeId, ModelKey], float] = {}
        self.measured = self._decode.get
        """What `decode` is of a model at a node; None where no answer has told."""
        self._load: dict[NodeId, float] = {}
        self._output: dict[ModelKey, float] = {}

    def learn(self, node: NodeView, model: ModelKey, usage: Usage) -> None:
        """Fold in an answer of ``node`` that ended well."""
        if tokens := usage.output_tokens:
            _fold(self._output, model, tokens)
            if speed := usage.tokens_per_s:
                _fold(self._decode, (node.id, model), speed)
        if usage.load_s > NOTABLE_LOAD_S and model in node.models:
            _fold(self._load, node.id, node.models[model].size / usage.load_s)

    def decode(self, node: NodeView, model: ModelKey, size: int) -> float:
        """Tokens one request gets per second when it runs alone."""
        return self.measured((node.id, model)) or guess(node, size)

    def load_s(self, node: NodeView, size: int) -> float:
        """Seconds to bring a model from disk into memory."""
        return LOAD_OVERHEAD_S + size / (self._load.get(node.id) or LOAD_BYTES_PER_S)

    def output_tokens(self, model: ModelKey, bound: int | None) -> float:
        """How long an answer is likely to be, at most ``bound`` where the caller gave one."""
        expected = self._output.get(model) or OUTPUT_TOKENS
        return min(expected, bound) if bound is not None and bound >= 0 else expected

    def forget(self, node: NodeId) -> None:
        """Drop what is known of a node that is gone for good."""
        self._load.pop(node, None)
        for key in [key for key in self._decode if key[0] == node]:
            del self._decode[key]


def _fold(table: dict[Key, float], key: Key, sample: float) -> None:
    """Fold a sample into an exponentially weighted mean of logarithms."""
    if sample > 0:
        known = table.pop(key, sample)
        table[key] = known * (sample / known) ** ALPHA  # at the end: the first is the one longest unused
        if len(table) > MAX_ENTRIES:
            del table[next(iter(table))]


@lru_cache(maxsize=256)
def _guessed(has_gpu: bool, size: int) -> float:
    prior = GPU_DECODE_TOKENS_PER_S if has_gpu else CPU_DECODE_TOKENS_PER_S
    return prior * math.pow(max(size, SMALLEST_BYTES) / REFERENCE_BYTES, SIZE_EXPONENT)
