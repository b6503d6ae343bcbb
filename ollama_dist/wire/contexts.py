"""Writing a pinned context length into a request. Pure."""

from typing import Any

from ollama_dist.wire import gojson


def with_context(body: bytes, tokens: int) -> bytes:
    """The request in ``body`` with ``options.num_ctx`` as given, whatever it said; else it says the same.

    Raises `gojson.MalformedJson`.
    """
    fields = gojson.read_object(body)
    options: Any = fields.get("options")
    if options is None or isinstance(options, dict):  # anything else is for the engine to complain of
        fields["options"] = {**(options or {}), "num_ctx": tokens}
    return gojson.encode(fields)
