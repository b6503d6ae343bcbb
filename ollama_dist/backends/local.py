"""What runs models on this machine, as the rest of the node sees it, whichever kind it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ollama_dist.backends.target import Target
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import Engine, InstalledModel, LoadedModel


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of the local engine at one moment."""

    engine: Engine = Engine()
    error: str = ""
    """Why it is not ready, for people; empty when it is."""
    is_meant: bool = False
    """A person said that there is to be no engine here: nothing is wrong then."""
    models: Mapping[ModelKey, InstalledModel] = field(default_factory=dict)
    loaded: Mapping[ModelKey, LoadedModel] = field(default_factory=dict)


Changed = Callable[[], None]


class LocalEngine(Protocol):
    """An engine of this machine. All of it may be asked at any time; nothing waits but `start` and `stop`."""

    @property
    def snapshot(self) -> Snapshot:
        """What is known now."""
        ...

    @property
    def target(self) -> Target | None:
        """Where its routes are served; None while there is no engine."""
        ...

    @property
    def slots(self) -> int:
        """Requests one loaded model answers at once."""
        ...

    @property
    def width(self) -> int:
        """Requests for one model to send there at once: `slots`, or more where these are guessed."""
        ...

    def nudge(self) -> None:
        """Something was just done there: look again soon."""
        ...

    async def start(self, changed: Changed) -> None:
        """Begin; ``changed`` is called whenever anything that is told here differs from before."""
        ...

    async def stop(self) -> None:
        """End whatever was begun, and leave no process behind."""
        ...
