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


MAX_FRAMES: Final = 1000
"""Programs write one, or one for each of their threads."""

_SLICE_BYTES: Final = 2**16
"""What is handed over at once: at a frame's end the rest of it is copied."""


class CannotDecompress(BadRequest):
    """The bytes are no zstd, broken off, or too large when opened."""

    code = "cannot_decompress"


def decompress_zstd(data: bytes, *, limit: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """The content of the zstd frames in ``data``, at most ``limit`` bytes. Raises `CannotDecompress`."""
    content = bytearray()
    decompressor = _decompressor()
    frames, at, part = 0, 0, b""
    while part or at < len(data):
        if not part:
            part = data[at : at + _SLICE_BYTES]
            at += len(part)
        if decompressor.eof:
            decompressor = _decompressor()
        try:
            content += decompressor.decompress(part, max_length=limit - len(content) + 1)
        except ZstdError as error:
            raise CannotDecompress("failed to decompress zstd body") from error
        if len(content) > limit:
            raise CannotDecompress("http: request body too large")
        part = decompressor.unused_data if decompressor.eof else b""
        frames += decompressor.eof
        if frames > MAX_FRAMES:
            raise CannotDecompress("failed to decompress zstd body")
    if data and not decompressor.eof:
        raise CannotDecompress("unexpected EOF")
    return bytes(content)


def _decompressor() -> ZstdDecompressor:
    return ZstdDecompressor(options={DecompressionParameter.window_log_max: MAX_WINDOW_LOG})
