"""Two real nodes as a client meets them: it talks to one, and the other has the models."""

import json
from collections.abc import AsyncIterable, Callable
from typing import Any, Final, TypeVar

import httpx

from tests.support.fake_ollama import Fault, Journal
from tests.support.real_nodes import RealNode, RealNodes, eventually
from tests.support.wait import until

_Part = TypeVar("_Part")

HERE: Final = "tiny-random"
"""The one model of the node that is asked."""

ELSEWHERE: Final = ("tiny", "tiny-uni", "tiny-think", "tiny-tools", "tiny-embed")

SENTENCE: Final = " The quick brown fox jumps over the lazy dog and then it goes back to sleep until morning"
"""What ``tiny`` says to everything, a word with the space before it per token."""

GREETING: Final[list[Any]] = [{"role": "user", "content": "good morning"}]
"""On no record, so that the fake makes the answer up as it comes, whatever else the client sends."""


class Pair:
    """``entry`` is asked, ``holder`` has all models but one."""

    def __init__(self, nodes: RealNodes) -> None:
        self.entry: Final[RealNode] = nodes["desk"]
        self.holder: Final[RealNode] = nodes["laptop"]

    @property
    def url(self) -> str:
        return self.entry.url

    @property
    def seen(self) -> Journal:
        """What the engine that has the models saw."""
        return self.holder.ollama.journal

    async def heal(self) -> None:
        """Forget the test before: no faults, nothing on record, and nothing held against anybody."""
        for node in (self.entry, self.holder):
            node.ollama.clear_faults()
        await eventually(self._is_served, bool, 15, "an answer of the healthy pair")
        for node in (self.entry, self.holder):
            node.ollama.journal.requests.clear()

    def fail(self, **fault: Any) -> None:
        """Switch a fault of the engine that has the models on."""
        self.holder.ollama.faults.add(Fault(**fault))

    def bodies(self, path: str) -> list[dict[str, Any]]:
        """What the engine that has the models was asked on ``path``."""
        return [json.loads(seen.body) for seen in self.seen.on(path)]

    def was_served_elsewhere(self, path: str) -> bool:
        """Whether the requests on ``path`` reached the engine of the other node, and only that."""
        return bool(self.seen.on(path)) and not self.entry.ollama.journal.on(path)

    async def until_client_left(self, path: str) -> None:
        """Until the last request on ``path`` was closed all the way to the engine."""
        await until(lambda: self.seen.on(path)[-1].end == "client left", what="the engine's being told")

    async def _is_served(self) -> bool:
        status, _, _ = await self.entry.post("/api/chat", {"model": "tiny", "messages": GREETING})
        return status == 200


class Visited:
    """Collects which node answered, from the headers of a client that is built on httpx."""

    def __init__(self) -> None:
        self.nodes: list[str] = []

    def hooks(self) -> dict[str, list[Any]]:
        return {"response": [self._note]}

    def async_hooks(self) -> dict[str, list[Any]]:
        return {"response": [self._note_async]}

    def _note(self, answer: httpx.Response) -> None:
        self.nodes.append(answer.headers.get("X-Ollama-Node", ""))

    async def _note_async(self, answer: httpx.Response) -> None:
        self._note(answer)


async def collect(said: list[str], stream: AsyncIterable[_Part], text: Callable[[_Part], str | None]) -> None:
    """Read ``stream`` to its end into ``said``, where it still is when the stream fails."""
    async for part in stream:
        said += [text(part) or ""]
