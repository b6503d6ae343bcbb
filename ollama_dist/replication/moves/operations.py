"""Operations: what an operator asked to be moved, as steps that are each done by one node. Pure.

Every node that has a step of an operation keeps the whole of it and does its own steps. Of each step the
node that does it knows best; its owner, the node that was asked, decides which steps there are. So two
copies of one operation are merged without asking anybody.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from random import Random
from typing import Any, Final, NewType

from ollama_dist.core.errors import BadRequest
from ollama_dist.core.ids import NodeId, is_node_id
from ollama_dist.core.names import ModelKey, ModelName, parse_model_name

OperationId = NewType("OperationId", str)
"""The id of the node that owns it, a dash, and twelve hex digits."""

STEPS_MAX: Final = 2_000
TEXT_MAX: Final = 500
"""Characters of a reason or an error that are kept."""

_ID: Final = re.compile(r"([0-9a-f]{16})-[0-9a-f]{12}")


_LAST_MOMENT: Final = 253_402_300_800.0
"""The end of the year 9999."""


class Kind(StrEnum):
    MIGRATE = "migrate"
    REBALANCE = "rebalance"
    DRAIN = "drain"
    REPLICATE = "replicate"
    """What placement does by itself."""


class Action(StrEnum):
    COPY = "copy"
    LOAD = "load"
    """Bring it into memory."""
    UNLOAD = "unload"
    DELETE = "delete"


class State(StrEnum):
    """Of a step, and of a whole operation."""

    PLANNED = "planned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        return self in _FINAL


_FINAL: Final = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


@dataclass(frozen=True, slots=True)
class Step:
    """One model, and one node that gets it or gives it up."""

    action: Action
    model: ModelName
    reason: str
    source: NodeId | None = None
    """Of a copy or load: where it was when this was planned. Else: where it goes."""
    target: NodeId | None = None
    """Of a copy or load: where it is to be; None as long as no place is found. Else: where it stays."""
    content: str = ""
    """Which content is meant, where a name has several: as `holders.content_of` tells it."""
    bytes_total: int = 0
    after: tuple[int, ...] = ()
    """The steps that must have succeeded before."""
    attempt: int = 0
    """Raised by the owner to have it done anew, perhaps elsewhere."""
    state: State = State.PLANNED
    bytes_done: int = 0
    bytes_per_s: float = 0.0
    sources: tuple[str, ...] = ()
    stalled_s: float = 0.0
    is_forced: bool = False
    """Of a deletion: nobody else has to keep a copy."""
    note: str = ""
    """What it waits for."""
    error: str = ""
    """Why it failed."""

    @property
    def doer(self) -> NodeId | None:
        """The node that does it."""
        return self.target if self.action in (Action.COPY, Action.LOAD) else self.source

    @property
    def key(self) -> ModelKey:
        return self.model.key

    def ended(self, state: State, error: str = "") -> "Step":
        done = self.bytes_total if state is State.SUCCEEDED else self.bytes_done
        return replace(
            self,
            state=state,
            error=error[:TEXT_MAX],
            note="",
            bytes_done=done,
            bytes_per_s=0.0,
            stalled_s=0.0,
        )

    def waiting(self, note: str) -> "Step":
        return replace(self, note=note[:TEXT_MAX])


@dataclass(frozen=True, slots=True)
class Operation:
    """What was asked for, and how far it is."""

    id: OperationId
    kind: Kind
    owner: NodeId
    created_at: float
    """Unix time, for people."""
    requested_by: str
    wish: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """What was asked, in one spelling: two operations with the same wish are the same."""
    steps: tuple[Step, ...] = ()
    is_open: bool = False
    """Its owner may add steps."""
    is_cancelled: bool = False
    finished_at: float | None = None
    """Unix time, for people; told by the owner."""

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to do."""
        return not self.is_open and all(step.state.is_final for step in self.steps)

    @property
    def is_wanted(self) -> bool:
        """Whether it is under way and nobody has cancelled it."""
        return self.finished_at is None and not self.is_cancelled

    @property
    def state(self) -> State:
        if not self.is_settled:
            return State.RUNNING
        states = {step.state for step in self.steps}
        if State.FAILED in states:
            return State.FAILED
        if self.is_cancelled and (State.CANCELLED in states or self.kind is Kind.DRAIN):
            return State.CANCELLED
        return State.CANCELLED if State.CANCELLED in states else State.SUCCEEDED

    def doers(self) -> set[NodeId]:
        return {step.doer for step in self.steps if step.doer is not None}

    def with_step(self, index: int, step: Step) -> "Operation":
        steps = list(self.steps)
        steps[index] = step
        return replace(self, steps=tuple(steps))

    def with_steps(self, steps: Iterable[Step]) -> "Operation":
        return replace(self, steps=tuple(steps))


def asked_for(kind: Kind, wish: Mapping[str, Any], steps: tuple[Step, ...] = ()) -> Operation:
    """An operation that nobody owns yet."""
    said = {name: wish[name] for name in sorted(wish)}
    return Operation(OperationId(""), kind, NodeId(""), 0.0, "", said, steps)


def new_operation_id(owner: NodeId, rng: Random) -> OperationId:
    return OperationId(f"{owner}-{rng.getrandbits(48):012x}")


def parse_operation_id(text: str) -> OperationId:
    """Raises `BadRequest`."""
    if not _ID.fullmatch(text):
        raise BadRequest(f"{text[:60]!r} is not the id of an operation")
    return OperationId(text)


def owner_of(operation: OperationId) -> NodeId:
    return NodeId(operation.partition("-")[0])


def startable(operation: Operation, me: NodeId) -> Iterator[int]:
    """The steps ``me`` can begin now."""
    if operation.is_cancelled or operation.finished_at is not None:
        return
    for index, step in enumerate(operation.steps):
        if step.doer == me and step.state is State.PLANNED and _is_unblocked(operation, step):
            yield index


def awaited(operation: Operation, me: NodeId) -> set[NodeId]:
    """The nodes whose word ``me`` needs: the owner of all that do something, the others of those before."""
    steps = operation.steps
    if operation.owner == me:
        asked = {step.doer for step in steps if not step.state.is_final}
    else:
        mine = [step for step in steps if step.doer == me and not step.state.is_final]
        before = [steps[index] for step in mine for index in step.after]
        asked = {step.doer for step in before if not step.state.is_final}
        if mine:
            asked.add(operation.owner)
    return {doer for doer in asked if doer is not None and doer != me}


def tidied(operation: Operation, me: NodeId) -> Operation:
    """With the steps ended that cannot be begun any more; only those that ``me`` may speak for."""
    steps = list(operation.steps)
    for index, step in enumerate(steps):
        speaks = step.doer == me or (step.doer is None and operation.owner == me)
        if not speaks or step.state is not State.PLANNED:
            continue
        lost = [place for place in step.after if steps[place].state in (State.FAILED, State.CANCELLED)]
        if operation.is_cancelled:
            steps[index] = step.ended(State.CANCELLED)
        elif operation.owner != me and operation.finished_at is not None:
            steps[index] = step.ended(State.CANCELLED, "not done: whoever asked for it gave up waiting")
        elif lost:
            what = f"{steps[lost[0]].action} of {steps[lost[0]].model.short}"
            steps[index] = step.ended(State.CANCELLED, f"not done: the {what} before it did not succeed")
    return operation.with_steps(steps) if steps != list(operation.steps) else operation


def merged(known: Operation, heard: Operation, sender: NodeId, me: NodeId) -> Operation:
    """What is known after ``sender`` told ``heard``. Nobody is believed about what ``me`` does itself."""
    from_owner = sender == known.owner and sender != me
    pairs = zip(known.steps, heard.steps, strict=False)
    steps = [_newer(mine, theirs, sender, known.owner, me) for mine, theirs in pairs]
    steps += known.steps[len(steps) :]
    if from_owner:
        steps += heard.steps[len(steps) :]
    return replace(
        known,
        steps=tuple(steps),
        is_open=heard.is_open if from_owner else known.is_open,
        is_cancelled=known.is_cancelled or (heard.is_cancelled and from_owner),
        finished_at=heard.finished_at if from_owner else known.finished_at,
    )


def _newer(mine: Step, theirs: Step, sender: NodeId, owner: NodeId, me: NodeId) -> Step:
    """A later attempt, else what the doer says, else what the owner has heard of it; an end stays an end."""
    if mine.attempt != theirs.attempt:
        return theirs if theirs.attempt > mine.attempt else mine
    if mine.doer == me or mine.state.is_final:
        return mine
    return theirs if sender in (mine.doer, owner) else mine


def _is_unblocked(operation: Operation, step: Step) -> bool:
    return all(operation.steps[index].state is State.SUCCEEDED for index in step.after)


# As it is kept and sent


def to_document(operation: Operation) -> dict[str, Any]:
    """As JSON, for files and for other nodes."""
    return {
        "id": operation.id,
        "kind": operation.kind,
        "owner": operation.owner,
        "created_at": operation.created_at,
        "requested_by": operation.requested_by,
        "wish": dict(operation.wish),
        "steps": [_step_document(step) for step in operation.steps],
        "open": operation.is_open,
        "cancelled": operation.is_cancelled,
        "finished_at": operation.finished_at,
    }


def read_operation(document: Any) -> Operation:
    """Of what `to_document` made, perhaps on another node; raises `BadRequest`."""
    try:
        identifier = parse_operation_id(document["id"])
        steps = tuple(_read_step(step) for step in document["steps"])
        wish, finished = document["wish"], document["finished_at"]
        operation = Operation(
            id=identifier,
            kind=Kind(document["kind"]),
            owner=owner_of(identifier),
            created_at=_moment(document["created_at"]),
            requested_by=str(document["requested_by"])[:100],
            wish=wish if isinstance(wish, dict) else {},
            steps=steps,
            is_open=document["open"] is True,
            is_cancelled=document["cancelled"] is True,
            finished_at=None if finished is None else _moment(finished),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BadRequest(f"this is no operation: {error!r}") from None
    if len(steps) > STEPS_MAX or any(not 0 <= place < len(steps) for step in steps for place in step.after):
        raise BadRequest("this is no operation: its steps make no sense")
    return operation


def _step_document(step: Step) -> dict[str, Any]:
    return {
        "action": step.action,
        "model": step.model.full,
        "reason": step.reason,
        "source": step.source,
        "target": step.target,
        "content": step.content,
        "bytes_total": step.bytes_total,
        "after": step.after,
        "attempt": step.attempt,
        "forced": step.is_forced,
        "state": step.state,
        "bytes_done": step.bytes_done,
        "bytes_per_s": step.bytes_per_s,
        "sources": step.sources,
        "stalled_s": step.stalled_s,
        "note": step.note,
        "error": step.error,
    }


def _read_step(document: Any) -> Step:
    return Step(
        action=Action(document["action"]),
        model=parse_model_name(document["model"]),
        reason=str(document["reason"])[:TEXT_MAX],
        source=_node(document["source"]),
        target=_node(document["target"]),
        content=_content(document["content"]),
        bytes_total=max(0, int(document["bytes_total"])),
        after=tuple(int(place) for place in document["after"]),
        attempt=max(0, int(document["attempt"])),
        is_forced=document.get("forced") is True,
        state=State(document["state"]),
        bytes_done=max(0, int(document["bytes_done"])),
        bytes_per_s=max(0.0, float(document["bytes_per_s"])),
        sources=tuple(str(name)[:64] for name in document["sources"][:64]),
        stalled_s=max(0.0, float(document["stalled_s"])),
        note=str(document["note"])[:TEXT_MAX],
        error=str(document["error"])[:TEXT_MAX],
    )


def _moment(said: Any) -> float:
    """Unix time, as far as calendars go."""
    moment = float(said)
    if not 0.0 <= moment < _LAST_MOMENT:
        raise ValueError(f"{moment} is no moment")
    return moment


def _content(said: Any) -> str:
    return str(said) if re.fullmatch("([0-9a-f]{64})?", str(said)) else ""


def _node(said: Any) -> NodeId | None:
    if said is None:
        return None
    if not is_node_id(str(said)):
        raise ValueError(f"{str(said)[:40]!r} is no node id")
    return NodeId(said)
