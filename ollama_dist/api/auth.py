"""Who may use which scope."""

import hashlib
import hmac

from ollama_dist.api.routes import Scope
from ollama_dist.core.errors import Unauthorized


class Authorizer:
    """Holds the operators' token and compares in constant time. An empty token never authorises anybody."""

    def __init__(self, admin_token: str) -> None:
        self._admin = _digest(admin_token) if admin_token else None

    def check(self, scope: Scope, authorization: str) -> None:
        """Raises `Unauthorized` unless the ``Authorization`` header allows ``scope``."""
        if scope is not Scope.ADMIN:
            return
        kind, _, token = authorization.partition(" ")
        # Digests are of one length, so the comparison takes the same time however wrong the token is.
        matches = hmac.compare_digest(_digest(token.strip()), self._admin or _digest(""))
        if self._admin is None or kind.lower() != "bearer" or not matches:
            raise Unauthorized("this route needs the admin token: Authorization: Bearer <token>")


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
