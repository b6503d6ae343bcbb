"""Context lengths pinned per model, whatever requests ask for.

Two clients that ask one model for different lengths make an engine load it anew for each of them
(``server/sched.go``, ``needsReload``); what an engine does when nobody says depends on its machine.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from ollama_dist.core.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelKey

_PLAIN: Final = f"{DEFAULT_HOST}/{DEFAULT_NAMESPACE}/"


def is_meant(pattern: str, model: ModelKey) -> bool:
    """Whether ``pattern``, a name in which ``*`` and ``?`` stand for anything, means ``model``."""
    name, folded = model.removeprefix(_PLAIN), pattern.casefold()
    return fnmatchcase(name, folded) or fnmatchcase(name, f"{folded}:{DEFAULT_TAG}")


@dataclass(frozen=True, slots=True)
class ContextRule:
    """``pattern`` is a model's name, ``*`` and ``?`` standing for anything; ``tokens`` its context length."""

    pattern: str
    tokens: int

    def __str__(self) -> str:
        return f"{self.pattern}={self.tokens}"

    def matches(self, model: ModelKey) -> bool:
        return is_meant(self.pattern, model)


def pinned_context(rules: Sequence[ContextRule], model: ModelKey | None) -> int | None:
    """What the first rule for ``model`` says; None without one."""
    if model is None:
        return None
    return next((rule.tokens for rule in rules if rule.matches(model)), None)
