"""Asking a member to have a model ready that it cannot read by itself: it may take as long as a copy."""

import asyncio
from typing import Final
from urllib.parse import quote

import orjson

from ollama_dist.backends.target import Target
from ollama_dist.core.errors import UpstreamFailed
from ollama_dist.core.names import ModelName

BEAT: Final = b'{"loan": "coming"}\n'
LENT: Final = b'{"loan": "here"}\n'

BEAT_S: Final = 2.0
SILENCE_S: Final = 10.0
ANSWER_LIMIT: Final = 64 * 1024


def not_lent(reason: str) -> bytes:
    return orjson.dumps({"error": reason[:1000]}) + b"\n"


async def borrow(target: Target | None, name: ModelName) -> None:
    """Wait until ``target`` can give the model; raises `UpstreamFailed` where it cannot, or falls silent."""
    if target is None:
        raise UpstreamFailed("it cannot be reached")
    path = f"/replication/loans?model={quote(name.full, safe='')}"
    connection, head = await target.open("POST", path, [], b"", head_timeout=SILENCE_S, is_fresh=True)
    try:
        if head.status != 200:
            raise UpstreamFailed(f"it lends nothing ({head.status})")
        last = b""
        while data := await connection.read(asyncio.get_running_loop().time() + SILENCE_S):
            last = (last + data)[-ANSWER_LIMIT:]
        line = last.rstrip(b"\n").rpartition(b"\n")[2]
        if line + b"\n" != LENT:
            raise UpstreamFailed(f"it lends it not: {line[:500].decode('utf-8', 'replace')}")
    finally:
        target.drop(connection)
