"""Which mode a node is in, and why. Pure but for the two switches an operator turns."""

from dataclasses import dataclass, replace
from typing import Final

from ollama_dist.core.modes import DISTRIBUTED, Mode
from ollama_dist.core.values import value
from ollama_dist.core.view import ClusterView


@dataclass(frozen=True, slots=True)
class Switches:
    """What the operator wants."""

    mode: Mode = Mode.DISTRIBUTED
    fallback: bool = True
    """Whether a request may be answered by something other than its first choice."""

    def with_mode(self, mode: Mode) -> "Switches":
        return replace(self, mode=mode)

    def with_fallback(self, fallback: bool) -> "Switches":
        return replace(self, fallback=fallback)


@value(frozen=True, slots=True)
class EffectiveMode:
    """The mode a request is served in."""

    mode: Mode
    is_fallback: bool = False
    """Peers were wanted and some are known, but none can be reached."""
    reason: str = ""
    """Snake case, for the ``X-Ollama-Fallback-Reason`` header; empty when nothing fell back."""


def effective_mode(switches: Switches, view: ClusterView) -> EffectiveMode:
    """A node that wants peers and reaches none is standalone: a fallback, if it knows of lost ones."""
    if switches.mode is not DISTRIBUTED:
        return EffectiveMode(switches.mode)
    if view.reaches_others:
        return _DISTRIBUTED
    return _CUT_OFF if view.misses_others else _ALONE


_DISTRIBUTED: Final = EffectiveMode(Mode.DISTRIBUTED)
_ALONE: Final = EffectiveMode(Mode.STANDALONE)
_CUT_OFF: Final = EffectiveMode(Mode.STANDALONE, is_fallback=True, reason="no_peer_reachable")
