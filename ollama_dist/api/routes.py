"""The public routes as data: one row each. Dispatch, authorisation and the API reference read this table.

The Ollama rows are Ollama's own (``server/routes.go``); which servers know which route depends on their age.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from ollama_dist.core.dialects import Dialect
from ollama_dist.core.scopes import Scope

JSON_LIMIT: Final = 64 * 2**20
"""Bytes of a JSON body: pictures travel inside them as base64."""

AUDIO_LIMIT: Final = 64 * 2**20
"""Bytes of a form with a recording: OpenAI takes 25 MiB, and it is kept whole to be sent again elsewhere."""

ADMIN_LIMIT: Final = 2**20
"""Bytes of a JSON body on our own routes."""


class Where(StrEnum):
    """Who answers."""

    HERE = "here"
    """This process."""
    SCHEDULED = "scheduled"
    """The node the scheduler picks."""
    UNION = "union"
    """This process, from what all nodes have."""
    HOLDER = "holder"
    """A node that has the model: this one if it can."""
    SOURCE = "source"
    """A node that has the model it begins with: this one if it can, or if what it takes was given to it."""
    HOLDERS = "holders"
    """Every node that has the model; this one's engine where nobody has."""
    PULL = "pull"
    """The engine of the node the request came to or names; bytes come from wherever they are."""
    ENTRY = "entry"
    """The engine of the node the request came to."""


@dataclass(frozen=True, slots=True)
class Route:
    """One row. ``{name}`` in the path, last or before a last word, matches one segment."""

    method: str
    path: str
    where: Where
    scope: Scope
    dialect: Dialect = Dialect.OLLAMA
    name: str = ""
    """What answers it, for rows this process answers itself."""
    idempotent: bool = True
    """Whether doing it twice equals doing it once."""
    body_limit: int | None = 0
    """Bytes a body may have; 0: the route takes none and one is ignored; None: streamed, any size."""
    is_deep: bool = False
    """Its parameter, the last part of the path, may span several segments."""

    @property
    def key(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def is_plain(self) -> bool:
        """Whether what answers it wants nothing of a request but its head and its body."""
        return self.where in (Where.SCHEDULED, Where.HOLDER, Where.UNION) or self.name in ("root", "version")

    @property
    def is_ours(self) -> bool:
        """Whether Ollama has no such route: its errors are then told in our own form."""
        return self.path.startswith(("/api/distributed", "/admin", "/healthz", "/metrics", "/replication"))


def _inference(path: str, dialect: Dialect, limit: int = JSON_LIMIT) -> Route:
    return Route("POST", path, Where.SCHEDULED, Scope.CHAT, dialect, body_limit=limit)


def _entry(
    method: str, path: str, scope: Scope, *, limit: int | None = JSON_LIMIT, idempotent: bool = False
) -> Route:
    return Route(method, path, Where.ENTRY, scope, idempotent=idempotent, body_limit=limit)


def _at_source(path: str) -> Route:
    return Route("POST", path, Where.SOURCE, Scope.MODELS_WRITE, idempotent=False, body_limit=JSON_LIMIT)


def _on_holders(method: str, path: str) -> Route:
    return Route(method, path, Where.HOLDERS, Scope.MODELS_WRITE, idempotent=False, body_limit=JSON_LIMIT)


def _ours(method: str, path: str, name: str, scope: Scope, *, limit: int = 0, is_deep: bool = False) -> Route:
    return Route(
        method,
        path,
        Where.HERE,
        scope,
        name=name,
        idempotent=method != "POST",
        body_limit=limit,
        is_deep=is_deep,
    )


OLLAMA_ROUTES: Final = (
    Route("GET", "/", Where.HERE, Scope.PUBLIC, name="root"),
    Route("HEAD", "/", Where.HERE, Scope.PUBLIC, name="root"),
    Route("GET", "/api/version", Where.HERE, Scope.PUBLIC, name="version"),
    Route("HEAD", "/api/version", Where.HERE, Scope.PUBLIC, name="version"),
    Route("GET", "/api/tags", Where.UNION, Scope.MODELS_READ, name="tags"),
    Route("HEAD", "/api/tags", Where.UNION, Scope.MODELS_READ, name="tags"),
    Route("GET", "/api/ps", Where.UNION, Scope.MODELS_READ, name="ps"),
    Route("GET", "/v1/models", Where.UNION, Scope.MODELS_READ, Dialect.OPENAI, name="v1_models"),
    Route("GET", "/v1/models/{model}", Where.HOLDER, Scope.MODELS_READ, Dialect.OPENAI),
    Route("POST", "/api/show", Where.HOLDER, Scope.MODELS_READ, body_limit=JSON_LIMIT),
    _inference("/api/generate", Dialect.OLLAMA),
    _inference("/api/chat", Dialect.OLLAMA),
    _inference("/api/embed", Dialect.OLLAMA),
    _inference("/api/embeddings", Dialect.OLLAMA),
    _inference("/v1/chat/completions", Dialect.OPENAI),
    _inference("/v1/completions", Dialect.OPENAI),
    _inference("/v1/embeddings", Dialect.OPENAI),
    _inference("/v1/responses", Dialect.RESPONSES),
    _inference("/v1/messages", Dialect.ANTHROPIC),
    _inference("/v1/audio/transcriptions", Dialect.OPENAI, AUDIO_LIMIT),
    replace(_entry("POST", "/api/pull", Scope.MODELS_WRITE), where=Where.PULL),
    _at_source("/api/push"),
    _at_source("/api/create"),
    _on_holders("POST", "/api/copy"),
    _on_holders("DELETE", "/api/delete"),
    _entry("HEAD", "/api/blobs/{digest}", Scope.MODELS_WRITE, limit=0, idempotent=True),
    _entry("POST", "/api/blobs/{digest}", Scope.MODELS_WRITE, limit=None),
    _entry("GET", "/api/status", Scope.MODELS_READ, limit=0, idempotent=True),
    _entry("POST", "/api/me", Scope.MODELS_WRITE),
    _entry("POST", "/api/signout", Scope.MODELS_WRITE),
    _entry("DELETE", "/api/user/keys/{key}", Scope.MODELS_WRITE),
    _entry("POST", "/api/experimental/web_search", Scope.CHAT),
    _entry("POST", "/api/experimental/web_fetch", Scope.CHAT),
    _entry("GET", "/api/experimental/model-recommendations", Scope.MODELS_READ, limit=0, idempotent=True),
)

DISTRIBUTED_ROUTES: Final = (
    _ours("GET", "/healthz", "healthz", Scope.PUBLIC),
    _ours("GET", "/api/distributed/status", "status", Scope.MODELS_READ),
    _ours("GET", "/api/distributed/nodes", "nodes", Scope.MODELS_READ),
    _ours("GET", "/api/distributed/models", "models", Scope.MODELS_READ),
    _ours("GET", "/api/distributed/decisions", "decisions", Scope.MODELS_READ),
    _ours("GET", "/api/distributed/decisions/{id}", "decision", Scope.MODELS_READ),
    _ours("GET", "/api/distributed/openapi.json", "openapi", Scope.PUBLIC),
    _ours("GET", "/api/distributed/docs", "docs", Scope.PUBLIC),
    _ours("GET", "/api/distributed/docs/page.js", "docs_script", Scope.PUBLIC),
    _ours("GET", "/api/distributed/docs/page.css", "docs_style", Scope.PUBLIC),
    _ours("POST", "/api/distributed/invite", "invite", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("POST", "/api/distributed/join", "join", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("POST", "/api/distributed/leave", "leave", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("POST", "/api/distributed/rotate", "rotate", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("POST", "/api/distributed/revoke", "revoke", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("POST", "/api/distributed/forget", "forget", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("POST", "/api/distributed/migrate", "migrate", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("POST", "/api/distributed/rebalance", "rebalance", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("GET", "/api/distributed/policies", "policies", Scope.MODELS_READ),
    _ours("GET", "/api/distributed/policies/{pattern}", "policy", Scope.MODELS_READ, is_deep=True),
    _ours(
        "PUT",
        "/api/distributed/policies/{pattern}",
        "set_policy",
        Scope.ADMIN,
        limit=ADMIN_LIMIT,
        is_deep=True,
    ),
    _ours("DELETE", "/api/distributed/policies/{pattern}", "remove_policy", Scope.ADMIN, is_deep=True),
    _ours("POST", "/api/distributed/drain", "drain", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("POST", "/api/distributed/undrain", "undrain", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("GET", "/api/distributed/operations", "operations", Scope.MODELS_READ),
    _ours("GET", "/api/distributed/operations/{operation}", "operation", Scope.MODELS_READ),
    _ours("POST", "/api/distributed/operations/{operation}/cancel", "cancel", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("GET", "/api/distributed/scrub", "scrub", Scope.MODELS_READ),
    _ours("POST", "/api/distributed/scrub", "begin_scrub", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("POST", "/admin/mode", "mode", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("POST", "/admin/fallback", "fallback", Scope.ADMIN, limit=ADMIN_LIMIT),
    _ours("GET", "/admin/stats", "stats", Scope.ADMIN),
    _ours("GET", "/metrics", "metrics", Scope.METRICS),
)

REPLICATION_ROUTES: Final = (
    _ours("GET", "/replication/manifest", "replication_manifest", Scope.MODELS_READ),
    _ours("GET", "/replication/pieces/{digest}", "replication_pieces", Scope.MODELS_READ),
    _ours("GET", "/replication/blobs/{digest}", "replication_blob", Scope.MODELS_READ),
    _ours("POST", "/replication/checks/{digest}", "replication_check", Scope.MODELS_READ),
    _ours("POST", "/replication/lines/{digest}", "replication_line", Scope.MODELS_READ),
    _ours("POST", "/replication/loans", "replication_loan", Scope.MODELS_READ),
    _ours("POST", "/replication/turns/{digest}", "replication_turn", Scope.MODELS_READ),
)
"""What members ask each other to copy models; not for clients."""

ROUTES: Final = OLLAMA_ROUTES + DISTRIBUTED_ROUTES
