"""Embeddings: cut, brought to length one, printed."""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Final

import orjson

from ollama_dist.core.errors import BadRequest

Vector = Sequence[float]

_SMALLEST: Final = 1e-12
"""A vector of zeros stays one."""


def normalized(vector: Vector) -> list[float]:
    """``vector`` at length one. Raises `BadRequest` if there is no such thing."""
    length = math.sqrt(math.fsum(value * value for value in vector))
    if not math.isfinite(length):
        raise BadRequest("embedding contains NaN or Inf values")
    return [value / max(length, _SMALLEST) for value in vector]


def shortened(vector: Vector, dimensions: int) -> list[float]:
    """The first ``dimensions`` values at length one; all of them for 0 or more than there are."""
    return normalized(vector[:dimensions] if dimensions > 0 else vector)


def printed(vector: Vector) -> orjson.Fragment:
    """JSON of ``vector`` with as many digits as a 32-bit float has: half the bytes, and no less is told."""
    return orjson.Fragment("[" + ",".join(map(_DIGITS, vector)) + "]")


_DIGITS: Final = "{:.9g}".format


def packed_vector(vector: Vector) -> str:
    """Base64 of little-endian 32-bit floats."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()
