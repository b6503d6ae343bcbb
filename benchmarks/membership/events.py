"""What nodes believe and when they came to, read from their logs: nobody is asked, so nobody is disturbed."""

import json
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

STATES: Final = {
    "member_joined": "alive",
    "member_alive_again": "alive",
    "member_suspect": "suspect",
    "member_dead": "dead",
    "member_left": "left",
}


@dataclass(frozen=True, slots=True)
class Change:
    """``observer`` came to believe that ``member`` (an id) is in ``state`` ``at`` that time (Unix s)."""

    observer: str
    member: str
    state: str
    at: float


@dataclass
class Log:
    """One node's log, read as it grows."""

    name: str
    path: Path
    beliefs: dict[str, str] = field(default_factory=dict)
    """The state of each member, since this node's last start."""
    node_id: str = ""
    """Known once it has started."""
    started_at: float = 0.0
    """When its membership listened, in this life."""
    _read: int = 0

    def news(self) -> list[Change]:
        """What it has come to believe since the last call."""
        if not self.path.exists():
            return []
        with self.path.open("rb") as log:
            log.seek(self._read)
            lines = log.read()
        whole, newline, _ = lines.rpartition(b"\n")
        self._read += len(whole) + len(newline)
        found = []
        for line in whole.splitlines():
            if b'"membership_started"' in line:
                said = json.loads(line)
                self.node_id, self.started_at = said["node"], _time(said)
                self.beliefs.clear()
            elif line.startswith(b'{"member":') and (change := self._change(json.loads(line))):
                self.beliefs[change.member] = change.state
                found.append(change)
        return found

    def forget(self) -> None:
        """Its process is gone, and its identity may be."""
        self.news()
        self.beliefs.clear()
        self.node_id, self.started_at = "", 0.0

    def _change(self, said: dict[str, Any]) -> Change | None:
        state = STATES.get(said["event"])
        return Change(self.name, said["member"], state, _time(said)) if state else None


def _time(said: dict[str, Any]) -> float:
    return datetime.fromisoformat(said["timestamp"]).timestamp()
