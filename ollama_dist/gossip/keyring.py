"""The cluster's key and, while two are valid, the one before: what is true of them across restarts."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from ollama_dist.core.errors import ConfigError
from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.keys import ClusterKey
from ollama_dist.runtime.private_files import read_private, write_private

log = structlog.get_logger()

OVERLAP_MAX_S: Final = 3600.0
"""No two keys are valid together for longer, whoever has not come to hear of the new one."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """What this node holds."""

    current: ClusterKey
    previous: ClusterKey | None = None
    """The key that is being replaced, as long as it is still accepted."""
    until: float = 0.0
    """Unix time after which it is not, in any case."""
    grace_s: float = 0.0
    """How long it still is once all members that live have the current one."""
    only: frozenset[NodeId] | None = None
    """From whom it is accepted; None: from everybody."""
    revoked: NodeId | None = None
    """Whom the rotation is to keep out, where it is to revoke somebody."""
    by: str = ""
    """Who revoked it, for people."""
    revoked_by: str = ""
    """Who revoked this node, and so took it out of the cluster; empty where nobody did."""

    def with_successor(
        self,
        key: ClusterKey,
        *,
        lasts_s: float,
        grace_s: float = 0.0,
        only: frozenset[NodeId] | None = None,
        revoked: NodeId | None = None,
        by: str = "",
    ) -> "Keyring":
        """``key`` in place of the current one. Of two successors of one key the lesser counts for nothing."""
        replaced = self.previous if self.previous and key.epoch == self.current.epoch else self.current
        until = time.time() + min(max(lasts_s, 0.0), OVERLAP_MAX_S)
        grace_s = min(max(grace_s, 0.0), OVERLAP_MAX_S)
        return Keyring(key, replaced, until, grace_s, only, revoked, by)

    def left_s(self) -> float:
        """Seconds for which the previous key may still be accepted, whatever the clock on the wall does."""
        return min(max(self.until - time.time(), 0.0), OVERLAP_MAX_S) if self.previous else 0.0

    def settled(self) -> "Keyring":
        """Only the current key is valid."""
        return Keyring(self.current)


class KeyringFile:
    """Beside the key itself: what a restart in the middle of a rotation has to know."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self, base: ClusterKey) -> Keyring:
        """What holds for the key ``base`` (its file's, or set from outside): a successor of it that came by
        rotation wins. What cannot be read is as if not there, and said."""
        try:
            data = read_private(self._path)
            kept = _decode(orjson.loads(data)) if data is not None else None
        except (ConfigError, ValueError) as error:
            log.warning("rotation_forgotten", path=str(self._path), error=str(error))
            kept = None
        if kept is None or not (kept.current == base or kept.current.replaces(base)):
            return Keyring(base)
        return kept if kept.left_s() else replace(kept, previous=None, only=None)

    def save(self, ring: Keyring) -> None:
        """Raises `ConfigError`."""
        try:
            write_private(self._path, orjson.dumps(_encode(ring)))
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror or error}") from error


def _encode(ring: Keyring) -> dict[str, Any]:
    return {
        "current": ring.current.text,
        "previous": ring.previous.text if ring.previous else None,
        "until": ring.until,
        "grace_s": ring.grace_s,
        "only": None if ring.only is None else sorted(ring.only),
        "revoked": ring.revoked,
        "by": ring.by,
        "revoked_by": ring.revoked_by,
    }


def _decode(said: Any) -> Keyring:
    """Raises `ValueError` or `ConfigError`."""
    if not isinstance(said, Mapping):
        raise ValueError("not an object")
    previous, only = said.get("previous"), said.get("only")
    try:
        return Keyring(
            ClusterKey.parse(str(said.get("current"))),
            ClusterKey.parse(str(previous)) if previous else None,
            float(said.get("until", 0.0)),
            float(said.get("grace_s", 0.0)),
            None if only is None else frozenset(map(NodeId, only)),
            NodeId(str(said["revoked"])) if said.get("revoked") else None,
            str(said.get("by", "")),
            str(said.get("revoked_by", "")),
        )
    except TypeError as error:
        raise ValueError(str(error)) from error
