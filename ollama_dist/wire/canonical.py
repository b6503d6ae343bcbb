"""When two requests must have the same answer, and whether theirs is settled by what they say. Pure."""

from typing import Any, Final

import orjson

from ollama_dist.core.dialects import Dialect
from ollama_dist.core.requests import InferenceRequest, Intent
from ollama_dist.wire import gojson
from ollama_dist.wire.compressed import CannotDecompress, decompress_zstd

_WITHOUT_EFFECT: Final = ("keep_alive", "user", "metadata")
"""Fields that do not change what is answered."""


def canonical(request: InferenceRequest, body: bytes, *, is_zstd: bool = False) -> bytes | None:
    """The request in one spelling of many; None when another answer would be as good.

    An answer is settled by temperature 0 or a seed; an embedding always is. The same texts in another order
    of fields or with other white space are one request; another model name is another one.
    """
    if request.intent not in (Intent.GENERATE, Intent.EMBED):
        return None
    try:
        fields = gojson.read_object(decompress_zstd(body) if is_zstd else body)
    except (gojson.MalformedJson, CannotDecompress):
        return None
    if request.intent is Intent.GENERATE and not _is_settled(request.dialect, fields):
        return None
    said = {name: value for name, value in fields.items() if name not in _WITHOUT_EFFECT}
    try:
        return orjson.dumps(said, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # nested too deep, or a number beyond 64 bits
        return None


def _is_settled(dialect: Dialect, fields: dict[str, Any]) -> bool:
    options = fields.get("options") if dialect is Dialect.OLLAMA else fields
    if not isinstance(options, dict):
        return False
    temperature, seed = options.get("temperature"), options.get("seed")
    is_number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    has_seed = isinstance(seed, int) and not isinstance(seed, bool) and seed >= 0
    return (is_number and temperature == 0) or has_seed
