"""What one member says of itself that changes seldom: numbered entries, exchanged without gaps (scuttlebutt).

Only its owner writes. Every write takes the next version, so "all up to 17" is one number, and what somebody
lacks is a range. Deletions are remembered for a while as entries without a value; who is so far behind that
one was forgotten starts from the beginning.
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from ollama_dist.gossip.protocol.messages import ColdDelta, ColdEntry

ENTRY_OVERHEAD = 12
"""Bytes an entry takes beside its key and value."""


class ColdState:
    """The entries of one member in one generation."""

    __slots__ = ("_entries", "_view", "gc", "size", "version")

    def __init__(self) -> None:
        self.version = 0
        """The highest version known; everything up to it is."""
        self.gc = 0
        """Deletions up to this version are forgotten."""
        self._entries: dict[str, ColdEntry] = {}
        self.size = 0
        """Bytes of keys and values."""
        self._view: Mapping[str, bytes] | None = None

    def __len__(self) -> int:
        return sum(entry.value is not None for entry in self._entries.values())

    def view(self) -> Mapping[str, bytes]:
        """Keys and values as they are now; the same object until something changes."""
        if self._view is None:
            present = {key: entry.value for key, entry in self._entries.items() if entry.value is not None}
            self._view = MappingProxyType(present)
        return self._view

    def entries(self) -> Iterable[ColdEntry]:
        """All entries, remembered deletions among them."""
        return self._entries.values()

    def get(self, key: str) -> bytes | None:
        entry = self._entries.get(key)
        return entry.value if entry is not None else None

    # The owner's side

    def set(self, key: str, value: bytes) -> bool:
        """Write; False when the value is the same already."""
        known = self._entries.get(key)
        if known is not None and known.value == value:
            return False
        self._put(ColdEntry(key, self.version + 1, value))
        return True

    def delete(self, key: str, tombstones_max: int) -> bool:
        """Delete; False if there is nothing to. All but the last ``tombstones_max`` are forgotten."""
        known = self._entries.get(key)
        if known is None or known.value is None:
            return False
        self._put(ColdEntry(key, self.version + 1, None))
        deletions = sorted(
            (entry for entry in self._entries.values() if entry.value is None),
            key=lambda entry: entry.version,
        )
        for entry in deletions[: max(0, len(deletions) - tombstones_max)]:
            self.gc = entry.version
            self._drop(entry.key)
        return True

    # The readers' side

    def delta_for(self, version: int, gc: int, budget: int) -> ColdDelta | None:
        """What a reader at ``version`` and ``gc`` lacks, cut at about ``budget`` bytes.

        None when it lacks nothing, or when not even one entry fits.
        """
        start = 0 if version < self.gc and gc < self.gc else version
        missing = [entry for entry in self._entries.values() if entry.version > start]
        missing.sort(key=lambda entry: entry.version)
        chosen: list[ColdEntry] = []
        for entry in missing:
            budget -= _size(entry)
            if budget < 0:
                break
            chosen.append(entry)
        if len(chosen) == len(missing):
            end = self.version
        elif chosen:
            end = chosen[-1].version
        else:
            return None
        return ColdDelta(start, end, self.gc, tuple(chosen)) if (self.gc, end) > (gc, version) else None

    def fits(self, delta: ColdDelta) -> bool:
        """Whether ``delta`` brings something new and leaves no gap."""
        is_newer = (delta.gc, delta.end) > (self.gc, self.version)
        return is_newer and (delta.start <= self.version or self._is_reset(delta))

    def apply(self, delta: ColdDelta) -> bool:
        """Take in what `fits`; False, and nothing changes, when it does not."""
        if not self.fits(delta):
            return False
        self._view = None
        if self._is_reset(delta):
            self._entries.clear()
            self.size = self.version = 0
        for entry in delta.entries:
            if entry.version > self.version:
                self._drop(entry.key)
                self._entries[entry.key] = entry
                self.size += _size(entry)
        self.version = delta.end
        self.gc = delta.gc
        for key in [k for k, e in self._entries.items() if e.value is None and e.version <= self.gc]:
            self._drop(key)
        return True

    def _is_reset(self, delta: ColdDelta) -> bool:
        """Deletions this reader never heard of are forgotten already: what it has cannot be trusted."""
        return delta.start == 0 and self.version < delta.gc and self.gc < delta.gc

    def _put(self, entry: ColdEntry) -> None:
        self._view = None
        self._drop(entry.key)
        self._entries[entry.key] = entry
        self.size += _size(entry)
        self.version = entry.version

    def _drop(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= _size(entry)


def _size(entry: ColdEntry) -> int:
    return ENTRY_OVERHEAD + len(entry.key) + len(entry.value or b"")
