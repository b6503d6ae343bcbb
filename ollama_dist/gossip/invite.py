"""Letting a machine in: the door a member opens for ten minutes, and the way through it.

The code names the cluster's authority by its fingerprint, so the joining machine knows the right door
before it says the secret; over that connection, and no other, it is then given the cluster key.
"""

import asyncio
import contextlib
import secrets
import socket
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final

import orjson
import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding

from ollama_dist.core.errors import ConfigError, DistError
from ollama_dist.gossip.identity import Identity
from ollama_dist.gossip.invite_code import FINGERPRINT_BYTES, MAX_HOSTS, SECRET_BYTES, InviteCode
from ollama_dist.gossip.keys import ClusterKey, issued_by, key_hash
from ollama_dist.gossip.tls import peer_certificate
from ollama_dist.runtime.tasks import Tasks

log = structlog.get_logger()

LIFETIME_S: Final = 600.0
TRIES: Final = 5
"""Wrong secrets after which every open code is void."""

EXCHANGE_S: Final = 10.0
CONNECT_S: Final = 3.0
MAX_GUESTS: Final = 8
MAX_CODES: Final = 16
MAX_LINE: Final = 16 * 1024


class Refusal(StrEnum):
    """What a door says to a secret that opens nothing."""

    USED = "used"
    EXPIRED = "expired"
    VOID = "void"
    UNKNOWN = "unknown"


class InviteFailed(DistError):
    """Nobody was let in; nothing was changed on this machine."""

    status = 409
    code = "invite_failed"


class CodeUsed(InviteFailed):
    """Another machine came with this code, or this one did before."""

    code = "invite_used"


class CodeExpired(InviteFailed):
    """More than ten minutes have passed."""

    status = 410
    code = "invite_expired"


class CodeVoid(InviteFailed):
    """Somebody tried too many wrong secrets while the code was open."""

    code = "invite_void"


class CodeUnknown(InviteFailed):
    """A member of the right cluster answered that did not make this code, or was started again since."""

    code = "invite_unknown"


class CodeForeign(InviteFailed):
    """Who answers belongs to another cluster than the code."""

    code = "invite_foreign"


class CodeOutdated(InviteFailed):
    """The cluster has another key than when the code was made. Said by who answers, and not proven."""

    status = 410
    code = "invite_outdated"


class DoorUnreachable(InviteFailed):
    """Nobody answers at any address in the code."""

    status = 502
    code = "invite_unreachable"
    retryable = True


_REFUSALS: Final[dict[str, tuple[type[InviteFailed], str]]] = {
    Refusal.USED: (CodeUsed, "the invitation was used already; each lets one machine in"),
    Refusal.EXPIRED: (CodeExpired, "the invitation has expired; make another with `ollama-dist invite`"),
    Refusal.VOID: (CodeVoid, "the invitation is void after too many wrong tries; make another"),
    Refusal.UNKNOWN: (
        CodeUnknown,
        "the node that answers does not know this invitation: another made it, or it was started again since",
    ),
}


@dataclass(frozen=True, slots=True)
class Invitation:
    """A code, and until when (Unix time) it lets one machine in."""

    code: str = field(repr=False)
    expires_at: float


@dataclass(frozen=True, slots=True)
class Joined:
    """What a code was good for."""

    cluster_key: str = field(repr=False)
    addresses: tuple[str, ...]
    """Members' listeners, ``host:port``."""


@dataclass(slots=True)
class _Open:
    """What is remembered of a code: not its secret, only what the secret hashes to."""

    until: float
    refusal: Refusal | None = None


class Door:
    """Makes codes and lets in who brings one, on a port that listens only while a code's time runs.

    A code that was used keeps its time, so that the next to bring it hears why it is refused.
    ``hosts`` says where this machine can be reached, ``members`` which listeners a newcomer should try.
    """

    def __init__(
        self,
        identity: Identity,
        key: ClusterKey,
        *,
        listen: tuple[str, Sequence[int]],
        hosts: Callable[[], Sequence[str]],
        members: Callable[[], Sequence[str]],
    ) -> None:
        self._identity = identity
        self._key = key
        self._listen = listen
        self._hosts = hosts
        self._members = members
        self._codes: dict[bytes, _Open] = {}
        self._tries = 0
        self._guests = Tasks()
        self._doorkeeper = Tasks()
        self._socket: socket.socket | None = None

    def renew(self, identity: Identity, key: ClusterKey) -> None:
        """The cluster's key was replaced: whoever comes with a code of the old one is told so."""
        self._identity = identity
        self._key = key

    @property
    def is_open(self) -> bool:
        return len(self._doorkeeper) > 0

    async def invite(self, lifetime_s: float = LIFETIME_S) -> Invitation:
        """A code for one machine. Raises `ConfigError` when no port can be had."""
        secret = secrets.token_bytes(SECRET_BYTES)
        while len(self._codes) >= MAX_CODES:
            del self._codes[next(iter(self._codes))]
        self._codes[_hash(secret.hex())] = _Open(asyncio.get_running_loop().time() + lifetime_s)
        self._tries = 0
        port = self._open()
        expires_at = time.time() + lifetime_s
        code = InviteCode(
            cluster_id=self._key.cluster_id,
            fingerprint=self._identity.authority.fingerprint[:FINGERPRINT_BYTES],
            secret=secret,
            expires_at=int(expires_at),
            port=port,
            hosts=tuple(self._hosts())[:MAX_HOSTS],
        )
        log.info("invite_made", expires_at=datetime.fromtimestamp(expires_at, UTC).isoformat())
        return Invitation(code.text, expires_at)

    async def stop(self) -> None:
        """Close the door; every code that was made is forgotten."""
        self._codes.clear()
        await self._doorkeeper.stop()
        await self._guests.stop()

    def _open(self) -> int:
        """The port of the open door."""
        if self._socket is None or not self.is_open:
            self._socket = self._bind()
            self._doorkeeper.start(self._keep(self._socket), name="invitation door")
        return int(self._socket.getsockname()[1])

    def _bind(self) -> socket.socket:
        host, ports = self._listen
        for port in ports:
            try:
                bound = socket.create_server(
                    (host, port),
                    family=socket.AF_INET6 if ":" in host else socket.AF_INET,
                    backlog=MAX_GUESTS,
                )
            except OSError as error:
                refused = error
            else:
                bound.setblocking(False)
                return bound
        raise ConfigError(f"no port for an invitation: {refused.strerror or refused}") from refused

    async def _keep(self, bound: socket.socket) -> None:
        """Let guests in until the last code's time is over; who comes into a crowd is turned away."""
        loop = asyncio.get_running_loop()
        with bound:
            while (left := self._open_until() - loop.time()) > 0:
                try:
                    async with asyncio.timeout(left):
                        guest, address = await loop.sock_accept(bound)
                except TimeoutError:
                    continue  # there may be a newer code by now
                if len(self._guests) < MAX_GUESTS:
                    self._guests.start(self._greet(guest, str(address[0])), name="invitation guest")
                else:
                    guest.close()

    def _open_until(self) -> float:
        return max((code.until for code in self._codes.values()), default=0.0)

    async def _greet(self, guest: socket.socket, address: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self._identity.certificate_file, self._identity.key_file)
        try:
            async with asyncio.timeout(EXCHANGE_S):
                reader, writer = await _secure(guest, context)
                try:
                    await self._serve(reader, writer, address)
                finally:
                    writer.close()
        except (OSError, ValueError) as error:
            log.info("invite_guest_left", guest=address, error=_words(error))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> None:
        authority = self._identity.authority.certificate.public_bytes(Encoding.DER)
        await _say(writer, {"authority": b64encode(authority).decode()})
        refusal = self._judge(await _hear(reader))
        if refusal is None:
            log.info("invite_used", guest=address)
            await _say(writer, {"cluster_key": self._key.text, "members": list(self._members())})
        else:
            log.warning("invite_refused", guest=address, reason=refusal)
            await _say(writer, {"refused": refusal})

    def _judge(self, said: dict[str, Any]) -> Refusal | None:
        """Why this guest is not let in; one who is has used the code up."""
        code = self._codes.get(_hash(str(said.get("secret", ""))))
        if code is None:
            self._tries += 1
            if self._tries >= TRIES:
                for each in self._codes.values():
                    each.refusal = each.refusal or Refusal.VOID
            return Refusal.UNKNOWN
        if code.refusal is None and asyncio.get_running_loop().time() >= code.until:
            code.refusal = Refusal.EXPIRED
        refusal = code.refusal
        code.refusal = refusal or Refusal.USED
        return refusal


async def join(code_text: str) -> Joined:
    """Go through the door the code is for. Raises `CodeMistyped` or another `InviteFailed` that says why."""
    code = InviteCode.parse(code_text)
    failures: list[InviteFailed] = []
    for host in code.hosts:
        try:
            return await _knock(code, host)
        except (CodeForeign, CodeOutdated, CodeUnknown, DoorUnreachable) as failure:
            failures.append(failure)  # another machine may have this address here
    telling = next((each for each in failures if not isinstance(each, DoorUnreachable)), None)
    if telling is not None:
        raise telling
    if time.time() > code.expires_at:
        raise _refused(Refusal.EXPIRED)
    raise DoorUnreachable("; ".join(map(str, failures)) or "the invitation names no address")


def redeem(code_text: str) -> Joined:
    """`join` for a program that runs no event loop."""
    return asyncio.run(join(code_text))


async def _knock(code: InviteCode, host: str) -> Joined:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the fingerprint is checked instead, before anything is said
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_connection(host, code.port, ssl=context, limit=MAX_LINE)
    except OSError as error:
        raise DoorUnreachable(f"{host} port {code.port}: {_words(error)}") from error
    try:
        async with asyncio.timeout(EXCHANGE_S):
            _check_door(code, host, peer_certificate(writer.transport), await _hear(reader))
            await _say(writer, {"secret": code.secret.hex()})
            return _admitted(code, host, await _hear(reader))
    except (OSError, ValueError) as error:
        raise DoorUnreachable(f"{host} port {code.port} broke off: {_words(error)}") from error
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _check_door(code: InviteCode, host: str, certificate: bytes, said: dict[str, Any]) -> None:
    """Raises `CodeForeign` unless the door's key was certified by the authority the code is for."""
    try:
        authority = x509.load_der_x509_certificate(b64decode(str(said.get("authority", ""))))
        shown = issued_by(authority)
        if shown is not None and shown[0] == code.cluster_id and not _is_of(authority, code):
            raise CodeOutdated(
                "the cluster's key was rotated since this invitation was made; make another with "
                "`ollama-dist invite`"
            )
        if not _is_of(authority, code):
            raise ValueError("another authority")
        x509.load_der_x509_certificate(certificate).verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise CodeForeign(f"the node at {host} is of another cluster than the invitation") from error


def _is_of(authority: x509.Certificate, code: InviteCode) -> bool:
    return key_hash(authority.public_key())[:FINGERPRINT_BYTES] == code.fingerprint


def _admitted(code: InviteCode, host: str, said: dict[str, Any]) -> Joined:
    if "refused" in said:
        raise _refused(str(said["refused"]))
    try:
        key = ClusterKey.parse(str(said.get("cluster_key", "")))
    except ConfigError as error:
        raise InviteFailed(f"the node at {host} gave no key: {error}") from error
    if key.authority().fingerprint[:FINGERPRINT_BYTES] != code.fingerprint:
        raise CodeForeign(f"the node at {host} gave the key of another cluster than the invitation's")
    members = said.get("members")
    return Joined(key.text, tuple(map(str, members)) if isinstance(members, list) else ())


def _refused(word: str) -> InviteFailed:
    kind, message = _REFUSALS.get(word, _REFUSALS[Refusal.UNKNOWN])
    return kind(message)


def _words(error: Exception) -> str:
    return str(error) or "no answer in time"


def _hash(secret: str) -> bytes:
    return sha256(secret.encode()).digest()


async def _secure(
    accepted: socket.socket, context: ssl.SSLContext
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """What ``asyncio.start_server`` does per connection, for one that was accepted and counted here."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE, loop=loop)
    protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
    try:
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, accepted, ssl=context)
    except BaseException:
        accepted.close()
        raise
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


async def _say(writer: asyncio.StreamWriter, message: dict[str, Any]) -> None:
    writer.write(orjson.dumps(message) + b"\n")
    await writer.drain()


async def _hear(reader: asyncio.StreamReader) -> dict[str, Any]:
    """One line; raises `ValueError` for anything but a JSON object, `OSError` when the other side left."""
    line = await reader.readline()
    if not line:
        raise ConnectionResetError("the other side closed the connection")
    message = orjson.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not an object")
    return message
