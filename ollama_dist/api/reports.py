"""What ``/api/distributed/status``, ``nodes`` and ``models`` say. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import ClusterView, Engine, MemberState, NodeView
from ollama_dist.node.reports import Problem, SelfReport
from ollama_dist.node.shared import Placing
from ollama_dist.replication.moves.operations import Action
from ollama_dist.replication.moves.policies import policy_for

Json = dict[str, Any]

NOTHING_PLACED: Final = Placing()


def status(
    view: ClusterView,
    own: SelfReport,
    problems: Iterable[Problem],
    seen: Iterable[tuple[str, tuple[str, ...]]],
) -> Json:
    """The body of ``status``. ``seen``: id and addresses of clusters nearby that this node is no part of."""
    me = view.me
    states = [node.state for node in view.nodes.values()]
    engine = {**_engine(me.engine), "address": own.engine_address or None, "error": own.engine_error or None}
    serving = [node for node in view.nodes.values() if node.can_serve]
    return {
        "cluster": {
            "id": view.cluster_id,
            "nodes": sum(state is not MemberState.LEFT for state in states),
            "alive": states.count(MemberState.ALIVE),
            "suspect": states.count(MemberState.SUSPECT),
            "dead": states.count(MemberState.DEAD),
        },
        "node": {
            "id": me.id,
            "name": me.name,
            "version": me.version,
            "mode": own.mode,
            "fallback": own.fallback,
            "uptime_s": round(own.uptime_s, 1),
            "listen": own.listen,
            "reach": own.reach,
            "node_listen": own.node_listen,
        },
        "engine": engine,
        "models": {
            "names": len({key for node in serving for key in node.models}),
            "replicas": sum(len(node.models) for node in serving),
        },
        "requests": {
            "in_flight": me.load.in_flight,
            "waiting": me.load.waiting,
            "served": own.served,
            "failed": own.failed,
            "fallbacks": own.fallbacks,
        },
        "problems": [_problem(problem) for problem in problems],
        "seen": [{"cluster": cluster, "addresses": list(addresses)} for cluster, addresses in seen],
    }


def nodes(view: ClusterView) -> Json:
    """The body of ``nodes``: this node first, then by name."""
    ordered = sorted(view.nodes.values(), key=lambda node: (node.id != view.self_id, node.name, node.id))
    names = {node.id: node.name for node in view.nodes.values()}
    return {"nodes": [_node(node, names, is_self=node.id == view.self_id) for node in ordered]}


def models(view: ClusterView, placing: Placing = NOTHING_PLACED) -> Json:
    """The body of ``models``: each name with its copies, on nodes that can serve them."""
    found = (
        _model(view, key, holders, placing) for key in view.holders if (holders := view.serving_holders(key))
    )
    return {"models": sorted(found, key=lambda model: str(model["name"]))}


def _model(view: ClusterView, key: ModelKey, holders: Sequence[NodeView], placing: Placing) -> Json:
    names = {node.id: node.name for node in view.nodes.values()}
    policy = policy_for(placing.policies, key)
    moving = {node: wanted[key] for node, wanted in placing.intents.items() if key in wanted}
    held = {node.id for node in holders}
    coming = [node for node, action in moving.items() if action is Action.COPY and node not in held]
    model = view.content(key, holders)
    return {
        "name": model.name,
        "digest": model.digest,
        "identity": model.identity or None,
        "size": model.size,
        "conflict": view.is_in_conflict(key),
        "policy": policy
        and {
            "min": policy.min,
            "max": policy.max,
            "pinned": [names.get(node, node) for node in policy.pinned],
        },
        "replicas": [
            {
                "node": node.name,
                "digest": node.models[key].digest,
                "state": "leaving" if moving.get(node.id) is Action.DELETE else "ready",
                "loaded": key in node.loaded,
                "progress": None,
            }
            for node in sorted(holders, key=lambda node: node.name)
        ]
        + [
            {
                "node": names[node],
                "digest": model.digest,
                "state": "incoming",
                "loaded": False,
                "progress": placing.progress.get((node, key)),
            }
            for node in sorted(coming)
            if node in names
        ],
    }


def _node(node: NodeView, names: Mapping[NodeId, str], *, is_self: bool) -> Json:
    resources, standing = node.resources, node.standing
    accuser = NodeId(standing.accuser)
    return {
        "id": node.id,
        "name": node.name,
        "self": is_self,
        "state": node.state,
        "since": rfc3339(node.since),
        "reason": node.reason,
        "address": node.address,
        "version": node.version,
        "engine": _engine(node.engine),
        "reachable": node.reachable,
        "reach": {"to": standing.reached, "from": standing.reaches_us},
        "accused_by": names.get(accuser, accuser) or None,
        "generation": standing.generation,
        "incarnation": standing.incarnation,
        "protocol": {"min": standing.protocol[0], "max": standing.protocol[1]},
        "labels": dict(node.labels),
        "rtt_ms": None if node.rtt_s is None else round(node.rtt_s * 1000, 2),
        "age_s": round(node.age_s, 2),
        "draining": node.draining,
        "load": {
            "in_flight": node.load.in_flight,
            "waiting": node.load.waiting,
            "slots": node.load.slots,
            "tokens_per_s": round(node.load.tokens_per_s, 1),
        },
        "resources": {
            "cpus": resources.cpus,
            "memory_bytes": resources.memory_bytes,
            "memory_free_bytes": resources.memory_free_bytes,
            "disk_free_bytes": resources.disk_free_bytes,
            "gpus": [
                {
                    "name": gpu.name,
                    "memory_bytes": gpu.memory_bytes,
                    "memory_free_bytes": gpu.memory_free_bytes,
                }
                for gpu in resources.gpus
            ],
        },
        "models": {
            "installed": len(node.models),
            "loaded": sorted(model.name for model in node.loaded.values()),
        },
    }


def _problem(problem: Problem) -> Json:
    return {
        "severity": problem.severity,
        "code": problem.code,
        "message": problem.message,
        "fix": problem.fix,
    }


def _engine(engine: Engine) -> Mapping[str, Any]:
    return {"kind": engine.kind, "version": engine.version, "state": engine.state}


def rfc3339(unix_time: float) -> str:
    """A moment as our routes write it: UTC, milliseconds."""
    return datetime.fromtimestamp(unix_time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
