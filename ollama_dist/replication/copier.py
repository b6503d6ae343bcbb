"""Getting a model onto this node, whatever runs models here: what those who decide ask for."""

from collections.abc import Callable, Sequence
from typing import Protocol

from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName
from ollama_dist.replication.sources import Progress


class Copier(Protocol):
    """Gets models from other nodes onto this one, and takes them off it."""

    async def copy(
        self,
        name: ModelName,
        identity: Digest | None,
        holders: Sequence[NodeId],
        tell: Callable[[Progress], None],
    ) -> None:
        """Get the model from ``holders``; returns when it is installed and checked.

        ``identity`` (see `Manifest.identity`) is what it must be; None: whatever they have. Raises kinds of
        `DistError`. Who is cancelled can go on later: what has arrived is kept.
        """
        ...

    async def delete(self, name: ModelName) -> None:
        """Take the model off this node."""
        ...
