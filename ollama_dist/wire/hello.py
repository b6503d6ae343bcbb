"""The first words of a TLS connection, as far as they say where it belongs (RFC 8446, RFC 7301). Pure."""

from typing import Final

BULK: Final = "ollama-dist-bulk"
"""Offered by ALPN on connections that are for bytes of models alone."""

HELLO_LIMIT: Final = 16 * 1024
"""Bytes of a hello that are looked at."""

_HANDSHAKE: Final = 22
_HEAD: Final = 5


def is_whole(start: bytes) -> bool:
    """Whether ``start`` is all of a hello, or so much that it cannot be one."""
    if not start or len(start) >= HELLO_LIMIT or start[0] != _HANDSHAKE:
        return bool(start)
    return len(start) >= _HEAD and len(start) >= _HEAD + int.from_bytes(start[3:_HEAD])


def offers(hello: bytes, protocol: str) -> bool:
    """Whether ``hello`` seems to offer ``protocol``: nothing but the way it is handled may depend on that."""
    return bytes([len(protocol)]) + protocol.encode() in hello
