"""What a credential can allow: each public route asks for one of these."""

from enum import StrEnum


class Scope(StrEnum):
    PUBLIC = "public"
    """Needs nothing."""
    CHAT = "chat"
    MODELS_READ = "models-read"
    MODELS_WRITE = "models-write"
    METRICS = "metrics"
    ADMIN = "admin"
    """Only the operators' token allows it, never a client's key."""


GRANTABLE = (Scope.CHAT, Scope.MODELS_READ, Scope.MODELS_WRITE, Scope.METRICS)
"""What a client's key can be made to allow."""
