"""What has to be kept of an answer while its pieces pass by, in bounded memory.

Of a stream its last lines: ordinary ones as they are, longer ones as their outline. Of an answer that is one
object its outline.
"""

from typing import Final

from ollama_dist.wire.outline import Document, Outline, document_of, outline_of

SETTLE_BYTES: Final = 12 * 1024
"""How much is let pile up before it is gone through; also the longest unfinished line kept as it is."""

LONG_LINE_BYTES: Final = 2 * 1024
"""A finished line longer than this is kept as an outline."""

Line = bytes | Outline


class Tail:
    """Feed it what passes by; ask for the lines at the end.

    Holds at most ``lines`` lines of `LONG_LINE_BYTES`, or outlines, and twice `SETTLE_BYTES`.
    """

    __slots__ = ("_kept", "_lines", "_long", "_pending", "_pieces", "_settled", "newlines")

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._kept: list[Line] = []
        self._pieces: list[bytes] = []
        self._pending = 0
        """Bytes in `_pieces`."""
        self._settled = 0
        """Bytes no longer in them."""
        self._long: Outline | None = None
        """The unfinished line, once it has become too long to be kept."""
        self.newlines = 0
        """Line ends seen."""

    def feed(self, data: bytes) -> None:
        self._pieces.append(data)
        self._pending += len(data)
        self.newlines += data.count(b"\n")
        if self._pending > SETTLE_BYTES and not self._forget():
            self._settle()

    @property
    def size(self) -> int:
        """Bytes seen."""
        return self._settled + self._pending

    def last(self, count: int) -> list[Line]:
        """The last ``count`` finished lines without their ends, or all there are; the others are left alone.

        None of them where that takes more: something came after them, or one is long.
        """
        pieces: list[bytes] = []
        line_ends = 0
        for piece in reversed(self._pieces):
            pieces.append(piece)
            line_ends += piece.count(b"\n")
            if line_ends > count:
                break
        *lines, rest = b"".join(reversed(pieces)).split(b"\n")
        is_all = line_ends <= count
        if rest or max(map(len, lines), default=0) > LONG_LINE_BYTES or (is_all and self._long is not None):
            return []
        return [*(self._kept if is_all else ()), *lines][-count:]

    def lines(self) -> list[Line]:
        """The last finished lines, oldest first, without their line ends."""
        self._settle()
        return self._kept

    @property
    def is_at_line_end(self) -> bool:
        """Whether nothing came after the last line end, of which there is one."""
        return bool(self._pieces) and self._pieces[-1].endswith(b"\n")

    def unfinished(self) -> Line:
        """What came after the last line end."""
        self._settle()
        return self._long or b"".join(self._pieces)

    def _forget(self) -> bool:
        """Drop all but the last bytes as they are, where those hold lines enough: usual, and cheap."""
        if self._long is not None:
            return False
        data = b"".join(self._pieces)
        recent = data[data.find(b"\n", len(data) - SETTLE_BYTES // 2) + 1 :]
        if recent.count(b"\n") < self._lines:
            return False
        self._kept.clear()
        self._settled += len(data)
        self._leave(recent)
        return True

    def _settle(self) -> None:
        data = b"".join(self._pieces)
        self._settled += len(data)
        if self._long is not None:
            end = data.find(b"\n")
            self._long.feed(data if end < 0 else data[:end])
            if end < 0:
                self._leave(b"")
                return
            self._kept.append(self._long)
            self._long = None
            data = data[end + 1 :]
        *finished, rest = data.split(b"\n")
        self._kept += [
            line if len(line) <= LONG_LINE_BYTES else outline_of(line.removeprefix(b"data: "))
            for line in finished[-self._lines :]
        ]
        del self._kept[: -self._lines]
        if len(rest) > SETTLE_BYTES:
            self._long = Outline()
            self._long.feed(rest)
            rest = b""
        self._leave(rest)

    def _leave(self, rest: bytes) -> None:
        self._settled -= len(rest)
        self._pending = len(rest)
        self._pieces = [rest] if rest else []


class Whole:
    """An answer that is one object: feed it what passes by; ask for its outline at the end."""

    __slots__ = ("_outline", "_pieces", "_spilt", "size")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._outline: Outline | None = None
        self._spilt = 0
        """Bytes no longer in `_pieces`."""
        self.size = 0
        """Bytes seen."""

    def feed(self, data: bytes) -> None:
        self._pieces.append(data)
        self.size += len(data)
        if self.size - self._spilt > SETTLE_BYTES:
            self._outline = self._outline or Outline()
            self._spill(self._outline)

    def outline(self) -> Outline | Document:
        if self._outline is None:
            return document_of(b"".join(self._pieces))
        self._spill(self._outline)
        return self._outline

    def _spill(self, outline: Outline) -> None:
        outline.feed(b"".join(self._pieces))
        self._pieces.clear()
        self._spilt = self.size
