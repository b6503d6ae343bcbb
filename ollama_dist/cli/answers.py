"""What a node answers on ``/api/distributed``, read leniently: a node may be older or newer than the command.

A key that is missing or of another kind counts as unknown; text loses what could steer a terminal.
Named tuples, here and in `terminal`: to define a dataclass takes a command longer than to fill a hundred.
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Problem(NamedTuple):
    """Something that is not as it should be."""

    severity: str
    code: str
    message: str
    fix: str


class Seen(NamedTuple):
    """A cluster nearby that this node does not belong to."""

    cluster: str
    addresses: tuple[str, ...]


class Status(NamedTuple):
    """``GET /api/distributed/status``; times in seconds."""

    cluster: str
    members: int
    alive: int
    suspect: int
    dead: int
    name: str
    version: str
    mode: str
    fallback: bool
    uptime_s: float
    listen: str
    reach: str
    node_listen: str
    engine_kind: str
    engine_address: str
    engine_version: str
    engine_state: str
    engine_error: str
    model_names: int
    replicas: int
    in_flight: int
    waiting: int
    served: int
    failed: int
    fallbacks: int
    problems: tuple[Problem, ...]
    seen: tuple[Seen, ...]


class Node(NamedTuple):
    """One row of ``GET /api/distributed/nodes``."""

    id: str
    name: str
    is_self: bool
    state: str
    reason: str
    address: str
    version: str
    engine_kind: str
    engine_state: str
    rtt_ms: float | None
    age_s: float
    draining: bool
    in_flight: int
    waiting: int
    tokens_per_s: float
    memory_free: int
    """Of the GPUs where there are any, else of the machine; bytes."""
    has_resources: bool
    disk_free: int | None
    """Where its models are; bytes."""
    installed: int
    loaded: tuple[str, ...]

    @property
    def is_alive(self) -> bool:
        return self.state == "alive"


class Replica(NamedTuple):
    node: str
    state: str
    loaded: bool
    progress: float | None
    """Share that has arrived, 0 to 1."""


class Model(NamedTuple):
    """One row of ``GET /api/distributed/models``."""

    name: str
    size: int
    conflict: bool
    replicas: tuple[Replica, ...]


class OperationStep(NamedTuple):
    """One step of an operation."""

    action: str
    model: str
    origin: str
    to: str
    reason: str
    bytes_total: int
    bytes_done: int
    bytes_per_s: float
    sources: tuple[str, ...]
    state: str
    note: str
    error: str


class RunningOperation(NamedTuple):
    """``GET /api/distributed/operations/ID``."""

    id: str
    kind: str
    state: str
    created_at: float
    """Unix time; 0 of a plan."""
    is_finished: bool
    requested_by: str
    steps: tuple[OperationStep, ...]


class _Reader:
    """One JSON object, asked for values by path."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def get(self, *path: str) -> Any:
        found = self._body
        for key in path:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def text(self, *path: str) -> str:
        found = self.get(*path)
        return "" if found is None else _clean(str(found))

    def number(self, *path: str) -> float:
        found = self.get(*path)
        return float(found) if isinstance(found, int | float) else 0.0

    def whole(self, *path: str) -> int:
        return int(self.number(*path))

    def flag(self, *path: str) -> bool:
        return self.get(*path) is True

    def optional(self, *path: str) -> float | None:
        return self.number(*path) if isinstance(self.get(*path), int | float) else None

    def readers(self, *path: str) -> list["_Reader"]:
        found = self.get(*path)
        return [_Reader(item) for item in found] if isinstance(found, list) else []

    def texts(self, *path: str) -> tuple[str, ...]:
        found = self.get(*path)
        return tuple(_clean(str(item)) for item in found) if isinstance(found, list) else ()


def read_status(body: Any) -> Status:
    answer = _Reader(body)
    return Status(
        cluster=answer.text("cluster", "id"),
        members=answer.whole("cluster", "nodes"),
        alive=answer.whole("cluster", "alive"),
        suspect=answer.whole("cluster", "suspect"),
        dead=answer.whole("cluster", "dead"),
        name=answer.text("node", "name"),
        version=answer.text("node", "version"),
        mode=answer.text("node", "mode"),
        fallback=answer.flag("node", "fallback"),
        uptime_s=answer.number("node", "uptime_s"),
        listen=answer.text("node", "listen"),
        reach=answer.text("node", "reach"),
        node_listen=answer.text("node", "node_listen"),
        engine_kind=answer.text("engine", "kind"),
        engine_address=answer.text("engine", "address"),
        engine_version=answer.text("engine", "version"),
        engine_state=answer.text("engine", "state"),
        engine_error=answer.text("engine", "error"),
        model_names=answer.whole("models", "names"),
        replicas=answer.whole("models", "replicas"),
        in_flight=answer.whole("requests", "in_flight"),
        waiting=answer.whole("requests", "waiting"),
        served=answer.whole("requests", "served"),
        failed=answer.whole("requests", "failed"),
        fallbacks=answer.whole("requests", "fallbacks"),
        problems=tuple(
            Problem(item.text("severity"), item.text("code"), item.text("message"), item.text("fix"))
            for item in answer.readers("problems")
        ),
        seen=tuple(Seen(item.text("cluster"), item.texts("addresses")) for item in answer.readers("seen")),
    )


def read_nodes(body: Any) -> tuple[Node, ...]:
    return tuple(_node(row) for row in _Reader(body).readers("nodes"))


def _node(row: _Reader) -> Node:
    gpus = row.readers("resources", "gpus")
    free = sum(gpu.whole("memory_free_bytes") for gpu in gpus)
    return Node(
        id=row.text("id"),
        name=row.text("name"),
        is_self=row.flag("self"),
        state=row.text("state"),
        reason=row.text("reason"),
        address=row.text("address"),
        version=row.text("version"),
        engine_kind=row.text("engine", "kind"),
        engine_state=row.text("engine", "state"),
        rtt_ms=row.optional("rtt_ms"),
        age_s=row.number("age_s"),
        draining=row.flag("draining"),
        in_flight=row.whole("load", "in_flight"),
        waiting=row.whole("load", "waiting"),
        tokens_per_s=row.number("load", "tokens_per_s"),
        memory_free=free if gpus else row.whole("resources", "memory_free_bytes"),
        has_resources=bool(gpus) or row.whole("resources", "memory_bytes") > 0,
        disk_free=None
        if row.optional("resources", "disk_free_bytes") is None
        else row.whole("resources", "disk_free_bytes"),
        installed=row.whole("models", "installed"),
        loaded=row.texts("models", "loaded"),
    )


def read_models(body: Any) -> tuple[Model, ...]:
    return tuple(
        Model(
            name=row.text("name"),
            size=row.whole("size"),
            conflict=row.flag("conflict"),
            replicas=tuple(
                Replica(item.text("node"), item.text("state"), item.flag("loaded"), item.optional("progress"))
                for item in row.readers("replicas")
            ),
        )
        for row in _Reader(body).readers("models")
    )


def read_operation(body: Any) -> RunningOperation:
    return _operation(_Reader(_Reader(body).get("operation")))


def read_operations(body: Any) -> tuple[RunningOperation, ...]:
    return tuple(_operation(row) for row in _Reader(body).readers("operations"))


def _operation(row: _Reader) -> RunningOperation:
    return RunningOperation(
        id=row.text("id"),
        kind=row.text("kind"),
        state=row.text("state"),
        created_at=_unix(row.text("created_at")),
        is_finished=row.get("finished_at") is not None,
        requested_by=row.text("requested_by"),
        steps=tuple(
            OperationStep(
                action=step.text("action"),
                model=step.text("model"),
                origin=step.text("from"),
                to=step.text("to"),
                reason=step.text("reason"),
                bytes_total=step.whole("bytes_total"),
                bytes_done=step.whole("bytes_done"),
                bytes_per_s=step.number("bytes_per_s"),
                sources=step.texts("sources"),
                state=step.text("state"),
                note=step.text("note"),
                error=step.text("error"),
            )
            for step in row.readers("steps")
        ),
    )


def _unix(text: str) -> float:
    from datetime import datetime  # for operations only

    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _clean(text: str) -> str:
    return _CONTROL.sub("?", text)
