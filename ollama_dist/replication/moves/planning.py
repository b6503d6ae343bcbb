"""What an operator's wish comes to: the steps of moving one model, and of emptying a node. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from ollama_dist.core.errors import BadRequest, DistError, ModelNotFound
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey, parse_model_name
from ollama_dist.core.view import ClusterView, EngineKind, NodeView
from ollama_dist.replication.intake.ollama_calls import DiskFull
from ollama_dist.replication.intake.room import check_room
from ollama_dist.replication.moves.holders import content_of, has, holders, only_here
from ollama_dist.replication.moves.operations import Action, Operation, State, Step

RETRY_S: Final = 30.0
"""After so long a drain tries again what failed, elsewhere where it can."""


class Impossible(DistError):
    """What is wished cannot be done as things are; nothing was changed."""

    status = 409
    code = "impossible"


class NoRoom(Impossible):
    """The disk there is too full."""

    code = "no_room"


def migration(
    view: ClusterView,
    model: str,
    to: str,
    source: str | None,
    *,
    keep_source: bool,
    reserve: int,
    pinned: Callable[[NodeId, ModelKey], bool],
) -> tuple[Step, ...]:
    """The steps that bring a model to a node, and away from where it was unless that copy is kept.

    Raises `BadRequest`, `ModelNotFound`, `NodeNotFound` and `Impossible`.
    """
    name = parse_model_name(model)
    target = view.find(to)
    there = holders(view, name.key)
    if not there:
        raise ModelNotFound(f"no node that can be reached has {name.short}")
    start = _start(view, there, target, source, name.key, keep_source=keep_source)
    copy = start.models[name.key]
    content = content_of(copy)
    steps = []
    if not has(target, name.key, content):
        _check_target(target, name.key, copy.name, copy.size, reserve)
        steps.append(Step(Action.COPY, name, "asked for", start.id, target.id, content, copy.size))
    if not keep_source and start.id != target.id:
        if pinned(start.id, name.key):
            raise Impossible(f"{copy.name} is pinned on {start.name}; it can be copied, not moved")
        after = tuple(range(len(steps)))
        steps.append(
            Step(Action.DELETE, name, f"moved to {target.name}", start.id, target.id, content, after=after)
        )
    return tuple(steps)


def _start(
    view: ClusterView,
    there: list[NodeView],
    target: NodeView,
    source: str | None,
    key: ModelKey,
    *,
    keep_source: bool,
) -> NodeView:
    """The copy that is meant."""
    if source is not None:
        start = view.find(source)
        if start.id == target.id:
            raise BadRequest(f'"from" and "to" are both {start.name}')
        if start not in there:
            raise ModelNotFound(f"{start.name} does not have it, or cannot be reached")
        return start
    elsewhere = [node for node in there if node.id != target.id]
    if not elsewhere:
        return target
    names = ", ".join(node.name for node in elsewhere)
    if view.is_in_conflict(key) and not has(target, key):
        raise Impossible(f'its copies on {names} differ; say with "from" which is meant')
    if len(elsewhere) > 1 and not keep_source:
        raise BadRequest(f'it is on {names}; say with "from" which copy moves, or keep them ("keep_source")')
    return elsewhere[0]


def _check_target(target: NodeView, key: ModelKey, model: str, size: int, reserve: int) -> None:
    if not target.can_serve or target.engine.kind is EngineKind.NONE:
        raise Impossible(f"{target.name} cannot take a model now: {_trouble(target)}")
    if target.draining:
        raise Impossible(f"{target.name} is being drained")
    if has(target, key):
        raise Impossible(f"{target.name} has another model called {model}; delete or rename that one first")
    lacking = room_for(target, size, reserve)
    if lacking:
        raise NoRoom(f"{target.name} has no room for {model}: {lacking}")


def room_for(node: NodeView, size: int, reserve: int) -> str:
    """Why ``size`` bytes do not fit there while ``reserve`` stay free; empty where they do or might."""
    free = node.resources.disk_free_bytes
    try:
        if free is not None:
            check_room(size, free, reserve)
    except DiskFull as full:
        return str(full)
    return ""


def _trouble(node: NodeView) -> str:
    if not node.is_routable:
        return f"it is {node.state}" if node.state != "alive" else "it cannot be reached from here"
    return "it has no engine" if node.engine.kind is EngineKind.NONE else "its engine does not answer"


# Emptying a node


def drained(
    operation: Operation,
    view: ClusterView,
    choose: Callable[[ModelKey], tuple[NodeId | None, str]],
    now: float,
    tried_at: Mapping[ModelKey, float],
) -> Operation:
    """The drain of this node as it stands: a copy for each model that nobody else keeps.

    ``choose`` gives a node for a model, or none and why. It ends when nothing is left to copy.
    """
    steps = list(operation.steps)
    lonely = set(only_here(view))
    known = {step.key: index for index, step in enumerate(steps)}
    for key in sorted(lonely):
        index = known.get(key)
        if index is None:
            steps.append(_from(view, key))
            index = len(steps) - 1
        step = steps[index]
        if step.state in (State.FAILED, State.SUCCEEDED, State.CANCELLED):
            if now - tried_at.get(key, 0.0) < RETRY_S:
                continue
            step = replace(step, target=None, state=State.PLANNED, attempt=step.attempt + 1, bytes_done=0)
        if step.target is None:
            target, why = choose(key)
            step = replace(step, target=target, note=why)
        steps[index] = step
    for index, step in enumerate(steps):
        if step.key not in lonely and not step.state.is_final and step.target is None:
            steps[index] = step.ended(State.SUCCEEDED)
    return replace(operation, steps=tuple(steps))


def is_drained(operation: Operation, view: ClusterView) -> bool:
    """Whether this node can be switched off: every model is kept elsewhere and no request runs here."""
    return (
        not any(only_here(view))
        and all(step.state.is_final for step in operation.steps)
        and not view.me.load.in_flight
    )


def _from(view: ClusterView, key: ModelKey) -> Step:
    copy = view.me.models[key]
    name = parse_model_name(copy.name)
    return Step(
        Action.COPY, name, f"only {view.me.name} has it", view.self_id, None, content_of(copy), copy.size
    )
