"""A short GET to an engine or a peer: for looking, not for relaying."""

import asyncio

from ollama_dist.backends.target import Target
from ollama_dist.core.errors import UpstreamFailed, UpstreamTimeout


async def get(target: Target, path: str, *, timeout: float, limit: int) -> tuple[int, bytes]:
    """Status and whole body, at most ``limit`` bytes, within ``timeout`` seconds in all.

    Raises `UpstreamFailed` or one of its kinds; the connection is kept for the next time only after success.
    """
    deadline = asyncio.get_running_loop().time() + timeout
    try:
        async with asyncio.timeout_at(deadline):
            connection, head = await target.open("GET", path, (), b"", head_timeout=timeout)
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
    return head.status, b"".join(parts)
