"""What the operations' routes say. Pure."""

from collections.abc import Mapping

from ollama_dist.api.reports import Json, rfc3339
from ollama_dist.core.ids import NodeId
from ollama_dist.replication.moves.operations import Operation, State, Step
from ollama_dist.replication.moves.policies import Policy


def render(operation: Operation, names: Mapping[NodeId, str]) -> Json:
    """One operation; one without an id is only a plan."""
    is_plan = not operation.id
    return {
        "id": operation.id or None,
        "kind": operation.kind,
        "state": State.PLANNED if is_plan else operation.state,
        "created_at": None if is_plan else rfc3339(operation.created_at),
        "finished_at": None if operation.finished_at is None else rfc3339(operation.finished_at),
        "requested_by": operation.requested_by,
        "owner": _name(operation.owner, names),
        "steps": [_step(step, names) for step in operation.steps],
    }


def render_policy(policy: Policy, names: Mapping[NodeId, str]) -> Json:
    return {
        "pattern": policy.pattern,
        "min": policy.min,
        "max": policy.max,
        "pinned": [names.get(node, node) for node in policy.pinned],
    }


def _step(step: Step, names: Mapping[NodeId, str]) -> Json:
    return {
        "action": step.action,
        "model": step.model.short,
        "from": _name(step.source, names),
        "to": _name(step.target, names),
        "reason": step.reason,
        "bytes_total": step.bytes_total,
        "bytes_done": step.bytes_done,
        "bytes_per_s": round(step.bytes_per_s),
        "sources": [names.get(NodeId(source), source) for source in step.sources],
        "stalled_s": round(step.stalled_s, 1),
        "state": step.state,
        "note": step.note or None,
        "error": step.error or None,
    }


def _name(node: NodeId | None, names: Mapping[NodeId, str]) -> str | None:
    return names.get(node, node) if node else None
