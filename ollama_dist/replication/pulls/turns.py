"""Who asks the upstream registry for a model that nobody has: one node at a time.

Whoever wants it asks the same node for a turn, which everybody finds by hashing what is wanted with the ids
of all (rendezvous hashing, Thaler and Ravishankar 1998). The turn lasts as long as the connection on which it
was given. The next in line usually finds that it can have the model from the one before.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from ollama_dist.backends.http1 import Connection
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import Busy, UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.runtime.tasks import background, end

SUBJECTS_LIMIT: Final = 256
"""Contents that turns are wanted for at once."""

WAITING_LIMIT: Final = 1024

LATELY_S: Final = 10.0
"""After a turn: everybody has heard by then what came of it."""


def arbiter(subject: Digest, nodes: Iterable[NodeId]) -> NodeId:
    """The node that gives turns for ``subject``: the same one for everybody who sees the same nodes."""
    return max(nodes, key=lambda node: hashlib.sha256(f"{subject} {node}".encode()).digest())


@dataclass(slots=True)
class _Line:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    people: int = 0


class Turns:
    """What an arbiter keeps: a line of those who wait, per subject."""

    def __init__(self) -> None:
        self._lines: dict[Digest, _Line] = {}
        self._ended: OrderedDict[Digest, tuple[float, NodeId]] = OrderedDict()
        """When the last turn ended, by loop time, and whose it was."""

    def __len__(self) -> int:
        return sum(line.people for line in self._lines.values())

    @asynccontextmanager
    async def turn(self, subject: Digest, who: NodeId) -> AsyncIterator[bool]:
        """Wait for a turn and have it while inside; gives whether somebody else had one just before.

        Raises `Busy` where too many wait.
        """
        if len(self) >= WAITING_LIMIT or (subject not in self._lines and len(self._lines) >= SUBJECTS_LIMIT):
            raise Busy("too many models are waited for here")
        line = self._lines.setdefault(subject, _Line())
        line.people += 1
        try:
            async with line.lock:
                try:
                    at, before = self._ended.get(subject, (float("-inf"), who))
                    yield before != who and self._now() - at < LATELY_S
                finally:
                    self._note_end(subject, who)
        finally:
            line.people -= 1
            if not line.people:
                del self._lines[subject]

    def _note_end(self, subject: Digest, who: NodeId) -> None:
        self._ended[subject] = self._now(), who
        self._ended.move_to_end(subject)
        while len(self._ended) > SUBJECTS_LIMIT:
            self._ended.popitem(last=False)

    def _now(self) -> float:
        return asyncio.get_running_loop().time()


WAITING: Final = b'{"turn": "waiting"}\n'
YOURS: Final = b'{"turn": "yours"}\n'
YOURS_AFTER: Final = b'{"turn": "yours", "is_after": true}\n'

BEAT_S: Final = 2.0
"""How often the arbiter says that it is still there."""

SILENCE_S: Final = 10.0


class RemoteTurn:
    """A turn that another node has given. It lasts until `end`."""

    def __init__(self, target: Target, connection: Connection, *, is_after: bool) -> None:
        self.is_after = is_after
        self._target = target
        self._connection = connection
        self._reading = background(self._read(), "turn")

    async def end(self) -> None:
        await end(self._reading)
        self._target.drop(self._connection)

    async def _read(self) -> None:
        """Its beats, so that they do not pile up. An arbiter that dies now takes nothing from us."""
        with suppress(UpstreamFailed):
            while await self._connection.read(asyncio.get_running_loop().time() + SILENCE_S):
                pass


async def remote_turn(target: Target | None, subject: Digest, me: NodeId) -> RemoteTurn:
    """Wait for a turn that ``target`` gives; raises `UpstreamFailed` where it does not or dies before."""
    if target is None:
        raise UpstreamFailed("it cannot be reached")
    path = f"/replication/turns/{subject}?node={me}"
    connection, head = await target.open("POST", path, [], b"", head_timeout=SILENCE_S, is_fresh=True)
    try:
        if head.status != 200:
            raise UpstreamFailed(f"it gives no turns ({head.status})")
        said = b""
        while YOURS not in said and YOURS_AFTER not in said:
            beat = await connection.read(asyncio.get_running_loop().time() + SILENCE_S)
            if not beat:
                raise UpstreamFailed("it ended the line")
            said = (said + beat)[-256:]
    except BaseException:
        target.drop(connection)
        raise
    return RemoteTurn(target, connection, is_after=YOURS_AFTER in said)
