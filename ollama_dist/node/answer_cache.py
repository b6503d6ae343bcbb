"""Answers kept for when nobody can give them: bounded in bytes and in age, and nobody else's but the asker's.

Never the first choice: a kept answer is given only where the alternative is an error that will pass.
"""

import hashlib
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, NewType

from ollama_dist.core.names import ModelKey
from ollama_dist.core.requests import InferenceRequest

Question = NewType("Question", str)
"""Everything an answer depends on, and who asked, as a SHA-256 in hex."""

LARGEST: Final = 2**20
"""Bytes of the longest answer that is kept."""


@dataclass(frozen=True, slots=True)
class Asking:
    """A request whose answer may be kept, and may be a kept one."""

    tenant: str
    """Who asks: answers of one are never another's."""
    canonical: bytes
    """See `wire.canonical`."""

    def about(self, request: InferenceRequest, digest: str) -> Question:
        """``digest`` is of the model that is to answer: a new one under an old name answers anew."""
        parts = (self.tenant, request.route, request.model or "", digest)
        return Question(hashlib.sha256(b"\0".join([*map(str.encode, parts), self.canonical])).hexdigest())


@dataclass(frozen=True, slots=True)
class Kept:
    """A complete answer that ended well."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    model: ModelKey | None
    at: float
    """When, by the cache's clock."""


class AnswerCache:
    """The answers used last, at most ``max_bytes`` of them, none older than ``max_age_s`` seconds."""

    def __init__(self, max_bytes: int, max_age_s: float) -> None:
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._kept: OrderedDict[Question, Kept] = OrderedDict()
        self._bytes = 0
        self.stored = 0
        self.served = 0

    def put(self, question: Question, kept: Kept) -> None:
        self._drop(question)
        if len(kept.body) > min(LARGEST, self._max_bytes):
            return
        self._kept[question] = kept
        self._bytes += len(kept.body)
        self.stored += 1
        while self._bytes > self._max_bytes:
            self._drop(next(iter(self._kept)))

    def get(self, question: Question, now: float) -> Kept | None:
        kept = self._kept.get(question)
        if kept is None:
            return None
        if now - kept.at > self._max_age_s:
            self._drop(question)
            return None
        self._kept.move_to_end(question)
        self.served += 1
        return kept

    def render(self) -> dict[str, Any]:
        return {
            "entries": len(self._kept),
            "bytes": self._bytes,
            "stored": self.stored,
            "served": self.served,
        }

    def _drop(self, question: Question) -> None:
        if (kept := self._kept.pop(question, None)) is not None:
            self._bytes -= len(kept.body)
