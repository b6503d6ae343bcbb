"""How many copies of a model there are to be, and which nodes keep one whatever happens. Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ollama_dist.core.contexts import is_meant
from ollama_dist.core.errors import BadRequest
from ollama_dist.core.ids import NodeId, is_node_id
from ollama_dist.core.names import ModelKey
from ollama_dist.replication.moves.records import Record

KIND: Final = "policy"
COPIES_MAX: Final = 1024

_PATTERN: Final = re.compile(r"[A-Za-z0-9_*?./:-]{1,400}")


@dataclass(frozen=True, slots=True)
class Policy:
    """For the models whose name ``pattern`` means."""

    pattern: str
    min: int = 1
    max: int | None = None
    """None: as many as there are."""
    pinned: tuple[NodeId, ...] = ()

    def value(self) -> dict[str, Any]:
        """As a record carries it."""
        return {"min": self.min, "max": self.max, "pinned": list(self.pinned)}


def check_pattern(pattern: str) -> str:
    """The name under which its record is kept; raises `BadRequest`."""
    if not _PATTERN.fullmatch(pattern):
        raise BadRequest(f"{pattern[:80]!r} is no model's name, with * and ? for anything")
    return pattern.casefold()


def policies_of(records: Iterable[Record]) -> tuple[Policy, ...]:
    """The policies in ``records``; what makes no sense is left out."""
    read = [_policy(record.name, record.value or {}) for record in records]
    return tuple(policy for policy in read if policy is not None)


def policy_for(policies: Sequence[Policy], model: ModelKey) -> Policy | None:
    """The one that counts: a name without * and ? before patterns, a longer pattern before a shorter."""
    meant = [policy for policy in policies if is_meant(policy.pattern, model)]
    return max(meant, key=_weight, default=None)


def _weight(policy: Policy) -> tuple[bool, int, str]:
    return not set("*?") & set(policy.pattern), len(policy.pattern), policy.pattern


def _policy(pattern: str, value: Mapping[str, Any]) -> Policy | None:
    least, most, pinned = value.get("min"), value.get("max"), value.get("pinned")
    if not isinstance(least, int) or not 0 <= least <= COPIES_MAX or not isinstance(pinned, list):
        return None
    if most is not None and not (isinstance(most, int) and max(least, 1) <= most <= COPIES_MAX):
        return None
    nodes = tuple(NodeId(node) for node in pinned if isinstance(node, str) and is_node_id(node))
    return Policy(pattern, least, most, nodes)
