"""What a node remembers of its cluster across restarts: its generation, and where it last saw the others.

A disk that fails costs a slower start next time, never the node: it is said and lived with.
"""

import asyncio
from base64 import b64decode, b64encode
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from ollama_dist.core.errors import ConfigError
from ollama_dist.gossip.codec import decode_claim, encode_claim
from ollama_dist.gossip.protocol.effects import Gone
from ollama_dist.gossip.protocol.messages import GENERATION_LIMIT
from ollama_dist.runtime.private_files import read_private, write_private

log = structlog.get_logger()

FORMAT: Final = 1
MAX_PEERS: Final = 64
MAX_GONE: Final = 16
"""Peers remembered that are there no more; each costs an attempt now and then."""

MAX_LOST: Final = 64
"""Members that are gone, of which is remembered since when and why."""

MAX_STATE: Final = 4096
"""Bytes of an entry of what a member said of itself."""

MAX_ADDRESS: Final = 300


@dataclass(frozen=True, slots=True)
class Memory:
    """All that is remembered."""

    generation: int = 0
    """Of the last start; 0 before the first."""
    cluster_id: str = ""
    peers: tuple[str, ...] = ()
    """Where its members were, ``host:port``, those that were there last first."""
    gone: tuple[Gone, ...] = ()
    """Members that died or left, the last first; `Gone.since` in Unix time here."""

    def gone_from(self, cluster_id: str) -> tuple[Gone, ...]:
        return self.gone if cluster_id == self.cluster_id else ()

    def peers_in(self, cluster_id: str) -> tuple[str, ...]:
        """Where to look for that cluster: what is remembered of another is of no use."""
        return self.peers if cluster_id == self.cluster_id else ()

    def renewed(
        self, generation: int, cluster_id: str, peers: tuple[str, ...], lost: tuple[Gone, ...] = ()
    ) -> "Memory":
        """With ``peers`` as they are now, and some that were there before.

        Where all nodes are switched off in the evening, each sees the others leave, and yet they have to find
        each other in the morning.
        """
        gone = [peer for peer in self.peers_in(cluster_id) if peer not in peers]
        return Memory(generation, cluster_id, (*peers[:MAX_PEERS], *gone[:MAX_GONE]), lost[:MAX_LOST])


class Store:
    """One file. Saving happens off the event loop, one at a time, and only the newest of several."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saving = asyncio.Lock()
        self._newest: Memory | None = None
        self.problem = ""
        """Why the last save failed; empty when it did not."""

    def load(self) -> Memory:
        """What was saved last; nothing, and a line in the log, when that cannot be read."""
        try:
            data = read_private(self._path)
            return Memory() if data is None else _decode(data)
        except (ConfigError, ValueError) as error:
            log.warning("membership_forgotten", path=str(self._path), error=str(error))
            return Memory()

    async def save(self, memory: Memory) -> None:
        """Put ``memory`` on disk, or note in `problem` why not."""
        self._newest = memory
        async with self._saving:
            newest = self._take_newest()
            if newest is None:
                return  # whoever had the lock before saved what is newer
            try:
                await asyncio.to_thread(write_private, self._path, _encode(newest))
            except OSError as error:
                self._report(str(error.strerror or error))
            else:
                self.problem = ""

    def _take_newest(self) -> Memory | None:
        newest, self._newest = self._newest, None
        return newest

    def _report(self, problem: str) -> None:
        if problem != self.problem:
            log.error("membership_not_saved", path=str(self._path), error=problem)
        self.problem = problem


def _encode(memory: Memory) -> bytes:
    said = {
        "format": FORMAT,
        "generation": memory.generation,
        "cluster": memory.cluster_id,
        "peers": memory.peers,
        "gone": [_gone_to(each) for each in memory.gone],
    }
    return orjson.dumps(said)


def _decode(data: bytes) -> Memory:
    """Raises `ValueError` for what is not ours; peers that make no sense are left out."""
    said = orjson.loads(data)
    if not isinstance(said, dict) or said.get("format") != FORMAT:
        raise ValueError("not in the form this version writes")
    generation = said.get("generation")
    if not isinstance(generation, int) or not 0 <= generation < GENERATION_LIMIT:
        raise ValueError("no generation")
    peers = said.get("peers")
    listed = peers if isinstance(peers, list) else []
    sensible = [each for each in listed if isinstance(each, str) and 0 < len(each) <= MAX_ADDRESS]
    gone = said.get("gone")
    lost = [_gone_from(each) for each in (gone if isinstance(gone, list) else [])[:MAX_LOST]]
    return Memory(
        generation,
        str(said.get("cluster", "")),
        tuple(sensible[: MAX_PEERS + MAX_GONE]),
        tuple(each for each in lost if each is not None),
    )


def _gone_to(gone: Gone) -> dict[str, Any]:
    return {
        "claim": b64encode(encode_claim(gone.signed)).decode(),
        "left": gone.has_left,
        "since": gone.since,
        "reason": gone.reason,
        "forgotten": gone.is_forgotten,
        "state": {key: b64encode(value).decode() for key, value in gone.state.items()},
    }


def _gone_from(said: Any) -> Gone | None:
    """None for what cannot be read: that member is not listed then, and nothing else."""
    try:
        signed = decode_claim(b64decode(said["claim"]))
        state = {str(key): b64decode(value) for key, value in said["state"].items()}
        if signed is None or any(len(value) > MAX_STATE for value in state.values()):
            return None
        flags = bool(said["left"]), float(said["since"]), str(said["reason"]), bool(said["forgotten"])
        return Gone(signed, *flags, state)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
