"""The ``X-Ollama-Queue`` header: where in the queue a request stands, or stood. Pure."""

import re
from typing import Final

from ollama_dist.core.requests import Place

HEADER: Final = "X-Ollama-Queue"

_WRITTEN: Final = re.compile(r"position=(\d{1,6}), expected_ms=(\d{1,9})")


def wants_place(value: str) -> bool:
    """Whether the header of a request asks to be told; saying no is as if nothing was said."""
    return value.strip().lower() not in ("", "0", "false", "no")


def write_place(place: Place, waited_s: float | None = None) -> str:
    """``position=2, expected_ms=1800`` on the way; with ``waited_ms`` once the wait is over."""
    text = f"position={place.position}, expected_ms={round(place.expected_s * 1000)}"
    return text if waited_s is None else f"{text}, waited_ms={round(waited_s * 1000)}"


def read_place(text: str) -> Place | None:
    """What `write_place` wrote; None for anything else."""
    match = _WRITTEN.match(text)
    return Place(int(match[1]), int(match[2]) / 1000) if match else None
