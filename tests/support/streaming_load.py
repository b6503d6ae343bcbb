"""Clients that stream without pause from every node, and all that went wrong for them."""

import asyncio
import json
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Final, Self

import aiohttp

from tests.support.real_nodes import RealNode
from tests.support.wait import until

CHAT: Final[dict[str, Any]] = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "hello"}],
    "stream": True,
}


class StreamingLoad:
    """``clients`` at each of ``nodes``; leave the block to end it, then look at `failures`."""

    def __init__(self, nodes: Iterable[RealNode], clients: int = 2) -> None:
        self._nodes = [node for node in nodes for _ in range(clients)]
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self.answered = 0
        self.served_by: set[str] = set()
        self.failures: list[str] = []

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask_again(node)) for node in self._nodes]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        await asyncio.gather(*self._tasks)

    async def more(self, count: int, seconds: float = 20.0) -> None:
        """Until so many more requests were answered."""
        wanted = self.answered + len(self.failures) + count
        await until(
            lambda: self.answered + len(self.failures) >= wanted,
            seconds=seconds,
            what=f"{count} more answers",
        )

    async def _ask_again(self, node: RealNode) -> None:
        async with aiohttp.ClientSession() as session:
            while not self._is_over:
                try:
                    await self._ask(session, node)
                except (aiohttp.ClientError, TimeoutError, ValueError, AssertionError) as error:
                    self.failures.append(f"{node.name}: {error!r}")
                    await asyncio.sleep(0.05)

    async def _ask(self, session: aiohttp.ClientSession, node: RealNode) -> None:
        async with asyncio.timeout(30), session.post(f"{node.url}/api/chat", json=CHAT) as answer:
            body = await answer.read()
            assert answer.status == 200, body
            assert json.loads(body.splitlines()[-1])["done"], body
            self.served_by.add(answer.headers["X-Ollama-Node"])
            self.answered += 1
