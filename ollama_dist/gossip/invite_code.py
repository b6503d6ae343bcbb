"""An invitation as one word that can be copied, pasted and checked for typing errors.

``odi1`` and then, in base32: cluster id, half the authority's fingerprint, secret, time of expiry, port,
hosts, CRC-32.
"""

import ipaddress
import struct
from base64 import b32decode, b32encode
from binascii import Error as Base32Error
from dataclasses import dataclass, field
from typing import Final, Self
from zlib import crc32

from ollama_dist.core.errors import BadRequest

FINGERPRINT_BYTES: Final = 16
"""Of 32: finding another key with the same half is as hard as guessing a 128-bit number."""

SECRET_BYTES: Final = 10
"""Eighty bits that can be tried five times."""

MAX_HOSTS: Final = 4

_PREFIX: Final = "odi1"
_FIXED: Final = struct.Struct(f">4s{FINGERPRINT_BYTES}s{SECRET_BYTES}sIH")
_CHECKSUM: Final = struct.Struct(">I")
_NAME: Final = 0x40
"""A host's first byte is its length; this is added for a name, which an address could be mistaken for."""


class CodeMistyped(BadRequest):
    """The text is no invitation, or not all of it."""

    code = "invite_mistyped"


@dataclass(frozen=True, slots=True)
class InviteCode:
    """What the joining machine has to know."""

    cluster_id: str
    fingerprint: bytes
    """The first `FINGERPRINT_BYTES` of the authority's."""
    secret: bytes = field(repr=False)
    expires_at: int
    """Unix time; only for telling people why nobody answers: what counts is the inviting node's own timer."""
    port: int
    hosts: tuple[str, ...]
    """Addresses or names where the inviting node may be, best first; at most `MAX_HOSTS`."""

    @property
    def text(self) -> str:
        fixed = _FIXED.pack(
            bytes.fromhex(self.cluster_id), self.fingerprint, self.secret, self.expires_at, self.port
        )
        body = fixed + b"".join(_pack_host(host) for host in self.hosts)
        return _PREFIX + _base32(body + _CHECKSUM.pack(crc32(body)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The invitation in ``text``; raises `CodeMistyped`."""
        word = "".join(text.split()).lower()
        if not word.startswith(_PREFIX):
            raise CodeMistyped(f"that is no invitation: one begins with {_PREFIX}; run `ollama-dist invite`")
        data = _unbase32(word.removeprefix(_PREFIX))
        body, checksum = data[: -_CHECKSUM.size], data[-_CHECKSUM.size :]
        if len(body) <= _FIXED.size or _CHECKSUM.pack(crc32(body)) != checksum:
            raise _mistyped()
        cluster_id, fingerprint, secret, expires_at, port = _FIXED.unpack_from(body)
        hosts = _unpack_hosts(body[_FIXED.size :])
        return cls(cluster_id.hex(), fingerprint, secret, expires_at, port, hosts)


def _mistyped() -> CodeMistyped:
    return CodeMistyped("the invitation is mistyped or cut short; copy all of it")


def _base32(data: bytes) -> str:
    return b32encode(data).decode().rstrip("=").lower()


def _unbase32(word: str) -> bytes:
    try:
        data = b32decode(word.upper() + "=" * (-len(word) % 8))
    except (Base32Error, ValueError) as error:
        raise _mistyped() from error
    if _base32(data) != word:  # the last character may hold bits that no byte has
        raise _mistyped()
    return data


def _pack_host(host: str) -> bytes:
    try:
        packed = ipaddress.ip_address(host).packed
    except ValueError:
        packed = host.encode("idna")[: 0xFF - _NAME]
        return bytes([_NAME + len(packed)]) + packed
    return bytes([len(packed)]) + packed


def _unpack_hosts(data: bytes) -> tuple[str, ...]:
    hosts: list[str] = []
    while data:
        is_name, length = data[0] > _NAME, data[0] - _NAME if data[0] > _NAME else data[0]
        packed, data = data[1 : 1 + length], data[1 + length :]
        try:
            hosts.append(packed.decode("ascii") if is_name else str(ipaddress.ip_address(packed)))
        except ValueError as error:
            raise _mistyped() from error
    return tuple(hosts[:MAX_HOSTS])
