"""Ollama's ``options``: which there are, their types and defaults, and what llama-server calls them.

Sources: Ollama's ``api/types.go`` (``Options``, ``FromMap``) and ``llm/llama_server.go``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from ollama_dist.core.errors import DistError

OPEN_ENDED_CONTEXTS: Final = 10
"""An answer without a bound of its own ends after as many times its context."""

NUM_BATCH: Final = 512


class WrongOption(DistError):
    """An option of a wrong type: Ollama finds that out while scheduling and answers 500."""

    status = 500
    code = "wrong_option"


@dataclass(frozen=True, slots=True)
class RunnerOptions:
    """What a runner was started with: a request that wants another value has it started anew."""

    num_ctx: int
    """Tokens of context per slot."""
    num_batch: int = NUM_BATCH
    num_gpu: int = -1
    """Layers on the GPU; negative: as many as fit."""
    main_gpu: int = 0
    use_mmap: bool = True
    num_thread: int = 0
    """0: as the engine's settings say."""
    shift: bool = True
    """Drop the middle of a full context and go on, instead of ending the answer."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are chosen, and when to stop."""

    num_keep: int = 4
    seed: int = -1
    num_predict: int = -1
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_last_n: int = 64
    temperature: float = 0.8
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()

    def as_body(self, num_ctx: int) -> dict[str, Any]:
        """The fields of a request to llama-server for a model with ``num_ctx`` tokens of context."""
        limit = OPEN_ENDED_CONTEXTS * num_ctx
        n_predict = limit if self.num_predict <= 0 else min(self.num_predict, limit)
        return {
            "n_predict": n_predict,
            "n_keep": self.num_keep,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "stop": list(self.stop),
            "repeat_penalty": self.repeat_penalty,
            "repeat_last_n": self.repeat_last_n,
            "frequency_penalty": self.frequency_penalty,
            "presence_penalty": self.presence_penalty,
            "typical_p": self.typical_p,
            "seed": self.seed,
        }


def read_options(
    runner: RunnerOptions, sampling: Sampling, options: Mapping[str, Any]
) -> tuple[RunnerOptions, Sampling]:
    """Both with what ``options`` sets; null and names not known here are passed over.

    Raises `WrongOption` in Ollama's words.
    """
    told = {
        name: _READERS[name](name, value)
        for name, value in options.items()
        if value is not None and name in _READERS
    }
    return (
        replace(runner, **{name: value for name, value in told.items() if name in _RUNNER}),
        replace(sampling, **{name: value for name, value in told.items() if name in _SAMPLING}),
    )


def _integer(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongOption(f'option "{name}" must be of type integer')
    return int(max(-_MAX_INT, min(value, _MAX_INT)))


def _real(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise WrongOption(f'option "{name}" must be of type float32')
    return float(value)


def _boolean(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise WrongOption(f'option "{name}" must be of type boolean')
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise WrongOption(f'option "{name}" must be of type array')
    if not all(isinstance(item, str) for item in value):
        raise WrongOption(f'option "{name}" must be of an array of strings')
    return tuple(value)


_MAX_INT: Final = 2**31 - 1
"""llama.cpp counts in 32 bits."""

_RUNNER: Final = frozenset(field.name for field in fields(RunnerOptions)) - {"shift"}
_SAMPLING: Final = frozenset(field.name for field in fields(Sampling))
_REALS: Final = frozenset(
    (
        "top_p",
        "min_p",
        "typical_p",
        "temperature",
        "repeat_penalty",
        "presence_penalty",
        "frequency_penalty",
    )
)
_READERS: Final[Mapping[str, Callable[[str, Any], Any]]] = {
    **dict.fromkeys(_RUNNER | _SAMPLING, _integer),
    **dict.fromkeys(_REALS, _real),
    "use_mmap": _boolean,
    "stop": _texts,
}
