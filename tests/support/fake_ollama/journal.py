"""What the fake saw: every request, what became of it, and how many were under way at once."""

import time
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Seen:
    """One request. Times are seconds of a monotonic clock since the fake began."""

    method: str
    path: str
    at: float
    model: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    status: int | None = None
    """Set when the answer begins."""
    bytes_sent: int = 0
    tokens_sent: int = 0
    end: str = ""
    """``answered``, ``client left``, ``reset``, ``died`` or ``cut``; empty while it is under way."""
    ended_at: float | None = None


class Journal:
    def __init__(self) -> None:
        self._began = time.monotonic()
        self.requests: list[Seen] = []
        self.in_slots = 0
        """Generations under way now."""
        self.most_in_slots = 0
        self.waiting = 0
        """Generations that wait for a slot."""
        self.loads_begun = 0
        """How often a model was begun to be brought into memory, be it that it never came."""

    def open(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Seen:
        seen = Seen(method, path, self.now(), headers=headers, body=body)
        self.requests.append(seen)
        return seen

    def close(self, seen: Seen, end: str) -> None:
        if not seen.end:
            seen.end = end
            seen.ended_at = self.now()

    def now(self) -> float:
        return time.monotonic() - self._began

    def on(self, path: str) -> list[Seen]:
        """The requests on one path, oldest first."""
        return [seen for seen in self.requests if seen.path == path]

    @property
    def under_way(self) -> list[Seen]:
        return [seen for seen in self.requests if not seen.end]

    def to_json(self) -> dict[str, Any]:
        requests = []
        for seen in self.requests:
            row = asdict(seen)
            row["body"] = seen.body[:4096].decode("utf-8", "replace")
            requests.append(row)
        return {
            "in_slots": self.in_slots,
            "most_in_slots": self.most_in_slots,
            "waiting": self.waiting,
            "loads_begun": self.loads_begun,
            "under_way": len(self.under_way),
            "requests": requests,
        }
