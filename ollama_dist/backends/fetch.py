"""A short exchange with an engine or a peer, read whole: for looking and for telling, not for relaying."""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from ollama_dist.backends.http1 import Header
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import UpstreamFailed, UpstreamTimeout


class Fetched(NamedTuple):
    """A whole answer; names of headers in lower case."""

    status: int
    headers: tuple[Header, ...]
    body: bytes

    @property
    def content_type(self) -> str | None:
        return next((value for name, value in self.headers if name == "content-type"), None)


async def fetch(
    target: Target,
    method: str,
    path: str,
    *,
    headers: Sequence[Header] = (),
    body: bytes = b"",
    timeout: float,
    limit: int,
) -> Fetched:
    """The whole answer, its body at most ``limit`` bytes, within ``timeout`` seconds in all.

    Raises `UpstreamFailed` or one of its kinds; the connection is kept for the next time only after success.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    try:
        async with asyncio.timeout_at(deadline):
            # The one limit is that of the whole: of two that end together either might be told of.
            connection, head = await target.open(method, path, headers, body, head_timeout=2 * timeout)
            try:
                parts: list[bytes] = []
                size = 0
                while part := await connection.read(deadline):
                    parts.append(part)
                    size += len(part)
                    if size > limit:
                        raise UpstreamFailed(f"{path} answered with more than {limit} bytes")
            finally:
                target.give_back(connection)
    except TimeoutError as error:
        raise UpstreamTimeout(f"{path} took longer than {timeout} s") from error
    return Fetched(head.status, head.headers, b"".join(parts))


async def get(target: Target, path: str, *, timeout: float, limit: int) -> tuple[int, bytes]:
    """Status and whole body of a GET, as `fetch`."""
    answer = await fetch(target, "GET", path, timeout=timeout, limit=limit)
    return answer.status, answer.body
