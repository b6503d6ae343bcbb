"""Tells the others what changed here: only the entries that differ from what they were told."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import structlog

from ollama_dist.node.announce import Cold, Hot, encode_cold, encode_hot

log = structlog.get_logger()

MEMORY_SLACK: Final = 16
"""Free memory and disk are told again when they have changed by one part in so many. On a machine that does
anything at all they change all the time, and each telling costs every member a piece of work."""

ENTRIES_LIMIT: Final = 500
BYTES_LIMIT: Final = 60_000
"""A little below what membership carries for one member."""


NOTHING_MORE: Final[Mapping[str, bytes]] = MappingProxyType({})


class Announcer:
    """Publishes through ``set_load`` and ``set_state`` (a value of None withdraws a key)."""

    def __init__(
        self, set_load: Callable[[bytes], None], set_state: Callable[[str, bytes | None], None]
    ) -> None:
        self._set_load = set_load
        self._set_state = set_state
        self._load: Hot | None = None
        self._told: dict[str, bytes] = {}
        self.left_out = 0
        """Entries that did not fit; they can still be had by asking."""

    def announce_load(self, hot: Hot) -> None:
        if self._load is None or not _is_near(hot, self._load):
            self._load = hot
            self._set_load(encode_hot(hot))

    def announce_state(self, cold: Cold, more: Mapping[str, bytes] = NOTHING_MORE) -> None:
        """Publish what is new and withdraw what is gone; what does not fit is left out, models first.

        ``more`` are entries beside the node's own, by their keys.
        """
        entries = self._fitting({**encode_cold(cold), **more})
        for key in [key for key in self._told if key not in entries]:
            del self._told[key]
            self._set_state(key, None)
        for key, value in entries.items():
            if self._told.get(key) != value:
                self._told[key] = value
                self._set_state(key, value)

    def _fitting(self, entries: dict[str, bytes]) -> dict[str, bytes]:
        chosen: dict[str, bytes] = {}
        size = 0
        for key, value in sorted(entries.items(), key=lambda entry: entry[0].startswith("m:")):
            size += len(key) + len(value) + 12
            if size > BYTES_LIMIT or len(chosen) >= ENTRIES_LIMIT:
                break
            chosen[key] = value
        left_out = len(entries) - len(chosen)
        if left_out != self.left_out:
            log.warning("models_not_announced", count=left_out)
            self.left_out = left_out
        return chosen


def _is_near(hot: Hot, told: Hot) -> bool:
    """Whether only what is free differs, and not by much."""
    return (
        (hot.load, hot.engine_state, hot.draining) == (told.load, told.engine_state, told.draining)
        and (hot.disk_free_bytes is None) == (told.disk_free_bytes is None)
        and all(
            abs(now - then) * MEMORY_SLACK <= then
            for now, then in (
                (hot.memory_free_bytes, told.memory_free_bytes),
                (hot.vram_free_bytes, told.vram_free_bytes),
                (hot.disk_free_bytes or 0, told.disk_free_bytes or 0),
            )
        )
    )
