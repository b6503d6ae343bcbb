"""How far a pull is, from what Ollama says of it line by line. Pure."""

from collections import deque
from typing import Final

from ollama_dist.replication.intake.ollama_calls import PullLine
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.sources import Progress

WINDOW_S: Final = 5.0
"""Over which the rate is measured."""

STALL_S: Final = 10.0


class Meter:
    """Adds up lines. What is told never goes backwards, though Ollama does when it begins a part again."""

    def __init__(self, manifest: Manifest, now: float) -> None:
        self._sizes = {f"sha256:{digest}": size for digest, size in manifest.blobs.items()}
        self._total = manifest.size
        self._done: dict[str, int] = {}
        self._there: dict[str, int] = {}
        """What was there of a blob before it was asked for: it says nothing of the rate."""
        self._came: deque[tuple[float, int]] = deque([(now, 0)])
        self._last_at = now

    def note(self, line: PullLine, now: float) -> Progress:
        """How far the pull is after ``line``, which came at ``now`` (seconds of any steady clock)."""
        if line.digest in self._sizes:
            completed = min(line.completed, self._sizes[line.digest])
            self._there.setdefault(line.digest, completed)
            if completed > self._done.get(line.digest, -1):
                self._done[line.digest] = completed
                self._last_at = now
        if line.is_success:
            self._done = dict(self._sizes)
        elif not line.digest:
            self._last_at = now  # it verifies or writes: nothing has to come
        silent_s = now - self._last_at
        return Progress(
            total=self._total,
            done=sum(self._done.values()),
            bytes_per_s=self._rate(now),
            stalled_s=silent_s if silent_s >= STALL_S else 0.0,
        )

    def _rate(self, now: float) -> float:
        came = sum(done - self._there.get(digest, 0) for digest, done in self._done.items())
        self._came.append((now, came))
        while len(self._came) > 2 and self._came[1][0] <= now - WINDOW_S:
            self._came.popleft()
        since, before = self._came[0]
        return (came - before) / (now - since) if now > since else 0.0
