"""Which identity the models have whose manifests this node may not read, by the digests the engine lists.

A digest is that of a manifest, so whoever has read one with that digest knows what is in it: this node itself
when it brought the model in, or another member. Where two members say different things nobody is believed.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

import orjson
import structlog

from ollama_dist.core.ids import is_digest
from ollama_dist.core.view import InstalledModel
from ollama_dist.runtime.private_files import write_private

log = structlog.get_logger()

FILE_NAME: Final = "identities.json"
KEPT_MAX: Final = 10_000


class Identities:
    """Those this node saw itself are kept in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE_NAME
        self._own: dict[str, str] = {}
        self._told: dict[str, str] = {}

    def of(self, digest: str) -> str:
        """Empty where it is not known."""
        return self._own.get(digest) or self._told.get(digest, "")

    def load(self) -> None:
        """Not for the event loop."""
        try:
            said = orjson.loads(self._file.read_bytes())
            pairs = ((str(digest), str(identity)) for digest, identity in said.items())
            self._own = {one: other for one, other in pairs if is_digest(one) and is_digest(other)}
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError) as error:
            log.warning("identities_lost", path=str(self._file), error=str(error))

    def learn(self, digest: str, identity: str) -> None:
        """This node has read the manifest itself. Not for the event loop."""
        if self._own.get(digest) == identity:
            return
        self._own[digest] = identity
        while len(self._own) > KEPT_MAX:
            del self._own[next(iter(self._own))]
        try:
            write_private(self._file, orjson.dumps(self._own))
        except OSError as error:
            log.warning("identity_not_kept", path=str(self._file), error=str(error))

    def hear(self, copies: Iterable[InstalledModel]) -> bool:
        """What other members say of theirs; whether that is anything new."""
        told: dict[str, set[str]] = {}
        for copy in copies:
            if copy.identity:
                told.setdefault(copy.digest, set()).add(copy.identity)
        agreed = {digest: said.pop() for digest, said in told.items() if len(said) == 1}
        is_new, self._told = agreed != self._told, agreed
        return is_new
