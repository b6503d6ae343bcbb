"""What an operator's wish comes to: the steps of moving one model, and of emptying a node. Pure."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Final

from ollama_dist.core.errors import BadRequest, DistError, ModelNotFound
from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey, parse_model_name
from ollama_dist.core.view import ClusterView, EngineKind, InstalledModel, NodeView
from ollama_dist.replication.intake.ollama_calls import DiskFull
from ollama_dist.replication.intake.room import check_room, size_text
from ollama_dist.replication.moves.holders import content_of, has, holders, keepers, only_here
from ollama_dist.replication.moves.operations import Action, Operation, State, Step
from ollama_dist.replication.moves.spare import spares

_IN_MEMORY: Final = "in memory on %s"

TOLD_MAX: Final = 5
"""Models that are named of those a node could do without."""

RETRY_S: Final = 30.0
"""After so long a drain tries again what failed, elsewhere where it can."""


class Impossible(DistError):
    """What is wished cannot be done as things are; nothing was changed."""

    status = 409
    code = "impossible"


class LastCopy(Impossible):
    """Nobody else would have the model then."""

    code = "last_copy"


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
    load: bool,
    reserve: int,
    pinned: Callable[[NodeId, ModelKey], bool],
) -> tuple[Step, ...]:
    """The steps that bring a model to a node, and away from where it was unless that copy is kept.

    What leaves memory comes into memory there first, if ``load`` and if it fits.

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
    steps: list[Step] = []
    if not has(target, name.key, content):
        _check_target(view, target, name.key, copy, reserve, pinned)
        steps.append(Step(Action.COPY, name, "asked for", start.id, target.id, content, copy.size))
    if not keep_source and start.id != target.id:
        if pinned(start.id, name.key):
            raise Impossible(f"{copy.name} is pinned on {start.name}; it can be copied, not moved")
        if name.key in start.loaded:
            if load and name.key not in target.loaded and fits_in_memory(target, copy.size):
                _add(steps, Step(Action.LOAD, name, _IN_MEMORY % start.name, start.id, target.id, content))
            _add(steps, Step(Action.UNLOAD, name, f"moved to {target.name}", start.id, target.id, content))
        _add(steps, Step(Action.DELETE, name, f"moved to {target.name}", start.id, target.id, content))
    return tuple(steps)


def removal(
    view: ClusterView,
    model: str,
    node: str,
    *,
    force: bool,
    pinned: Callable[[NodeId, ModelKey], bool],
) -> tuple[Step, ...]:
    """The steps by which one node gives its copy up; the last that stays only with ``force``.

    Raises `BadRequest`, `ModelNotFound`, `NodeNotFound` and `Impossible`.
    """
    name = parse_model_name(model)
    holder = view.find(node)
    if holder not in holders(view, name.key):
        raise ModelNotFound(f"{holder.name} does not have {name.short}, or cannot be reached")
    copy = holder.models[name.key]
    content = content_of(copy)
    if pinned(holder.id, name.key):
        raise Impossible(f"{copy.name} is pinned on {holder.name} (ollama-dist policy list)")
    kept = keepers(view, name.key, content, but=holder.id)
    if not kept and not force:
        raise LastCopy(
            f"{holder.name} has the last copy of {copy.name} that stays; nobody would have it then"
        )
    reason = "asked for, though nobody else keeps it"
    if kept:
        reason = f"asked for; also on {', '.join(each.name for each in kept)}"
    steps: list[Step] = []
    if name.key in holder.loaded:
        _add(steps, Step(Action.UNLOAD, name, reason, holder.id, None, content))
    _add(steps, Step(Action.DELETE, name, reason, holder.id, None, content, is_forced=not kept))
    return tuple(steps)


def _add(steps: list[Step], step: Step) -> None:
    """As the last one, after all the others."""
    steps.append(replace(step, after=tuple(range(len(steps)))))


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


def _check_target(
    view: ClusterView,
    target: NodeView,
    key: ModelKey,
    copy: InstalledModel,
    reserve: int,
    pinned: Callable[[NodeId, ModelKey], bool],
) -> None:
    model, size = copy.name, copy.size
    if not target.can_serve or target.engine.kind is EngineKind.NONE:
        raise Impossible(f"{target.name} cannot take a model now: {_trouble(target)}")
    if target.draining:
        raise Impossible(f"{target.name} is being drained")
    if has(target, key):
        raise Impossible(f"{target.name} has another model called {model}; delete or rename that one first")
    lacking = room_for(target, size, reserve)
    if lacking:
        raise NoRoom(f"{target.name} has no room for {model}: {lacking}{_could_go(view, target, pinned)}")


def _could_go(view: ClusterView, node: NodeView, pinned: Callable[[NodeId, ModelKey], bool]) -> str:
    """What that node could do without, for people."""
    spare = [each for each in spares(view, node) if not pinned(node.id, each.key)]
    told = [f"{each.name} ({size_text(each.size)}, also on {', '.join(each.others)})" for each in spare]
    if not told:
        return "; nothing there could go: it is in use, pinned, or nowhere else"
    more = f" and {len(told) - TOLD_MAX} more" if len(told) > TOLD_MAX else ""
    return f"; there could go: {', '.join(told[:TOLD_MAX])}{more} (ollama-dist rm MODEL --node {node.name})"


def fits_in_memory(node: NodeView, size: int) -> bool:
    """Whether a model of so many bytes can be in memory there at all, as far as is known."""
    memory = node.resources.memory_bytes + sum(gpu.memory_bytes for gpu in node.resources.gpus)
    return not memory or size <= memory


def room_for(node: NodeView, size: int, reserve: int, freed: int = 0) -> str:
    """Why ``size`` bytes do not fit there while ``reserve`` stay free; empty where they do or might.

    ``freed`` bytes are given up before.
    """
    free = node.resources.disk_free_bytes
    try:
        if free is not None:
            check_room(size, free + freed, reserve)
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

    What is in memory here and nowhere else comes into memory where it stays, and then leaves it here.
    ``choose`` gives a node for a model, or none and why. It ends when nothing is left to copy.
    """
    steps = list(operation.steps)
    lonely = set(only_here(view))
    known = {step.key: index for index, step in enumerate(steps) if step.action is Action.COPY}
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
        is_superfluous = step.key not in lonely and not step.state.is_final and step.target is None
        if step.action is Action.COPY and is_superfluous:
            steps[index] = step.ended(State.SUCCEEDED)
    steps += _handed_over(steps, view)
    return replace(operation, steps=tuple(steps))


def _handed_over(steps: list[Step], view: ClusterView) -> Iterator[Step]:
    """What can be done now for the models in memory here."""
    me = view.me
    planned = {(step.action, step.key): step for step in steps}
    for key in sorted(set(me.loaded) & set(me.models)):
        copy = me.models[key]
        name, content = parse_model_name(copy.name), content_of(copy)
        stay = keepers(view, key, content, but=me.id)
        load = planned.get((Action.LOAD, key))
        able = [node for node in stay if fits_in_memory(node, copy.size)]
        is_needed = load is None and not any(key in node.loaded for node in stay)
        if is_needed and able:
            target = max(able, key=lambda node: (_free_memory(node), node.id))
            yield Step(Action.LOAD, name, _IN_MEMORY % me.name, me.id, target.id, content)
        elif stay and (load is None or load.state.is_final) and (Action.UNLOAD, key) not in planned:
            yield Step(Action.UNLOAD, name, f"{me.name} is being drained", me.id, None, content)


def _free_memory(node: NodeView) -> int:
    return node.resources.vram_free_bytes or node.resources.memory_free_bytes


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
