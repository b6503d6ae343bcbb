"""Identifiers, parsed once at the edge and trusted after."""

import re
from random import Random
from typing import NewType

from ollama_dist.core.errors import BadRequest

NodeId = NewType("NodeId", str)
"""Sixteen lowercase hex digits: the first 8 bytes of SHA-256 over the node's public key (SPKI, DER)."""

RequestId = NewType("RequestId", str)
"""Twenty-four lowercase hex digits, made by the entry node and carried to every place the request visits."""

Digest = NewType("Digest", str)
"""Sixty-four lowercase hex digits of a SHA-256, without the ``sha256:`` prefix."""

_NODE_ID = re.compile(r"[0-9a-f]{16}")
_REQUEST_ID = re.compile(r"[0-9a-f]{24}")
_DIGEST = re.compile(r"(?:sha256[:-])?([0-9a-f]{64})")


def parse_node_id(text: str) -> NodeId:
    """The node id in ``text``; raises `BadRequest` for anything else."""
    if not _NODE_ID.fullmatch(text):
        raise BadRequest(f"{text[:40]!r} is not a node id")
    return NodeId(text)


def is_node_id(text: str) -> bool:
    return _NODE_ID.fullmatch(text) is not None


def parse_digest(text: str) -> Digest:
    """The digest in ``text``, with or without ``sha256:`` or ``sha256-`` before it; raises `BadRequest`."""
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise BadRequest("invalid digest format")
    return Digest(match[1])


def is_digest(text: str) -> bool:
    """Whether ``text`` is a digest without a prefix."""
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def new_request_ids(rng: Random, count: int) -> list[RequestId]:
    digits = rng.randbytes(12 * count).hex()
    return [RequestId(digits[at : at + 24]) for at in range(0, len(digits), 24)]


def is_request_id(text: str) -> bool:
    return _REQUEST_ID.fullmatch(text) is not None
