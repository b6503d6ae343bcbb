"""Text for people: how wide and colourful it may be, tables that fit, and figures short enough to scan."""

import os
import shutil
import textwrap
from collections.abc import Sequence
from enum import Enum
from typing import Final, NamedTuple, TextIO

GAP: Final = "  "
NOTHING: Final = "-"


class Tone(Enum):
    """What a word means for the reader; its value is the colour, as ANSI has it."""

    PLAIN = ""
    GOOD = "32"
    WARN = "33"
    BAD = "31"
    DIM = "2"
    STRONG = "1"


class Terminal(NamedTuple):
    """What the reader's terminal can show."""

    width: int = 80
    colour: bool = False
    unicode: bool = True

    def paint(self, text: str, tone: Tone) -> str:
        return f"\x1b[{tone.value}m{text}\x1b[0m" if self.colour and tone.value else text

    def cut(self, text: str, width: int) -> str:
        """``text`` in at most ``width`` characters; what is left out is marked."""
        if len(text) <= width:
            return text
        mark = "…" if self.unicode else "~"
        return text[: max(width - 1, 0)] + mark if width > 0 else ""

    def wrap(self, text: str, indent: str = "") -> list[str]:
        """``text`` in lines that fit, the later ones indented; a word longer than a line is left whole."""
        return textwrap.wrap(
            text,
            self.width,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
            drop_whitespace=True,
        )


class Column(NamedTuple):
    """A column of a table. The one with the lowest ``keep`` goes first when the terminal is too narrow."""

    title: str
    keep: int = 9
    right: bool = False
    shortest: int | None = None
    """It may be cut down to this width; None: it is shown whole."""


class Cell(NamedTuple):
    text: str
    tone: Tone = Tone.PLAIN


class Row(NamedTuple):
    cells: Sequence[Cell]
    note: str = ""
    """What the reader should know beside, in a line of its own below."""


def terminal_of(stream: TextIO) -> Terminal:
    """What can be shown on ``stream``: no colour unless it is a terminal that wants it (no-color.org)."""
    wants = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    try:
        "…".encode(stream.encoding or "ascii")
        has_unicode = True
    except (UnicodeEncodeError, LookupError):
        has_unicode = False
    width = shutil.get_terminal_size((80, 24)).columns
    return Terminal(max(width, 20), stream.isatty() and wants, has_unicode)


def table(columns: Sequence[Column], rows: Sequence[Row], terminal: Terminal) -> list[str]:
    """The rows under their titles, no line wider than the terminal as long as one column fits."""
    shown, widths = _fitting(columns, rows, terminal.width)
    lines = [
        _line([Cell(columns[index].title, Tone.DIM) for index in shown], columns, shown, widths, terminal)
    ]
    for row in rows:
        lines.append(_line([row.cells[index] for index in shown], columns, shown, widths, terminal))
        if row.note:
            lines.append(terminal.cut(f"{GAP}{row.note}", terminal.width))
    return lines


def _fitting(columns: Sequence[Column], rows: Sequence[Row], width: int) -> tuple[list[int], dict[int, int]]:
    """Which columns are shown and how wide: cut what may be cut, then leave out what matters least."""
    natural = {
        index: max(len(column.title), *(len(row.cells[index].text) for row in rows), 0)
        for index, column in enumerate(columns)
    }
    shown = list(natural)
    while True:
        widths = {index: natural[index] for index in shown}
        excess = sum(widths.values()) + len(GAP) * (len(shown) - 1) - width
        for index in sorted(shown, key=lambda index: -natural[index]):
            shortest = columns[index].shortest
            if excess > 0 and shortest is not None:
                cut = min(excess, max(widths[index] - max(shortest, len(columns[index].title)), 0))
                widths[index] -= cut
                excess -= cut
        if excess <= 0 or len(shown) == 1:
            return shown, {index: min(wide, width) for index, wide in widths.items()}
        shown.remove(min(shown, key=lambda index: (columns[index].keep, -index)))


def _line(
    cells: Sequence[Cell],
    columns: Sequence[Column],
    shown: Sequence[int],
    widths: dict[int, int],
    terminal: Terminal,
) -> str:
    parts = []
    for index, cell in zip(shown, cells, strict=True):
        text = terminal.cut(cell.text, widths[index])
        padding = " " * (widths[index] - len(text))
        painted = terminal.paint(text, cell.tone)
        parts.append(padding + painted if columns[index].right else painted + padding)
    return GAP.join(parts).rstrip()


def size(number: float) -> str:
    """Bytes in decimal units, as Ollama shows them: ``4.7 GB``."""
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if number < 999.5 or unit == "TB":
            break
        number /= 1000
    return f"{number:.1f} {unit}" if number < 9.95 and unit != "B" else f"{number:.0f} {unit}"


def ago(seconds: float) -> str:
    """A span in its largest fitting unit: ``now``, ``4 s``, ``3 min``, ``2 h``, ``5 d``."""
    if seconds < 2:
        return "now"
    for limit, divisor, unit in ((120, 1, "s"), (7200, 60, "min"), (172_800, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def milliseconds(number: float) -> str:
    return f"{number:.1f} ms" if number < 9.95 else f"{number:.0f} ms"


def count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
