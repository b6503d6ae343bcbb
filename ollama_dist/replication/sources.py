"""Where the bytes of a model come from, whoever holds them: what readers and feeders of blobs agree on."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from ollama_dist.core.errors import DistError
from ollama_dist.core.ids import Digest
from ollama_dist.replication.manifest import Manifest


class BlobLost(DistError):
    """No source is left that could give these bytes, or none did in time."""

    code = "blob_lost"


class BlobSource(Protocol):
    """Gives ranges of the blobs of one model, every byte checked as far as it can be before it is given."""

    @property
    def manifest(self) -> Manifest: ...

    def read(self, digest: Digest, start: int, stop: int) -> AsyncIterator[bytes | memoryview]:
        """Bytes ``start`` to ``stop`` (excluded) of a blob, in order, as they arrive; raises `BlobLost`.

        Several ranges may be read at once; a reader that stops reading slows only itself. Closing the
        iterator gives up what is on its way for it.
        """
        ...


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a copy is. `done` never goes backwards."""

    total: int
    """Bytes of the whole model."""
    done: int
    """Bytes that are at the target, those that were there before included."""
    bytes_per_s: float = 0.0
    """Lately."""
    sources: tuple[str, ...] = ()
    """Names of the nodes that give lately; ``registry`` for the upstream registry."""
    stalled_s: float = 0.0
    """How long nothing has come, once that is 10 s or more; else 0."""
