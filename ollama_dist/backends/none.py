"""No engine at all: a node that only passes requests on."""

from typing import Final

from ollama_dist.backends.local import Changed, Snapshot
from ollama_dist.backends.target import Target

_SNAPSHOT: Final = Snapshot(error="this node was told to have none", is_meant=True)


class NoEngine:
    """See `LocalEngine`."""

    slots = width = 1

    @property
    def snapshot(self) -> Snapshot:
        return _SNAPSHOT

    @property
    def target(self) -> Target | None:
        return None

    def nudge(self) -> None:
        """Nothing to look at."""

    async def start(self, changed: Changed) -> None:
        """Nothing to begin; ``changed`` is never called."""

    async def stop(self) -> None:
        """Nothing to end."""
