"""The state machine's own clockwork: named alarms, of which the driver only ever knows the next."""

import heapq
from collections.abc import Hashable


class Alarms:
    """Each name rings once, at the last time it was set to."""

    def __init__(self) -> None:
        self._times: dict[Hashable, float] = {}
        self._heap: list[tuple[float, int, Hashable]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._times)

    def set(self, name: Hashable, time: float) -> None:
        self._times[name] = time
        self._count += 1  # ties ring in the order in which they were set
        heapq.heappush(self._heap, (time, self._count, name))

    def cancel(self, name: Hashable) -> None:
        self._times.pop(name, None)

    def is_set(self, name: Hashable) -> bool:
        return name in self._times

    def next(self) -> float | None:
        """When the next one rings."""
        while self._heap and self._times.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def pop_due(self, now: float) -> Hashable | None:
        """The name of one that is due; None when none is."""
        time = self.next()
        if time is None or time > now:
            return None
        name = heapq.heappop(self._heap)[2]
        del self._times[name]
        return name
