"""Having an engine bring a model into memory, or let it go: a request without a prompt, for Ollama."""

from typing import Any, Final

import orjson

from ollama_dist.backends.fetch import fetch
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import Busy, DistError
from ollama_dist.core.names import ModelName

LOAD_S: Final = 900.0
"""For a model to come into memory: the largest from a slow disk."""

UNLOAD_S: Final = 30.0
ANSWER_LIMIT: Final = 2**20


class LoadFailed(DistError):
    """The engine does not bring it into memory; its own words."""

    status = 502
    code = "load_failed"


async def load(engine: Target, name: ModelName, context_tokens: int | None = None) -> None:
    """Returns when it is in memory. Raises `LoadFailed`, `Busy` and `UpstreamFailed`."""
    options = {"options": {"num_ctx": context_tokens}} if context_tokens else {}
    await _ask(engine, {"model": name.short, **options}, LOAD_S)


async def unload(engine: Target, name: ModelName) -> None:
    """It goes once what runs with it is over. Raises as `load`."""
    await _ask(engine, {"model": name.short, "keep_alive": 0}, UNLOAD_S)


async def _ask(engine: Target, asked: dict[str, Any], timeout: float) -> None:
    status, said = await _post(engine, "/api/generate", {**asked, "stream": False}, timeout)
    if status == 400:  # it makes embeddings, and nothing else
        status, said = await _post(engine, "/api/embed", {**asked, "input": ""}, timeout)
    if status == 503:
        raise Busy(said)
    if status != 200:
        raise LoadFailed(f"the engine answered {status}: {said}")


async def _post(engine: Target, path: str, document: dict[str, Any], timeout: float) -> tuple[int, str]:
    body = orjson.dumps(document)
    headers = [("Content-Type", "application/json")]
    answer = await fetch(
        engine, "POST", path, headers=headers, body=body, timeout=timeout, limit=ANSWER_LIMIT
    )
    try:
        said = orjson.loads(answer.body).get("error", "")
    except (orjson.JSONDecodeError, AttributeError):
        said = answer.body.decode("utf-8", "replace")
    return answer.status, str(said)[:300]
