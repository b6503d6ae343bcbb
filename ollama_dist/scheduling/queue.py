"""Who waits here for a slot of which model, and in what order. Pure.

An engine answers as many requests per loaded model as it has slots, and queues the rest without a limit, in
the order of arrival, where nobody sees them. So no more is sent to it than it has slots, and the rest waits
here: bounded, by urgency, and visible.
"""

import bisect
from dataclasses import dataclass, field
from typing import Final

from ollama_dist.core.errors import Busy
from ollama_dist.core.names import ModelKey
from ollama_dist.core.requests import Place, Priority

BUSY_TEXT: Final = "server busy, please try again.  maximum pending requests exceeded"
"""Ollama's own words (``server/sched.go``), two spaces and all: clients look for them."""

CLASS_S: Final = {Priority.INTERACTIVE: 0.0, Priority.NORMAL: 6.0, Priority.BATCH: 12.0}
"""What a class counts, in seconds of service."""

LONGEST_SERVICE_S: Final = 20.0
"""A longer answer does not wait longer for being so."""

AGING: Final = 0.5
"""Seconds of rank that a second of waiting is worth: after 64 s anything goes before what has just come."""


@dataclass(slots=True, eq=False)
class Ticket:
    """A request in the queue or in the engine. The smallest goes first."""

    rank: float
    """Of one that waits."""
    number: int
    """The older first, of one rank."""
    model: ModelKey
    service_s: float
    runs: bool = False
    """It has its slot."""

    def __lt__(self, other: "Ticket") -> bool:
        return (self.rank, self.number) < (other.rank, other.number)


@dataclass(slots=True)
class _Line:
    """One model's."""

    running: set[Ticket] = field(default_factory=set)
    waiting: list[Ticket] = field(default_factory=list)
    """In order."""


class NodeQueue:
    """The queues of one node. ``max_waiting`` bounds each model's."""

    def __init__(self, slots: int, max_waiting: int) -> None:
        self.slots = slots
        self._max_waiting = max_waiting
        self._lines: dict[ModelKey, _Line] = {}
        self._number = 0
        self.in_flight = 0
        """Requests that run or wait."""

    @property
    def waiting(self) -> int:
        return sum(len(line.waiting) for line in self._lines.values())

    def active(self, model: ModelKey) -> int:
        """Requests of one model that run or wait."""
        line = self._lines.get(model)
        return len(line.running) + len(line.waiting) if line else 0

    def enter(self, model: ModelKey, priority: Priority, service_s: float, now: float) -> Ticket:
        """A place for a request that will take ``service_s`` seconds. Raises `Busy` when there is none.

        What has waited moves forward against what comes later, but never against what has waited as long:
        so the order is settled on entering.
        """
        line = self._lines.get(model)
        if line is None:
            line = self._lines[model] = _Line()
        self._number = number = self._number + 1
        if len(line.running) < self.slots:
            ticket = Ticket(0.0, number, model, service_s, True)
            line.running.add(ticket)
        elif len(line.waiting) < self._max_waiting:
            rank = CLASS_S[priority] + min(service_s, LONGEST_SERVICE_S) + AGING * now
            ticket = Ticket(rank, number, model, service_s)
            bisect.insort(line.waiting, ticket)
        else:
            raise Busy(BUSY_TEXT)
        self.in_flight += 1
        return ticket

    def place(self, ticket: Ticket) -> Place:
        line = self._lines[ticket.model]
        if ticket.runs:
            return Place(0, 0.0)
        index = bisect.bisect_left(line.waiting, ticket)
        # Those in their slots are half way on average.
        ahead = sum(each.service_s for each in line.waiting[:index])
        ahead += sum(each.service_s for each in line.running) / 2
        return Place(index + 1, ahead / self.slots)

    def leave(self, ticket: Ticket) -> list[Ticket]:
        """The request ended, or gave up waiting. Returns those that have a slot now."""
        line = self._lines[ticket.model]
        if ticket.runs:
            line.running.remove(ticket)
        else:
            line.waiting.remove(ticket)
        self.in_flight -= 1
        if line.waiting:
            return self._admit(line)
        if not line.running:
            del self._lines[ticket.model]
        return []

    def set_slots(self, slots: int) -> list[Ticket]:
        """Returns those that have a slot now."""
        self.slots = slots
        return [ticket for line in self._lines.values() for ticket in self._admit(line)]

    def _admit(self, line: _Line) -> list[Ticket]:
        if not line.waiting:
            return []
        free = max(0, self.slots - len(line.running))
        admitted, line.waiting = line.waiting[:free], line.waiting[free:]
        for ticket in admitted:
            ticket.runs = True
        line.running.update(admitted)
        return admitted
