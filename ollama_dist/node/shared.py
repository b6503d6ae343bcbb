"""What nodes tell each other about placing models: policies, deletions, demand, what each is about to do."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack
import structlog

from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.protocol.effects import MemberView
from ollama_dist.replication.moves import demand
from ollama_dist.replication.moves.demand import Demand, DemandMeter
from ollama_dist.replication.moves.operations import Action
from ollama_dist.replication.moves.policies import KIND, Policy, policies_of
from ollama_dist.replication.moves.records import Record, Records, pack, told_by, unpack
from ollama_dist.replication.moves.shelf import Shelf
from ollama_dist.runtime.tasks import Tasks

log = structlog.get_logger()

DEMAND_KEY: Final = "x:demand"
INTENTS_KEY: Final = "x:intents"
INTENTS_MAX: Final = 32

_FILE: Final = "records"


@dataclass(frozen=True, slots=True)
class Placing:
    """What is known of where models are to be."""

    policies: Sequence[Policy] = ()
    intents: Mapping[NodeId, Mapping[ModelKey, Action]] = field(default_factory=dict)
    progress: Mapping[tuple[NodeId, ModelKey], float] = field(default_factory=dict)
    """The share that is there of copies on their way, as far as this node has a part in them."""


class Shared:
    """``changed`` is called when this node has something else to tell than before."""

    def __init__(self, shelf: Shelf, changed: Callable[[], None]) -> None:
        self.records = Records()
        self.intents: dict[NodeId, dict[ModelKey, Action]] = {}
        """Of the living others."""
        self.own_intents: dict[ModelKey, Action] = {}
        self._meter = DemandMeter()
        self.note_request = self._meter.note
        """A client asked for a model; times are those of ``time.monotonic``."""
        self._told_demand = b""
        self._demand: dict[NodeId, dict[ModelKey, Demand]] = {}
        self._shelf = shelf
        self._changed = changed
        self._heard: dict[NodeId, tuple[int, int]] = {}
        self._saving = Tasks()
        self._policies: tuple[Policy, ...] | None = None

    def load(self, documents: Mapping[str, Any]) -> None:
        rows = documents.get(_FILE, {})
        packed = rows.get("records", []) if isinstance(rows, dict) else []
        found = [unpack(bytes.fromhex(row)) for row in packed if isinstance(row, str)]
        self.records = Records(record for record in found if record is not None)
        self._policies = None

    async def stop(self) -> None:
        await self._saving.stop()

    # Records

    @property
    def policies(self) -> tuple[Policy, ...]:
        if self._policies is None:
            self._policies = policies_of(self.records.of(KIND))
        return self._policies

    async def write(self, kind: str, name: str, value: Mapping[str, Any] | None, author: NodeId) -> Record:
        """Raises `BadRequest`, and `OSError` where it cannot be kept, though the others are told."""
        record = self.records.write(kind, name, value, author)
        self._renewed()
        await self._save()
        return record

    async def leave(self) -> None:
        """This node is in another cluster now: what was agreed in the one before is not for that one."""
        self.records = Records()
        self._heard.clear()
        self._renewed()
        await self._save_quietly()

    def forget(self, kind: str, names: Sequence[str]) -> None:
        if self.records.forget(kind, names):
            self._renewed()
            self._saving.start(self._save_quietly(), "records-save")

    # Intents and demand

    def intend(self, model: ModelKey, action: Action | None) -> None:
        """Say what this node is about to do; None: nothing any more."""
        if action is None:
            self.own_intents.pop(model, None)
        else:
            self.own_intents[model] = action
        self._changed()

    def tell_demand(self) -> None:
        """Bring what is told of it up to date; it is coarse, so that this seldom changes anything."""
        packed = demand.pack(self._meter.now(time.monotonic()))
        if packed != self._told_demand:
            self._told_demand = packed
            self._changed()

    def demand(self) -> dict[ModelKey, Demand]:
        """Of the whole cluster."""
        return demand.total([self._meter.now(time.monotonic()), *self._demand.values()])

    # Gossip

    def entries(self) -> dict[str, bytes]:
        """What this node tells."""
        told = self.records.entries()
        if self.own_intents:
            rows = [[model, action] for model, action in self.own_intents.items()]
            told[INTENTS_KEY] = msgpack.packb(rows[:INTENTS_MAX])
        if self._told_demand:
            told[DEMAND_KEY] = self._told_demand
        return told

    def hear(self, members: Sequence[MemberView]) -> None:
        """Take over what the others tell; what dead ones told of themselves counts for nothing."""
        heard = False
        for member in members:
            if member.is_self:
                continue
            if member.state not in (MemberState.ALIVE, MemberState.SUSPECT):
                self._heard.pop(member.id, None)
                self.intents.pop(member.id, None)
                self._demand.pop(member.id, None)
                continue
            version = (member.generation, member.cold_version)
            if self._heard.get(member.id) == version:
                continue
            self._heard[member.id] = version
            self.intents[member.id] = _intents(member.cold.get(INTENTS_KEY, b""))
            self._demand[member.id] = demand.unpack(member.cold.get(DEMAND_KEY, b""))
            heard |= self.records.hear(told_by(member.cold))
        if heard:
            self._renewed()
            self._saving.start(self._save_quietly(), "records-save")

    # Keeping

    def _renewed(self) -> None:
        self._policies = None
        self._changed()

    async def _save(self) -> None:
        rows = [pack(record).hex() for record in self.records.all()]
        await asyncio.shield(self._shelf.save(_FILE, {"records": rows}))

    async def _save_quietly(self) -> None:
        try:
            await self._save()
        except OSError as error:
            log.warning("records_not_kept", error=str(error))


def _intents(data: bytes) -> dict[ModelKey, Action]:
    try:
        rows = msgpack.unpackb(data) if data else []
    except (ValueError, msgpack.UnpackException):
        return {}
    found = {}
    for row in rows[:INTENTS_MAX] if isinstance(rows, list) else ():
        if isinstance(row, list) and len(row) == 2 and isinstance(row[0], str) and row[1] in set(Action):
            found[ModelKey(row[0])] = Action(row[1])
    return found
