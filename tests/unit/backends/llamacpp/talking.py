"""A client that sees how an answer ends."""

import json
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import aiohttp

DEADLINE_S = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes
    is_clean: bool
    """It ended as its framing had announced."""

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.body.splitlines() if line]

    @property
    def text(self) -> str:
        """What the model said, of a stream of ``/api/generate``."""
        return "".join(line.get("response", "") for line in self.lines)


class Talker:
    def __init__(self, host: str, port: int) -> None:
        self.url = f"http://{host}:{port}"

    async def __aenter__(self) -> "Talker":
        timeout = aiohttp.ClientTimeout(total=DEADLINE_S)
        self.session = aiohttp.ClientSession(timeout=timeout)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.session.close()

    async def get(self, path: str, **headers: str) -> Answer:
        async with self.session.get(self.url + path, headers=headers) as response:
            return await _taken(response)

    async def post(self, path: str, body: Any = None, **fields: Any) -> Answer:
        data = body if isinstance(body, bytes) else json.dumps(fields).encode()
        async with self.session.post(self.url + path, data=data) as response:
            return await _taken(response)

    async def loaded(self) -> list[str]:
        """The models in memory."""
        return [row["name"] for row in (await self.get("/api/ps")).json["models"]]


async def _taken(response: aiohttp.ClientResponse) -> Answer:
    body, is_clean = await read_on(response)
    return Answer(response.status, response.headers.get("Content-Type", ""), body, is_clean)


async def read_on(response: aiohttp.ClientResponse) -> tuple[bytes, bool]:
    """What is left of the body, and whether it ended as its framing had announced."""
    body = b""
    try:
        while part := await response.content.readany():
            body += part
    except aiohttp.ClientPayloadError:
        return body, False
    return body, True
