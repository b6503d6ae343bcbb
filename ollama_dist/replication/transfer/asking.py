"""What one member is asked about models: a manifest, the hashes of pieces, whether a blob is right."""

from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import orjson

from ollama_dist.backends.fetch import fetch
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import BadRequest, UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId, parse_node_id
from ollama_dist.core.names import ModelName
from ollama_dist.replication.disk.pieces import HASH_BYTES
from ollama_dist.replication.manifest import MANIFEST_LIMIT, Manifest, read_manifest

MANIFEST_S: Final = 3.0
LIST_S: Final = 5.0
CHECK_S: Final = 600.0
"""For reading a whole blob at its source."""

LINE_S: Final = 2.0
LINE_LIMIT: Final = 64 * 1024

LACKS: Final = (404, 410, 416)
"""Statuses of a source that does not have what it was asked for, or has it wrong."""

Reach = Callable[[NodeId], Target | None]
"""Where a member is asked; None where that is not known now."""


class Lacking(UpstreamFailed):
    """The source does not have it, or has it wrong."""


def reached(reach: Reach, node: NodeId) -> Target:
    """Raises `UpstreamFailed` where that is not known now."""
    target = reach(node)
    if target is None:
        raise UpstreamFailed("it cannot be reached")
    return target


def refusal(status: int, said: str = "") -> UpstreamFailed:
    """What it means that a source answered so."""
    kind = Lacking if status in LACKS else UpstreamFailed
    return kind(f"it answered {status}{said and f': {said}'}")


async def ask_manifest(target: Target, name: ModelName) -> Manifest:
    """Raises `Lacking`, another `UpstreamFailed` or `BadManifest`."""
    path = f"/replication/manifest?model={quote(name.full, safe='')}"
    answer = await fetch(target, "GET", path, timeout=MANIFEST_S, limit=MANIFEST_LIMIT)
    if answer.status != 200:
        raise refusal(answer.status, _said(answer.body))
    return read_manifest(answer.body)


async def ask_hashes(target: Target, digest: Digest, first: int, stop: int) -> list[bytes]:
    """Of the pieces ``first`` to ``stop`` (excluded) of a blob; raises `Lacking` or `UpstreamFailed`."""
    wanted = (stop - first) * HASH_BYTES
    headers = [("Range", f"bytes={first * HASH_BYTES}-{stop * HASH_BYTES - 1}")]
    path = f"/replication/pieces/sha256:{digest}"
    answer = await fetch(target, "GET", path, headers=headers, timeout=LIST_S, limit=wanted)
    if answer.status != 206:
        raise refusal(answer.status)
    if len(answer.body) != wanted:
        raise UpstreamFailed("its list of pieces has another length than it should")
    return [answer.body[at : at + HASH_BYTES] for at in range(0, wanted, HASH_BYTES)]


async def ask_line(target: Target, digest: Digest, me: NodeId, since_ms: int) -> list[tuple[int, NodeId]]:
    """Tell that this node takes a blob; who else does and began before. Raises `UpstreamFailed`."""
    path = f"/replication/lines/sha256:{digest}?node={me}&since={since_ms}"
    answer = await fetch(target, "POST", path, timeout=LINE_S, limit=LINE_LIMIT)
    if answer.status != 200:
        raise refusal(answer.status, _said(answer.body))
    try:
        ahead = orjson.loads(answer.body)["ahead"]
        return [(int(since), parse_node_id(node)) for since, node in ahead]
    except (orjson.JSONDecodeError, KeyError, TypeError, ValueError, BadRequest):
        raise UpstreamFailed("it does not say who stands in line") from None


async def ask_check(target: Target, digest: Digest) -> bool:
    """Whether the source, having read all of a blob, says that it is right; raises `UpstreamFailed`."""
    path = f"/replication/checks/sha256:{digest}"
    answer = await fetch(target, "POST", path, timeout=CHECK_S, limit=4096)
    try:
        return answer.status == 200 and orjson.loads(answer.body).get("right") is True
    except (orjson.JSONDecodeError, AttributeError):
        raise UpstreamFailed("it does not say whether its blob is right") from None


def _said(body: bytes) -> str:
    """What a node says in our own form of errors."""
    try:
        return str(orjson.loads(body)["error"])[:200]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return ""
