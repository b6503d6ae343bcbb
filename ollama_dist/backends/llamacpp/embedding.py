"""Texts into vectors, those that are too long cut first where that is wanted.

Source: Ollama's ``server/routes.go`` (``EmbedHandler``).
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from ollama_dist.backends.llamacpp.client import RunnerClient
from ollama_dist.backends.llamacpp.errors import RunnerRefused
from ollama_dist.backends.llamacpp.folder import Installed
from ollama_dist.backends.llamacpp.inference import Inference
from ollama_dist.backends.llamacpp.supervisor import Lease
from ollama_dist.core.errors import BadRequest, UpstreamFailed
from ollama_dist.wire.failures import error_text
from ollama_dist.wire.llamacpp.asks import EmbedAsk
from ollama_dist.wire.llamacpp.vectors import Vector, shortened

EMBED_TIMEOUT_S: Final = 600.0

_TOO_LONG: Final = ("too large", "context size", "context length", "physical batch size")


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of length one, in the order of the texts. Durations in nanoseconds."""

    vectors: Sequence[Vector]
    tokens: int = 0
    total_ns: int = 0
    load_ns: int = 0


class Embedding:
    """Embeds with the runners of an `Inference`."""

    def __init__(self, inference: Inference) -> None:
        self._inference = inference

    async def embed(self, model: Installed, ask: EmbedAsk) -> Embedded:
        """The vectors of what ``ask`` names; of nothing, once the model is loaded. Raises `DistError`."""
        began = time.perf_counter_ns()
        async with self._inference.embed(model, dict(ask.options), ask.keep_alive) as lease:
            load_ns = time.perf_counter_ns() - began
            if not ask.texts:
                return Embedded(())
            vectors, tokens = await _embed(lease, ask)
            shown = [shortened(vector, ask.dimensions) for vector in vectors]
            return Embedded(shown, tokens, time.perf_counter_ns() - began, load_ns)


async def _embed(lease: Lease, ask: EmbedAsk) -> tuple[list[Vector], int]:
    try:
        return await _ask(lease.client, list(ask.texts))
    except RunnerRefused as refusal:
        if not _is_too_long(refusal):
            raise _in_short(refusal) from refusal
        if not ask.truncate:
            raise BadRequest("the input length exceeds the context length") from refusal
    limit = min(lease.options.num_ctx, lease.options.num_batch)
    cut = [await _cut(lease.client, text, limit) for text in ask.texts]
    try:
        return await _ask(lease.client, cut)
    except RunnerRefused as refusal:
        raise _in_short(refusal) from refusal


async def _ask(client: RunnerClient, inputs: Sequence[str | list[int]]) -> tuple[list[Vector], int]:
    answer: Any = await client.ask("/v1/embeddings", {"input": inputs}, timeout=EMBED_TIMEOUT_S)
    try:
        rows = sorted(answer["data"], key=lambda row: row["index"])
        return [row["embedding"] for row in rows], int(answer["usage"]["prompt_tokens"])
    except (KeyError, TypeError) as error:
        raise UpstreamFailed("the runner's embeddings make no sense") from error


async def _cut(client: RunnerClient, text: str, limit: int) -> list[int]:
    """The first tokens of ``text``, and the last: models of this kind look for it at the end."""
    body = {"content": text, "add_special": True, "parse_special": True}
    tokens: list[int] = (await client.ask("/tokenize", body))["tokens"]
    return tokens if len(tokens) < limit else [*tokens[: limit - 2], tokens[-1]]


def _is_too_long(refusal: RunnerRefused) -> bool:
    text = error_text(refusal.body).lower()
    return any(words in text for words in _TOO_LONG)


def _in_short(refusal: RunnerRefused) -> RunnerRefused:
    """Ollama tells the sentence alone here, not the object it came in."""
    return RunnerRefused(refusal.http_status, error_text(refusal.body).encode())
