"""A request for inference: what dispatch needs to know of it, beside the bytes it came in."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ollama_dist.core.dialects import Dialect
from ollama_dist.core.ids import RequestId
from ollama_dist.core.names import ModelKey
from ollama_dist.core.values import value


class Intent(StrEnum):
    """What the caller wants done."""

    GENERATE = "generate"
    EMBED = "embed"
    LOAD = "load"
    """An empty prompt: bring the model into memory."""
    UNLOAD = "unload"
    """An empty prompt with keep_alive 0: let it go, wherever it is loaded."""


GENERATE: Final = Intent.GENERATE
EMBED: Final = Intent.EMBED
UNLOAD: Final = Intent.UNLOAD
"""By names of their own for what is done for each request: to get a member from its enumeration takes an
interpreter (3.11) as long as ten other steps."""


class Priority(StrEnum):
    INTERACTIVE = "interactive"
    NORMAL = "normal"
    BATCH = "batch"


@dataclass(frozen=True, slots=True)
class RunnerOption:
    """An option whose change makes Ollama reload the model (contract: ``num_ctx``, ``num_batch``, …)."""

    name: str
    value: int | float | bool


@value(frozen=True, slots=True)
class Place:
    """How far a request is from the slot it waits for."""

    position: int
    """1 is next; 0 has its slot."""
    expected_s: float
    """Seconds until it has one, if all goes as before."""


@value(frozen=True, slots=True)
class InferenceRequest:
    """One request, read but not rewritten: the body that travels is the caller's own bytes."""

    id: RequestId
    route: str
    """The upstream path, for example ``/api/chat``."""
    dialect: Dialect
    model_text: str
    """The model exactly as the caller wrote it."""
    model: ModelKey | None
    """None when `model_text` is empty or no model name: then an engine has to say what is wrong."""
    intent: Intent
    stream: bool
    runner_options: tuple[RunnerOption, ...] = ()
    prompt_bytes: int = 0
    """Bytes of text the engine has to read first."""
    max_tokens: int | None = None
    """The caller's own bound on the answer, where there is one."""
    gathers: bool = False
    """It brings tools or asks for a format: the engine may hold text back for long before it streams."""
    pin: str | None = None
    """A node's name or id, or labels (`core.labels`): nowhere else will do."""
    priority: Priority = Priority.NORMAL
    local_only: bool = False
    """The name ended in ``:local`` or ``:cloud``: the entry node's own engine reads that suffix."""
    complaint: str = ""
    """Why the body could not be read: then no more is known of it, and an engine has to say what is wrong."""

    @property
    def is_readable(self) -> bool:
        return not self.complaint
