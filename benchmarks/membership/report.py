"""The figures as one table, and as JSON."""

import json
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

from benchmarks.membership.trials import Figures

BEGIN: Final = "<!-- figures: written by python -m benchmarks.membership -->"
END: Final = "<!-- end of figures -->"

BARS: Final[Mapping[str, str]] = {
    "join by seed: alive everywhere": "p50 0.5, p99 2",
    "join by mDNS: alive everywhere": "p50 1, p99 3",
    "leave: left everywhere": "1",
    "kill -9: suspect everywhere": "p99 3",
    "cable out: suspect everywhere": "p99 3",
    "cable out: dead everywhere": "p99 6",
    "cable in again: one view": "5",
    "cable in again: deaths after it": "0",
    "partition healed: one view": "5",
    "partition healed: deaths after it": "0",
    "SIGSTOP 2 s: deaths": "0",
    "SIGSTOP 2 s: deaths that it declared": "0",
    "SIGSTOP 15 s: back everywhere": "2",
    "SIGSTOP 15 s: deaths that it declared": "0",
    "idle: part of a core, %": "1",
    "idle: of it TLS, KB/s": "3 (n = 5)",
    "idle: deaths": "0",
}
"""What is aimed at, in seconds unless the figure says otherwise."""


def quantile(values: Sequence[float], part: float) -> float:
    """The nearest that was measured, at or above the ``part``."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def per_peer_kib(found: Mapping[int, Figures]) -> float | None:
    """Memory that each further member costs the others: the difference between two sizes."""
    small, large = min(found), max(found)
    memory = {size: found[size].get("idle: own memory, KiB") for size in (small, large)}
    if small == large or not all(memory.values()):
        return None
    means = {size: statistics.mean(values or [0.0]) for size, values in memory.items()}
    return (means[large] - means[small]) / (large - small)


def markdown(found: Mapping[int, Figures], notes: Sequence[str]) -> str:
    sizes = sorted(found)
    lines = [*(f"* {note}" for note in notes), ""]
    lines.append("| | bar | " + " | ".join(f"n = {size}: p50 / p99 (times)" for size in sizes) + " |")
    lines.append("|---|---|" + "---:|" * len(sizes))
    for name in sorted({name for figures in found.values() for name in figures}):
        cells = [_cell(found[size].get(name, [])) for size in sizes]
        lines.append(f"| {name} | {BARS.get(name, '')} | {' | '.join(cells)} |")
    if (per_peer := per_peer_kib(found)) is not None:
        lines.append(
            f"| idle: memory per further member, KiB | 250 | {per_peer:.0f} |" + " |" * (len(sizes) - 1)
        )
    return "\n".join([*lines, ""])


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    digits = 0 if max(values) >= 1000 else 2
    return f"{statistics.median(values):.{digits}f} / {quantile(values, 0.99):.{digits}f} ({len(values)})"


def as_json(found: Mapping[int, Figures], about: Mapping[str, Any]) -> str:
    figures = {str(size): {name: found[size][name] for name in sorted(found[size])} for size in sorted(found)}
    return (
        json.dumps({"about": about, "figures": figures, "per_peer_kib": per_peer_kib(found)}, indent=1) + "\n"
    )
