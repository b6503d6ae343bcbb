"""Operations as text, and their progress while somebody watches: one line for each step."""

import sys
import time
from collections.abc import Sequence
from typing import Final, NamedTuple, TextIO

from ollama_dist.cli.answers import OperationStep, RunningOperation
from ollama_dist.cli.terminal import GAP, NOTHING, Cell, Column, Row, Terminal, Tone, ago, size, table

BAR: Final = 20
"""Characters of a full bar."""

QUIET_S: Final = 10.0
"""Where lines cannot be redrawn, at most one this often as long as nothing but the bytes has changed."""

TONES: Final = {
    "succeeded": Tone.GOOD,
    "failed": Tone.BAD,
    "cancelled": Tone.WARN,
    "running": Tone.PLAIN,
    "planned": Tone.DIM,
}
_COLUMNS: Final = (
    Column("OPERATION"),
    Column("KIND"),
    Column("STATE"),
    Column("DONE", right=True),
    Column("WHAT", shortest=16, keep=8),
    Column("BY", keep=2),
    Column("BEGAN", keep=4),
)


class Done(NamedTuple):
    """How far an operation is."""

    steps: int
    total: int
    share: float | None
    """Of the bytes; None where none are copied."""


def plan_text(operation: RunningOperation, room: dict[str, int | None], terminal: Terminal) -> list[str]:
    """What would be done. ``room`` is the free disk of nodes by name."""
    if not operation.steps:
        return ["nothing is to be done"]
    lines = []
    for step in operation.steps:
        what = f"{step.action} {step.model} {_way(step)}".rstrip()
        more = [size(step.bytes_total)] if step.action == "copy" else []
        free = room.get(step.to) if step.action == "copy" else None
        if free is not None:
            more.append(f"{size(free)} free there")
        lines += terminal.wrap(f"{what}: {', '.join([*more, step.reason])}", GAP)
    return lines


def operations_text(operations: Sequence[RunningOperation], now: float, terminal: Terminal) -> list[str]:
    """The list of all that are known."""
    if not operations:
        return ["no operations"]
    rows = []
    for each in operations:
        done = how_far(each)
        share = f"{done.share:.0%}" if done.share is not None else f"{done.steps}/{done.total}"
        what = ", ".join(f"{step.action} {step.model} {_way(step)}".rstrip() for step in each.steps)
        cells = [
            Cell(each.id),
            Cell(each.kind),
            Cell(each.state, TONES.get(each.state, Tone.PLAIN)),
            Cell(share),
            Cell(what or NOTHING),
            Cell(each.requested_by),
            Cell(ago(max(0.0, now - each.created_at)) if each.created_at else NOTHING),
        ]
        rows.append(Row(cells, note=next((trouble(step) for step in each.steps if trouble(step)), "")))
    return table(_COLUMNS, rows, terminal)


def how_far(operation: RunningOperation) -> Done:
    steps = operation.steps
    total = sum(step.bytes_total for step in steps)
    share = min(1.0, sum(step.bytes_done for step in steps) / total) if total else None
    return Done(sum(step.state == "succeeded" for step in steps), len(steps), share)


def step_line(step: OperationStep, terminal: Terminal) -> str:
    """One step as it is now."""
    name = f"{step.action} {step.model} {_way(step)}".rstrip()
    state = terminal.paint(step.state, TONES.get(step.state, Tone.PLAIN))
    if step.action != "copy" or step.state != "running" or not step.bytes_total:
        told = trouble(step)
        return f"{name}: {state}" + (f", {told}" if told else "")
    figures = f"{bar(step.bytes_done / step.bytes_total, terminal)} of {size(step.bytes_total)}"
    if step.note:
        return f"{name}  {figures}, {step.note}"
    pace = f"  {size(step.bytes_per_s)}/s  {left(step)}" if step.bytes_per_s else ""
    source = f"  from {', '.join(step.sources)}" if step.sources else ""
    return f"{name}  {figures}{pace}{source}"


def bar(share: float, terminal: Terminal) -> str:
    """A bar and per cent."""
    share = min(1.0, share)
    full = round(share * BAR)
    done, rest = ("█", "░") if terminal.unicode else ("#", ".")
    return f"{done * full}{rest * (BAR - full)} {share:4.0%}"


def trouble(step: OperationStep) -> str:
    return step.error or step.note


def left(step: OperationStep) -> str:
    seconds = (step.bytes_total - step.bytes_done) / step.bytes_per_s
    return f"{seconds:.0f} s left" if seconds < 120 else f"{seconds / 60:.0f} min left"


class Display:
    """Shows an operation as it goes on: redrawn in place on a terminal, else a line now and then."""

    def __init__(self, stream: TextIO, terminal: Terminal) -> None:
        self._stream = stream
        self._terminal = terminal
        self._redraws = stream.isatty()
        self._drawn = 0
        self._said: dict[int, tuple[str, str]] = {}
        self._said_at = 0.0
        self._furthest: dict[int, int] = {}

    def show(self, operation: RunningOperation) -> None:
        steps = [self._forward(index, step) for index, step in enumerate(operation.steps)]
        if self._redraws:
            self._redraw(steps)
        else:
            self._say(steps)

    def _forward(self, index: int, step: OperationStep) -> OperationStep:
        """A bar does not go backwards, whoever told of it last."""
        furthest = self._furthest[index] = max(step.bytes_done, self._furthest.get(index, 0))
        return step._replace(bytes_done=furthest)

    def _redraw(self, steps: Sequence[OperationStep]) -> None:
        up = f"\x1b[{self._drawn}A" if self._drawn else ""
        plain = Terminal(self._terminal.width, colour=False, unicode=self._terminal.unicode)
        lines = [self._terminal.cut(step_line(step, plain), self._terminal.width - 1) for step in steps]
        self._stream.write(up + "".join(f"\r\x1b[K{line}\n" for line in lines))
        self._stream.flush()
        self._drawn = len(lines)

    def _say(self, steps: Sequence[OperationStep]) -> None:
        now = time.monotonic()
        is_time = now - self._said_at >= QUIET_S
        for index, step in enumerate(steps):
            said = (step.state, trouble(step))
            if said != self._said.get(index) or (is_time and step.state == "running"):
                self._stream.write(step_line(step, self._terminal) + "\n")
                self._said[index] = said
                self._said_at = now
        self._stream.flush()


def display_on(terminal: Terminal) -> Display:
    """On standard error: standard output is for data."""
    return Display(sys.stderr, terminal)


def _way(step: OperationStep) -> str:
    if step.action == "copy":
        origin = f"from {step.origin} " if step.origin else ""
        return f"{origin}to {step.to or '?'}"
    return f"on {step.to if step.action == 'load' else step.origin}" if step.origin else ""
