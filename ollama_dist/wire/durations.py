"""``keep_alive`` in all its spellings.

A number counts seconds, a string is a Go duration, anything negative means for ever, and a bare ``"5"`` is an
error (Ollama's ``api/types.go``, ``Duration.UnmarshalJSON``; Go's ``time.ParseDuration``).
"""

import math
import re
from typing import Any, Final

from ollama_dist.core.errors import BadRequest

FOREVER: Final = math.inf

_MAX_S: Final = (2**63 - 1) / 1e9
"""Go counts nanoseconds in 64 bits."""

_UNITS: Final = {
    "ns": 1e-9,
    "us": 1e-6,
    "µs": 1e-6,
    "μs": 1e-6,
    "ms": 1e-3,
    "s": 1.0,
    "m": 60.0,
    "h": 3600.0,
}
_PART: Final = re.compile(r"([0-9]*)(\.[0-9]*)?([^0-9.]*)")


class InvalidDuration(BadRequest):
    """No duration. The message is Go's."""

    code = "invalid_duration"


def keep_alive_seconds(value: Any) -> float | None:
    """Seconds the model is to stay in memory, `FOREVER` for a negative value, None where nothing is said.

    ``value`` is what JSON holds. Raises `InvalidDuration`.
    """
    match value:
        case None:
            return None
        case bool():
            raise InvalidDuration("Unsupported type: 'bool'")
        case int() | float():
            seconds = float(value)
        case str():
            seconds = parse_duration(value)
        case dict():
            raise InvalidDuration("Unsupported type: 'map[string]interface {}'")
        case _:
            raise InvalidDuration("Unsupported type: '[]interface {}'")
    return FOREVER if seconds < 0 else seconds


def is_zero(value: Any) -> bool:
    """Whether ``value`` asks for the model to go at once (Go truncates to whole nanoseconds)."""
    try:
        seconds = keep_alive_seconds(value)
    except InvalidDuration:
        return False
    return seconds is not None and seconds < 1e-9


def parse_duration(text: str) -> float:
    """Seconds in the Go duration ``text``, for example ``1h15m30.918s``. Raises `InvalidDuration`."""
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    if not rest:
        raise InvalidDuration(f"time: invalid duration {_quote(text)}")
    seconds = 0.0
    pos = 0
    while pos < len(rest):
        part = _PART.match(rest, pos)
        assert part is not None
        whole, fraction, unit = part[1], part[2] or "", part[3]
        if not whole and not fraction.strip("."):
            raise InvalidDuration(f"time: invalid duration {_quote(text)}")
        if not unit:
            raise InvalidDuration(f"time: missing unit in duration {_quote(text)}")
        if unit not in _UNITS:
            raise InvalidDuration(f"time: unknown unit {_quote(unit)} in duration {_quote(text)}")
        seconds += float(f"{whole or '0'}{fraction or '.0'}") * _UNITS[unit]
        pos = part.end()
    if seconds > _MAX_S:
        raise InvalidDuration(f"time: invalid duration {_quote(text)}")
    return -seconds if text.startswith("-") else seconds


def _quote(text: str) -> str:
    """``quote`` of Go's ``time/format.go``: anything not plain ASCII is shown as its bytes."""
    shown = []
    for char in text:
        if char in ('"', "\\"):
            shown.append(f"\\{char}")
        elif " " <= char < "\x7f":
            shown.append(char)
        else:
            shown.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8", "replace"))
    return f'"{"".join(shown)}"'
