"""The figures of all passes as one table, as JSON, and in ``docs/performance.md``."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from benchmarks.relay.passes import Figures

BEGIN: Final = "<!-- figures: written by python -m benchmarks.relay -->"
END: Final = "<!-- end of figures -->"

Passes = Mapping[str, Sequence[Figures]]
"""By front; one row of figures for each pass."""


@dataclass(frozen=True)
class Row:
    """One line of the table. The figure is shown divided by ``per``."""

    label: str
    figure: str
    per: float = 1.0
    digits: int = 0
    has_ratio: bool = True


ROWS: Final = (
    Row("CPU per embed, µs", "cpu_us_embed"),
    Row("CPU per chat that is not streamed, µs", "cpu_us_chat"),
    Row("CPU per tags, µs", "cpu_us_tags"),
    Row("CPU per OpenAI chat that is not streamed, µs", "cpu_us_openai"),
    Row("CPU per stream of one chunk, µs", "cpu_us_short_stream"),
    Row("CPU per streamed chunk, µs", "cpu_us_chunk", digits=1),
    Row("CPU per streamed chunk, half as many streams, µs", "cpu_us_chunk_few", digits=1),
    Row("CPU per streamed chunk, OpenAI, µs", "cpu_us_chunk_openai", digits=1),
    Row("chunk delay, p50, µs", "delay_us_p50"),
    Row("chunk delay, p99, µs", "delay_us_p99"),
    Row("first byte, p50, µs", "first_byte_us_p50"),
    Row("first byte, p99, µs", "first_byte_us_p99"),
    Row("client leaves → engine hears, flowing, p50, ms", "leave_flowing_us_p50", 1000, 2, has_ratio=False),
    Row("client leaves → engine hears, flowing, worst, ms", "leave_flowing_us_max", 1000, 1, has_ratio=False),
    Row("client leaves → engine hears, silent, p50, ms", "leave_silent_us_p50", 1000, 2, has_ratio=False),
    Row("client leaves → engine hears, silent, worst, ms", "leave_silent_us_max", 1000, 1, has_ratio=False),
    Row("memory per idle stream, KiB", "kib_per_stream", digits=1),
    Row("memory per idle connection, KiB", "kib_per_connection", digits=1),
    Row("upload, CPU s per GiB", "upload_cpu_s_per_gb", digits=2),
    Row("upload, memory growth, MiB", "upload_growth_kib", 1024, 1, has_ratio=False),
)

_WORST: Final = ("_max", "_unheard")
"""Figures of which the worst pass is told, not the middle one."""


def middle(passes: Sequence[Figures], figure: str) -> float | None:
    values = [row[figure] for row in passes if figure in row]
    if not values:
        return None
    return max(values) if figure.endswith(_WORST) else median(values)


def ratio(passes: Passes, front: str, other: str, figure: str) -> float | None:
    """The median of the ratios within each pass: what disturbed both falls out."""
    pairs = zip(passes.get(front, ()), passes.get(other, ()), strict=False)
    ratios = [one[figure] / two[figure] for one, two in pairs if one.get(figure) and two.get(figure)]
    return median(ratios) if ratios else None


def table(passes: Passes) -> str:
    """Markdown: the figures, then the same as ratios."""
    rows = [row for row in ROWS if any(middle(each, row.figure) is not None for each in passes.values())]
    parts = [_table(passes, rows, lambda front, row: _figure(middle(passes[front], row.figure), row))]
    through = [front for front in passes if front != "direct"]
    pairs = [front for front in passes if front.startswith("two nodes")]
    for other, fronts in (("nginx", through), ("plain aiohttp", through), ("nginx x2", pairs)):
        compared = [front for front in fronts if front != other]
        if other in passes and compared:
            parts.append(_ratios(passes, other, compared))
    return "\n\n".join(parts)


def _ratios(passes: Passes, other: str, fronts: Sequence[str]) -> str:
    def cell(front: str, row: Row) -> str:
        found = ratio(passes, front, other, row.figure)
        return "–" if found is None else f"{found:.2f}"

    rows = [row for row in ROWS if row.has_ratio and middle(passes[other], row.figure)]
    return f"As a ratio to {other}, median of each pass's own:\n\n" + _table(fronts, rows, cell)


def _table(fronts: Iterable[str], rows: Sequence[Row], cell: Callable[[str, Row], str]) -> str:
    fronts = list(fronts)
    lines = [f"| | {' | '.join(fronts)} |", "|---|" + "---:|" * len(fronts)]
    lines += [f"| {row.label} | {' | '.join(cell(front, row) for front in fronts)} |" for row in rows]
    return "\n".join(lines)


def _figure(value: float | None, row: Row) -> str:
    return "–" if value is None else f"{value / row.per:.{row.digits}f}"


def markdown(passes: Passes, notes: Sequence[str]) -> str:
    return "\n".join([*(f"* {note}" for note in notes), "", table(passes), ""])


def as_json(passes: Passes, about: Mapping[str, Any]) -> str:
    figures = sorted({figure for rows in passes.values() for row in rows for figure in row})
    medians = {front: {figure: middle(rows, figure) for figure in figures} for front, rows in passes.items()}
    return json.dumps({"about": about, "medians": medians, "passes": passes}, indent=1) + "\n"


def put_between_marks(document: Path, text: str, first: str = BEGIN, last: str = END) -> None:
    """Replace what stands between the marks of ``document``; raises `ValueError` where it has none."""
    before, begin, rest = document.read_text().partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise ValueError(f"{document} has no place for figures")
    document.write_text(f"{before}{first}\n\n{text}\n{last}{after}")
