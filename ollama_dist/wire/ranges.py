"""The ``Range`` of a request for bytes (RFC 9110 §14), as far as one range goes. Pure."""

import re
from typing import Final

from ollama_dist.core.errors import DistError

_RANGE: Final = re.compile(r"bytes=(?:(\d{1,15})-(\d{0,15})|-(\d{1,15}))", re.ASCII)


class RangeNotSatisfiable(DistError):
    """The range begins after the last byte."""

    status = 416
    code = "range_not_satisfiable"


def read_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of what is wanted of ``size``; None for all of it.

    What is no single range of bytes counts as not said, as the RFC has it. Raises `RangeNotSatisfiable`.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None:
        return None
    first, last, suffix = match.groups()
    if suffix is not None:
        start, stop = max(0, size - int(suffix)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= stop:
        raise RangeNotSatisfiable(f"there are {size} bytes")
    return start, stop


def content_range(start: int, stop: int, size: int) -> str:
    """The ``Content-Range`` of an answer with the bytes ``start`` to ``stop`` (excluded) of ``size``."""
    return f"bytes {start}-{stop - 1}/{size}"
