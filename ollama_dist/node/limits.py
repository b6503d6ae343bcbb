"""How long the phases of a request may take. Pure.

There is no limit on a whole request: a long answer is not a broken one. What is bounded is silence.
"""

from typing import Final

from ollama_dist.core.requests import GENERATE, InferenceRequest

FIRST_BYTE_S: Final = 300.0
"""Waiting, loading and reading a short prompt; a cold 70B model from a slow disk takes minutes."""

LOAD_S: Final = 300.0
"""For a model to come into memory."""

LONGEST_WAIT_S: Final = 240.0
"""Nobody waits longer for a slot: then the caller is told, and may ask elsewhere or later."""

OWNER_S: Final = LONGEST_WAIT_S + LOAD_S
"""What a peer may need before its engine begins. Should it die meanwhile, gossip tells much sooner."""

SLOWEST_PREFILL_BYTES_PER_S: Final = 40.0
"""About ten tokens a second: below that a prompt is not being read, it is stuck."""

SLOWEST_DECODE_TOKENS_PER_S: Final = 1.0

LONGEST_SILENT_ANSWER_S: Final = 3600.0
"""An answer that is not streamed comes all at once, at its end."""

SILENCE_S: Final = 60.0
"""Between two chunks of a stream."""

GATHERING_SILENCE_S: Final = 300.0
"""The same where the engine holds text back until it is whole: a tool call, for one."""


def first_byte_s(request: InferenceRequest) -> float:
    """Seconds until the first byte of an answer must be there."""
    limit = FIRST_BYTE_S + request.prompt_bytes / SLOWEST_PREFILL_BYTES_PER_S
    if request.stream or request.intent is not GENERATE:
        return limit
    tokens = request.max_tokens
    if tokens is None or tokens < 0:
        return limit + LONGEST_SILENT_ANSWER_S
    return limit + min(tokens / SLOWEST_DECODE_TOKENS_PER_S, LONGEST_SILENT_ANSWER_S)


def silence_s(request: InferenceRequest) -> float:
    """Seconds that may pass between two chunks of a stream."""
    return GATHERING_SILENCE_S if request.gathers else SILENCE_S
