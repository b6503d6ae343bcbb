"""Request bodies compressed with zstd, opened within a bound.

Ollama takes them with a window of at most 8 MiB and up to 20 MiB of content (``middleware/openai.go``).
"""

import sys
from typing import Final

if sys.version_info >= (3, 14):
    from compression.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
else:
    from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError

from ollama_dist.core.errors import BadRequest

MAX_DECOMPRESSED_BYTES: Final = 20 * 2**20
MAX_WINDOW_LOG: Final = 23
"""The base-two logarithm of the largest window: 8 MiB."""


class CannotDecompress(BadRequest):
    """The bytes are no zstd, broken off, or too large when opened."""

    code = "cannot_decompress"


def decompress_zstd(data: bytes, *, limit: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """The content of the zstd frames in ``data``, at most ``limit`` bytes. Raises `CannotDecompress`."""
    content = bytearray()
    while data:
        decompressor = ZstdDecompressor(options={DecompressionParameter.window_log_max: MAX_WINDOW_LOG})
        try:
            content += decompressor.decompress(data, max_length=limit - len(content) + 1)
        except ZstdError as error:
            raise CannotDecompress("failed to decompress zstd body") from error
        if len(content) > limit:
            raise CannotDecompress("http: request body too large")
        if not decompressor.eof:
            raise CannotDecompress("unexpected EOF")
        data = decompressor.unused_data
    return bytes(content)
