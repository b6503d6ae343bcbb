"""What litellm does with one node: ``litellm_steps.py URL`` prints what came of each step as JSON.

Not a test by itself: it runs in an environment of its own, under litellm's own warnings.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import litellm

litellm.suppress_debug_info = True
litellm.telemetry = False

GREETING = [{"role": "user", "content": "good morning"}]


class Steps:
    """Each returns what the library said; an exception is told by its name, with what came before it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._said: list[str] = []

    async def all(self) -> dict[str, Any]:
        steps: dict[str, Callable[[], Awaitable[Any]]] = {
            "completion": self._completion,
            "streamed": lambda: self._streamed("ollama_chat/tiny"),
            "streamed_async": self._streamed_async,
            "generated": self._generated,
            "generated_streamed": lambda: self._streamed("ollama/tiny"),
            "openai": lambda: self._streamed("openai/tiny", "/v1"),
            "embedded": self._embedded,
            "unknown": lambda: self._streamed("ollama_chat/none"),
            "unknown_openai": lambda: self._streamed("openai/none", "/v1"),
            "cut": lambda: self._streamed("ollama_chat/tiny-uni"),
            "cut_openai": lambda: self._streamed("openai/tiny-uni", "/v1"),
        }
        return {name: await self._outcome(step) for name, step in steps.items()}

    async def _outcome(self, step: Callable[[], Awaitable[Any]]) -> Any:
        self._said = []
        try:
            return {"result": await step()}
        except Exception as error:
            return {"error": type(error).__name__, "message": str(error), "said": self._said}

    def _asked(self, model: str, path: str = "") -> dict[str, Any]:
        return {
            "model": model,
            "messages": GREETING,
            "api_base": self._url + path,
            "api_key": "none",
            "max_retries": 0,
        }

    async def _completion(self) -> Any:
        answer = litellm.completion(**self._asked("ollama_chat/tiny"))
        return [
            answer.choices[0].message.content,
            answer.choices[0].finish_reason,
            answer.usage.completion_tokens,
        ]

    async def _generated(self) -> Any:
        return litellm.completion(**self._asked("ollama/tiny")).choices[0].message.content

    async def _streamed(self, model: str, path: str = "") -> list[str]:
        for chunk in litellm.completion(**self._asked(model, path), stream=True):
            self._said.append(chunk.choices[0].delta.content or "")
        return self._said

    async def _streamed_async(self) -> list[str]:
        async for chunk in await litellm.acompletion(**self._asked("ollama_chat/tiny"), stream=True):
            self._said.append(chunk.choices[0].delta.content or "")
        return self._said

    async def _embedded(self) -> Any:
        made = litellm.embedding(model="ollama/tiny-embed", input=["hello", "world"], api_base=self._url)
        return [item["embedding"] for item in made.data]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Steps(sys.argv[1]).all())))
