"""Records that all members share without a master: each kept by everybody, the newest version wins. Pure.

A version is a counter and who wrote it; the higher pair wins, so all end with the same, in whatever order
they hear. A deleted record stays as one without a value, or whoever was away would bring it back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

import msgpack

from ollama_dist.core.errors import BadRequest
from ollama_dist.core.ids import NodeId, is_node_id

PREFIX: Final = "r:"
"""Of their keys in what a member says of itself."""

RECORDS_MAX: Final = 128
"""Of one kind, deleted ones included."""

VALUE_MAX: Final = 2_000
"""Bytes of a packed record."""

COUNTER_MAX: Final = 2**53

KINDS: Final = frozenset({"policy", "deletion"})


@dataclass(frozen=True, slots=True)
class Record:
    kind: str
    name: str
    counter: int
    author: NodeId
    value: Mapping[str, Any] | None = field(default=None, hash=False)
    """None: deleted."""

    @property
    def version(self) -> tuple[int, str]:
        return self.counter, self.author

    @property
    def key(self) -> str:
        return f"{PREFIX}{sha256(f'{self.kind} {self.name}'.encode()).hexdigest()[:16]}"


class Records:
    """All that this node knows of. It changes by `write` and `hear`."""

    def __init__(self, known: Iterable[Record] = ()) -> None:
        self._records: dict[tuple[str, str], Record] = {}
        self.hear(known)

    def of(self, kind: str) -> list[Record]:
        """Those that are not deleted, by name."""
        found = [each for each in self._records.values() if each.kind == kind and each.value is not None]
        return sorted(found, key=lambda each: each.name)

    def get(self, kind: str, name: str) -> Record | None:
        """None where there is none, or it was deleted."""
        found = self._records.get((kind, name))
        return found if found is not None and found.value is not None else None

    def write(self, kind: str, name: str, value: Mapping[str, Any] | None, author: NodeId) -> Record:
        """The next version. Raises `BadRequest` where there are too many, or it is too large."""
        known = self._records.get((kind, name))
        record = Record(kind, name, known.counter + 1 if known else 1, author, value)
        if len(pack(record)) > VALUE_MAX:
            raise BadRequest(f"that is too long to be told to every node: {VALUE_MAX} bytes are the most")
        if known is None and not self._has_room(kind) and not self._drop_deleted(kind):
            raise BadRequest(f"there are {RECORDS_MAX} already; delete some")
        self._records[kind, name] = record
        return record

    def hear(self, told: Iterable[Record]) -> bool:
        """Take over what is newer; whether anything was."""
        changed = False
        for record in told:
            known = self._records.get((record.kind, record.name))
            if known is None and not self._has_room(record.kind):
                continue
            if known is None or record.version > known.version:
                self._records[record.kind, record.name] = record
                changed = True
        return changed

    def forget(self, kind: str, names: Iterable[str]) -> bool:
        """Drop records that nobody needs any more, without a trace; whether there were any."""
        gone = [self._records.pop((kind, name), None) for name in list(names)]
        return any(record is not None for record in gone)

    def all(self) -> list[Record]:
        return list(self._records.values())

    def entries(self) -> dict[str, bytes]:
        """As a member tells them."""
        return {record.key: pack(record) for record in self._records.values()}

    def _drop_deleted(self, kind: str) -> bool:
        """Make room by forgetting that a record was deleted; whether there was such a one."""
        deleted = [key for key, each in self._records.items() if each.kind == kind and each.value is None]
        if deleted:
            del self._records[min(deleted)]
        return bool(deleted)

    def _has_room(self, kind: str) -> bool:
        return sum(each.kind == kind for each in self._records.values()) < RECORDS_MAX


def pack(record: Record) -> bytes:
    value = None if record.value is None else dict(record.value)
    packed: bytes = msgpack.packb([record.kind, record.name, record.counter, record.author, value])
    return packed


def told_by(entries: Mapping[str, bytes]) -> list[Record]:
    """The records in what a member says of itself; what makes no sense is left out."""
    found = [unpack(data) for key, data in entries.items() if key.startswith(PREFIX)]
    return [record for record in found if record is not None]


def unpack(data: bytes) -> Record | None:
    if len(data) > VALUE_MAX:
        return None
    try:
        said = msgpack.unpackb(data, strict_map_key=True)
        kind, name, counter, author, value = said
    except (ValueError, TypeError, msgpack.UnpackException):
        return None
    if kind not in KINDS or not isinstance(name, str) or not isinstance(value, dict | None):
        return None
    if not isinstance(counter, int) or not 0 < counter < COUNTER_MAX or not is_node_id(str(author)):
        return None
    return Record(kind, name, counter, NodeId(author), value)
