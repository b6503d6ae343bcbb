"""Keys of clients: what is kept of each, how one is made, and how a presented one is recognised.

A key is 256 random bits, so a plain SHA-256 of it is kept and compared; who reads the file cannot use it. Any
number of keys are valid beside each other: to change one is to add the new before the old is revoked.
"""

import hashlib
import hmac
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from ollama_dist.core.errors import BadRequest, ConfigError, NotFound
from ollama_dist.core.scopes import GRANTABLE, Scope
from ollama_dist.node.setting_values import Secret
from ollama_dist.runtime.private_files import make_private_folder, read_private, write_private

PREFIX: Final = "odc1-"
USUAL: Final = (Scope.CHAT, Scope.MODELS_READ)
"""What a key allows where nobody says: asking models and seeing which there are."""

KEYS_MAX: Final = 1000
NAME_MAX: Final = 64
LOOK_S: Final = 1.0
"""How soon a running node notices that keys were added or revoked."""

_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class Share:
    """How much one caller may ask for. 0: as much as it likes."""

    per_minute: int = 0
    """Requests begun."""
    at_once: int = 0
    """Requests under way."""


SHARE_MAX: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class ClientKey:
    """What is kept of a key."""

    name: str
    scopes: tuple[Scope, ...]
    digest: str
    """SHA-256 of its text, in hex."""
    created_at: str
    """RFC 3339 UTC."""
    share: Share | None = None
    """None: what the node gives everybody."""

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes


def new_key(
    name: str, scopes: Iterable[Scope] = USUAL, share: Share | None = None
) -> tuple[ClientKey, Secret]:
    """A key and its text, which is kept nowhere. Raises `BadRequest` for an impossible name or scope."""
    import secrets  # for making one; looking needs none

    if not name.isprintable() or not 0 < len(name) <= NAME_MAX or name != name.strip():
        raise BadRequest(f"a key's name has 1 to {NAME_MAX} printable characters, not {name[:80]!r}")
    granted = tuple(scope for scope in GRANTABLE if scope in set(scopes))
    if not granted:
        raise BadRequest("a key must allow something")
    text = PREFIX + secrets.token_urlsafe(32)
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return ClientKey(name, granted, _digest(text), created, share), Secret(text)


def parse_scopes(text: str) -> tuple[Scope, ...]:
    """Scopes separated by commas; raises `BadRequest` for one that cannot be granted."""
    words = [word.strip().lower() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in GRANTABLE]
    if unknown:
        raise BadRequest(f"{unknown[0]!r} is no scope of a key; known: {', '.join(GRANTABLE)}")
    return tuple(Scope(word) for word in words)


class KeyFile:
    """The keys in a file, read again when it has changed."""

    def __init__(self, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._keys: tuple[ClientKey, ...] = ()
        self._seen: tuple[int, int] | None = None
        """Time of change and size of the file as it was read."""
        self._looked_at = float("-inf")

    def keys(self) -> tuple[ClientKey, ...]:
        """All that are valid now. Raises `ConfigError` when the file cannot be read."""
        now = self._clock()
        if now - self._looked_at >= LOOK_S:
            self._look()
            self._looked_at = now
        return self._keys

    def find(self, text: str) -> ClientKey | None:
        """The key with this text. As slow for a wrong one as for a right one; raises `ConfigError`."""
        digest, found = _digest(text), None
        for key in self.keys():
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def add(self, key: ClientKey) -> None:
        """Raises `BadRequest` (the name is taken, there are too many) and `ConfigError` (not writable)."""
        known = self._fresh()
        if any(each.name == key.name for each in known):
            raise BadRequest(f"there is a key called {key.name!r} already; revoke it, or take another name")
        if len(known) >= KEYS_MAX:
            raise BadRequest(f"there are {KEYS_MAX} keys already; revoke some")
        self._write((*known, key))

    def revoke(self, name: str) -> None:
        """Raises `NotFound`, and `ConfigError` when it cannot be kept."""
        known = self._fresh()
        left = tuple(key for key in known if key.name != name)
        if len(left) == len(known):
            raise NotFound(f"no key is called {name!r}")
        self._write(left)

    def _fresh(self) -> tuple[ClientKey, ...]:
        self._looked_at = float("-inf")
        return self.keys()

    def _look(self) -> None:
        try:
            status = self._path.stat()
        except FileNotFoundError:
            self._keys, self._seen = (), None
            return
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read: {error.strerror or error}") from error
        seen = status.st_mtime_ns, status.st_size
        if seen != self._seen:
            self._keys = _read(self._path)
            self._seen = seen

    def _write(self, keys: tuple[ClientKey, ...]) -> None:
        rows = [_row(key) for key in keys]
        make_private_folder(self._path.parent)
        try:
            write_private(self._path, json.dumps({"schema": _SCHEMA, "keys": rows}, indent=1) + "\n")
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be written: {error.strerror or error}") from error
        self._looked_at = float("-inf")


def _read(path: Path) -> tuple[ClientKey, ...]:
    try:
        document = json.loads(read_private(path) or b"{}")
        if document["schema"] != _SCHEMA:
            raise ConfigError(f"{path} was written by a version of ollama-dist that this one does not know")
        return tuple(_key(row) for row in document["keys"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is damaged; delete it and make new keys: {error!r}") from error


def _row(key: ClientKey) -> dict[str, Any]:
    row = {"name": key.name, "scopes": key.scopes, "sha256": key.digest, "created_at": key.created_at}
    return row if key.share is None else {**row, "share": asdict(key.share)}


def _key(row: dict[str, Any]) -> ClientKey:
    scopes = tuple(Scope(scope) for scope in row["scopes"])
    share = Share(int(row["share"]["per_minute"]), int(row["share"]["at_once"])) if "share" in row else None
    return ClientKey(str(row["name"]), scopes, str(row["sha256"]), str(row["created_at"]), share)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
