"""Streams cut into records: newline-delimited JSON and server-sent events, fed in pieces of any size.

A line ends at a line feed, in server-sent events also at a carriage return (WHATWG HTML, 9.2.6), and nowhere
else: U+0085 and U+2028 are text. Every buffer is bounded.
"""

from dataclasses import dataclass
from typing import Final

from ollama_dist.core.errors import UpstreamFailed

MAX_RECORD_BYTES: Final = 64 * 2**20
"""The longest record taken: the last line of a generation carries its whole context."""


class RecordTooLong(UpstreamFailed):
    """A line or event grew beyond the bound; the rest of the stream cannot be read."""

    code = "record_too_long"


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One event: its data lines joined by line feeds, and its type, empty where none was given."""

    data: bytes
    name: str = ""


class _Lines:
    """Cuts bytes at line feeds."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._pieces: list[bytes] = []
        self.size = 0
        """Bytes of the unfinished line."""

    def feed(self, data: bytes) -> list[bytes]:
        first, *others = data.split(b"\n")
        self._hold(first)
        if not others:
            return []
        lines = [self.take_rest(), *others[:-1]]
        self._hold(others[-1])
        return lines

    def take_rest(self) -> bytes:
        line = b"".join(self._pieces)
        self._pieces.clear()
        self.size = 0
        return line

    def _hold(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size > self._limit:
            raise RecordTooLong(f"a record is longer than {self._limit} bytes")
        if piece:
            self._pieces.append(piece)


class NdjsonSplitter:
    """Cuts a stream of newline-delimited JSON into its records; blank lines are left out."""

    def __init__(self, limit: int = MAX_RECORD_BYTES) -> None:
        self._lines = _Lines(limit)

    def feed(self, data: bytes) -> list[bytes]:
        """The records that ended in ``data``. Raises `RecordTooLong`."""
        return [line for line in self._lines.feed(data) if line.strip()]

    def take_rest(self) -> bytes:
        """What came after the last line end, for the end of the stream."""
        return self._lines.take_rest().strip()


class SseSplitter:
    """Cuts a stream into server-sent events; comments, ids and retry times are left out."""

    def __init__(self, limit: int = MAX_RECORD_BYTES) -> None:
        self._limit = limit
        self._lines = _Lines(limit)
        self._after_return = False
        self._name = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that ended in ``data``. Raises `RecordTooLong`."""
        lines = self._lines.feed(self._with_line_feeds(data))
        return [event for line in lines if (event := self._take(line)) is not None]

    @property
    def is_between_events(self) -> bool:
        """Whether nothing of a further event has come yet."""
        return not (self._name or self._data or self._lines.size)

    def _with_line_feeds(self, data: bytes) -> bytes:
        if self._after_return and data:
            data = data.removeprefix(b"\n")
            self._after_return = False
        if b"\r" not in data:
            return data
        self._after_return = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _take(self, line: bytes) -> SseEvent | None:
        if not line:
            event = SseEvent(b"\n".join(self._data), self._name) if self._data else None
            self._name, self._data, self._size = "", [], 0
            return event
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._size += len(value)
            if self._size > self._limit:
                raise RecordTooLong(f"an event is longer than {self._limit} bytes")
            self._data.append(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        return None
