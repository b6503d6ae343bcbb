"""Who may use which scope.

On loopback whoever reaches the listener is this machine's user. On a listener that is open to the network a
client shows a key, as the official libraries do: ``Authorization: Bearer`` or Anthropic's ``x-api-key``.
"""

import hashlib
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import structlog

from ollama_dist.api.heads import Incoming
from ollama_dist.core.dialects import Dialect
from ollama_dist.core.errors import ConfigError, DistError, Forbidden, TooManyAttempts, Unauthorized
from ollama_dist.core.scopes import Scope
from ollama_dist.core.values import value
from ollama_dist.node.client_keys import KeyFile, Share
from ollama_dist.node.setting_values import is_loopback
from ollama_dist.runtime.rate import RateLimit

log = structlog.get_logger()

CALLERS_KEPT: Final = 1024
"""Of so many it is remembered who they are."""

ATTEMPTS_PER_S: Final = 0.2
ATTEMPTS_AT_ONCE: Final = 10.0
"""Wrong keys from one address before it has to wait."""


@value(frozen=True, slots=True)
class Caller:
    """Who asks, as far as a request tells."""

    credential: str
    """What was shown as a key; empty for nothing."""
    address: str
    """IP address of the connection."""
    is_forwarded: bool = False
    host: str | None = "localhost"
    """The host it believes to talk to, without a port; None where it names none."""

    @property
    def is_here(self) -> bool:
        """A program on this machine that means this machine: a proxy in between says another."""
        return (
            not self.is_forwarded
            and is_loopback(self.address)
            and self.host is not None
            and is_loopback(self.host)
        )


def caller_of(request: Incoming) -> Caller:
    head, shown = request.head, request.api_key.strip()
    if said := request.authorization:
        kind, _, token = said.partition(" ")
        shown = token.strip() if kind.lower() == "bearer" else shown
    return Caller(shown, request.remote or "", head.is_forwarded, head.host)


NO_END: Final = Share()


@value(frozen=True, slots=True)
class Identity:
    """Who a caller turned out to be."""

    tenant: str
    """Tells callers apart: the digest of a key, or where somebody without one asks from."""
    share: Share | None = None
    """How much it may ask for; None: as much as it likes."""


@dataclass(frozen=True, slots=True)
class ClientPolicy:
    """Which clients have to show a key. Without a file of keys none has to."""

    keys: KeyFile | None = None
    trusts_this_machine: bool = True
    """Programs on this machine need none."""
    share: Share = NO_END
    """What each gets whose key says nothing else, and each address without a key; this machine has no end."""


NO_KEYS: Final = ClientPolicy()


class Authorizer:
    """Holds the operators' token and the clients' policy. An empty token never authorises anybody."""

    def __init__(
        self,
        admin_token: str,
        policy: ClientPolicy = NO_KEYS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admin = _digest(admin_token) if admin_token else None
        self._policy = policy
        self._clock = clock
        self._without_key = lru_cache(maxsize=CALLERS_KEPT)(self._identify)
        self._attempts = RateLimit(ATTEMPTS_PER_S, ATTEMPTS_AT_ONCE)

    def admit(self, scope: Scope, dialect: Dialect, request: Incoming) -> Identity:
        """Who makes ``request``; raises as `check`. Most show no key, and nothing of them is new."""
        if not request.api_key and not request.authorization:
            head = request.head
            known = self._without_key(scope, request.remote or "", head.is_forwarded, head.host)
            if known is not None:
                return known
        return self.check(scope, dialect, caller_of(request))

    def check(self, scope: Scope, dialect: Dialect, caller: Caller) -> Identity:
        """Who may use ``scope``; raises `Unauthorized`, `Forbidden` or `TooManyAttempts` for others."""
        if caller.credential and self._is_admin(caller.credential):
            return Identity("admin")
        known = self._without_key(scope, caller.address, caller.is_forwarded, caller.host)
        if known is not None:
            return known
        if scope is Scope.ADMIN:
            raise Unauthorized("this route needs the admin token: Authorization: Bearer <token>")
        assert self._policy.keys is not None
        return self._known(self._policy.keys, scope, dialect, caller)

    def _identify(self, scope: Scope, address: str, is_forwarded: bool, host: str | None) -> Identity | None:
        """Who needs no key; None for who does. Hardly anything changes less: it is remembered."""
        if scope is Scope.PUBLIC:
            return Identity("")
        is_here = Caller("", address, is_forwarded, host).is_here
        needs_key = self._policy.keys is not None and not (self._policy.trusts_this_machine and is_here)
        if scope is Scope.ADMIN or needs_key:
            return None
        return Identity(address, None if is_here else self._policy.share)

    def _known(self, keys: KeyFile, scope: Scope, dialect: Dialect, caller: Caller) -> Identity:
        if not caller.credential:
            raise _refusal(dialect, "this node wants a key: `ollama-dist key add` makes one")
        try:
            key = keys.find(caller.credential)
        except ConfigError as error:  # nobody gets in by a broken file
            log.error("client_keys_unreadable", error=str(error))
            raise Forbidden("this node cannot read its keys; see its log") from error
        if key is None:
            if not self._attempts.allows(caller.address, self._clock()):
                raise TooManyAttempts("too many wrong keys from this address; wait some seconds")
            raise _refusal(dialect, "this node does not know that key")
        if not key.allows(scope):
            raise Forbidden(f"the key {key.name!r} does not allow {scope}")
        return Identity(key.digest, key.share or self._policy.share)

    def _is_admin(self, credential: str) -> bool:
        if self._admin is None:
            return False
        # Digests are of one length, so the comparison takes the same time however wrong the token is.
        return hmac.compare_digest(_digest(credential), self._admin)


def _refusal(dialect: Dialect, text: str) -> DistError:
    """401 where it means a key is missing; to Ollama's own clients it would mean signing in at ollama.com."""
    return Forbidden(text) if dialect is Dialect.OLLAMA else Unauthorized(text)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()
