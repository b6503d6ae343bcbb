"""What a call between members is called, and how it can fail."""

from enum import StrEnum


class Method(StrEnum):
    PING = "Ping"
    PING_REQ = "PingReq"
    SYNC = "Sync"
    GOSSIP = "Gossip"
    LEAVE = "Leave"


class Failure(StrEnum):
    REFUSED = "refused"
    """Nobody listens there."""
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    """No way there, or the connection broke."""
    REJECTED = "rejected"
    """Somebody answered and would not have it."""


class CallFailed(Exception):
    """A call that got no reply, and why."""

    def __init__(self, kind: Failure, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
