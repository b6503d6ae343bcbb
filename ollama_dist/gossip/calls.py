"""How a call between members can fail, and the names calls have on the wire."""

from typing import Final

from ollama_dist.gossip.protocol.effects import Failure
from ollama_dist.gossip.protocol.messages import Kind

SERVICE: Final = "ollama_dist.rpc.v1.Membership"

METHODS: Final = {
    Kind.PING: "Ping",
    Kind.PING_REQ: "PingReq",
    Kind.SYNC: "Sync",
    Kind.GOSSIP: "Gossip",
    Kind.LEAVE: "Leave",
}

MAX_MESSAGE: Final = 64 * 1024
"""Bytes, checked before anything parses them."""

TLS_BUFFER: Final = 4096
"""Bytes that each end of each connection holds ready for a TLS record: hardly a message needs more, and gRPC
would take 16 KiB."""


class CallFailed(Exception):
    """A call that got no reply, and why."""

    def __init__(
        self, kind: Failure, detail: str, *, is_rotated: bool = False, is_stale: bool = False
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.is_rotated = is_rotated
        """Whether it is this node that has an older key of the cluster than is valid there."""
        self.is_stale = is_stale
        """Whether the connection was made by a key that is valid no more: a new one may do."""
