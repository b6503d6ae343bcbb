"""``runtime.json``: how a command finds the running node, and what is last known of one that has stopped."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from ollama_dist.node.setting_values import Address, listen_on
from ollama_dist.runtime.private_files import write_private

_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the node writes when it listens, when its members change, and when it stops.

    Times are RFC 3339 UTC.
    """

    pid: int
    name: str
    node_id: str
    version: str
    listen: str
    """The public listener as bound, ``host:port``."""
    node_listen: str
    """The membership listener as bound, ``host:port``."""
    admin_token_file: str
    started_at: str
    updated_at: str
    stopped_at: str | None = None
    cluster: str = ""
    """The cluster's id; empty for a node alone."""
    peers: tuple[str, ...] = ()
    """Names of the other members that were alive."""
    models: int = 0
    """Models that could be used, in the whole cluster."""

    @property
    def address(self) -> Address:
        """Where a program on this machine connects; raises `ValueError` when `listen` is no bound address."""
        bound = listen_on("", 0)(self.listen)
        if not (bound.host and bound.port):
            raise ValueError(f"{self.listen[:80]!r} is not where something listens")
        return bound.reachable


def write_runtime(path: Path, runtime: Runtime) -> None:
    """Raises `OSError`."""
    write_private(path, json.dumps({"schema": _SCHEMA, **asdict(runtime)}, indent=1) + "\n")


def read_runtime(path: Path) -> Runtime | None:
    """What the file says; None when there is none, or none that this version understands."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found.pop("schema") != _SCHEMA:
            return None
        known = {name: found[name] for name in Runtime.__dataclass_fields__ if name in found}
        runtime = Runtime(**known | {"pid": int(known["pid"]), "peers": tuple(known.get("peers", ()))})
        _ = runtime.address
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return runtime
