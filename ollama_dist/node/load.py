"""What this node's engine has to do right now, counted by this node, and the queue in front of it."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ollama_dist.core.errors import Busy
from ollama_dist.core.names import ModelKey
from ollama_dist.core.outcomes import Usage
from ollama_dist.core.requests import EMBED, GENERATE, InferenceRequest, Place
from ollama_dist.core.view import Load
from ollama_dist.node.limits import LONGEST_WAIT_S
from ollama_dist.scheduling.queue import BUSY_TEXT, NodeQueue, Ticket

_SMOOTHING: Final = 0.2
"""Weight of the newest answer in the decode rate."""

TELL_S: Final = 0.5
"""How often a caller that wants to know is told of its place."""

OnPlace = Callable[[Place], None]


@dataclass(frozen=True, slots=True)
class Waited:
    """How a request came to its slot."""

    place: Place
    """As it came in."""
    waited_s: float


AT_ONCE: Final = Waited(Place(0, 0.0), 0.0)

_TAKES_SLOT: Final = (GENERATE, EMBED)


class EngineLoad:
    """Lets requests into the engine, as many per model as it has slots, and queues the others.

    ``width`` is how many that is, where it is not just its slots; ``max_waiting`` bounds each model's queue.
    ``changed`` is called after every change, to tell others.
    """

    def __init__(
        self,
        slots: int,
        max_waiting: int,
        changed: Callable[[], None],
        clock: Callable[[], float],
        *,
        width: int | None = None,
    ) -> None:
        self._queue = NodeQueue(width or slots, max_waiting)
        self._slots = slots
        self._changed = changed
        self._clock = clock
        self._turns: dict[Ticket, asyncio.Future[None]] = {}
        self._beside = 0
        """Requests that take no slot."""
        self._tokens_per_s = 0.0

    @property
    def in_flight(self) -> int:
        """Requests in the engine or waiting for it."""
        return self._queue.in_flight + self._beside

    @property
    def now(self) -> Load:
        return Load(self.in_flight, self._queue.waiting, self._slots, round(self._tokens_per_s, 1))

    def active(self, model: ModelKey) -> int:
        """Requests for one model that run or wait here."""
        return self._queue.active(model)

    def set_slots(self, slots: int, width: int | None = None) -> None:
        width = width or slots
        if (slots, width) != (self._slots, self._queue.slots):
            self._slots = slots
            self._call(self._queue.set_slots(width))
            self._changed()

    def enter(self, request: InferenceRequest, service_s: float) -> Ticket | None:
        """A place in the engine, or, where it does not `Ticket.runs`, in the queue: then `wait` for it.

        It is given up with `leave`. ``service_s`` is how long the request will probably take. Raises `Busy`
        when there is no room. What only loads or unloads a model takes no slot and gets None, and so does
        what an engine will refuse.
        """
        ticket = None
        if request.model is None or request.intent not in _TAKES_SLOT:
            self._beside += 1
        else:
            ticket = self._queue.enter(request.model, request.priority, service_s, self._clock())
        self._changed()
        return ticket

    async def wait(self, ticket: Ticket, on_place: OnPlace | None = None) -> Waited:
        """Until a place in the queue has become one in the engine.

        Raises `Busy` where it does not in time. Then, as when this is cancelled, the place is given up.
        """
        place, began = self._queue.place(ticket), self._clock()
        try:
            await self._turn(ticket, on_place)
        except BaseException:
            self.leave(ticket)
            raise
        return Waited(place, self._clock() - began)

    def leave(self, ticket: Ticket | None) -> None:
        """Give up what `enter` gave; to be called once."""
        if ticket is None:
            self._beside -= 1
        else:
            admitted = self._queue.leave(ticket)
            if admitted:
                self._call(admitted)
        self._changed()

    async def _turn(self, ticket: Ticket, on_place: OnPlace | None) -> None:
        turn = self._turns[ticket] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                told: int | None = None
                while not turn.done():
                    place = self._queue.place(ticket)
                    if on_place is not None and place.position != told:
                        on_place(place)
                        told = place.position
                    await asyncio.wait([turn], timeout=None if on_place is None else TELL_S)
        except TimeoutError as error:
            raise Busy(BUSY_TEXT) from error
        finally:
            del self._turns[ticket]

    def _call(self, tickets: list[Ticket]) -> None:
        for ticket in tickets:
            if (turn := self._turns.get(ticket)) is not None and not turn.done():
                turn.set_result(None)

    def learn(self, usage: Usage) -> None:
        """Fold the speed of an answer just finished into the decode rate."""
        if speed := usage.tokens_per_s:
            known = self._tokens_per_s
            self._tokens_per_s = known + _SMOOTHING * (speed - known) if known else speed
