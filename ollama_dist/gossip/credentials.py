"""What this node shows to members and accepts of them at this moment: replaced while it runs when the key is.

While two keys are valid a client says by the name it asks for which certificate it wants (`epoch_name`), so
members that have the new key and members that do not meet without knowing of each other. Which certificate
a client itself shows it finds out by trying, or by what the other has announced.
"""

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import grpc
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from ollama_dist.core.errors import Unauthorized
from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.identity import Identity
from ollama_dist.gossip.keys import Authority, epoch_name
from ollama_dist.gossip.tls import client_context, grpc_pair, peer_id, server_context
from ollama_dist.wire.hello import BULK

HTTP2: Final = "h2"

ADMITTED_MAX: Final = 1024
"""Certificates whose verdict is remembered."""


@dataclass(frozen=True, slots=True)
class Pass:
    """One way to come to a member as a client: a certificate, and what is accepted on the other side."""

    identity: Identity
    membership: ssl.SSLContext
    relay: ssl.SSLContext
    bulk: ssl.SSLContext
    """For bytes of models alone."""
    admit: Callable[[bytes], NodeId]

    @property
    def server_name(self) -> str:
        return epoch_name(self.identity.epoch)


class Credentials:
    """The node by its newest key and, for a while, by the one before.

    ``only``: who may still come with the older one; None: everybody who has it.
    """

    def __init__(
        self, newest: Identity, older: Identity | None = None, only: frozenset[NodeId] | None = None
    ) -> None:
        self.change(newest, older, only)

    def change(
        self, newest: Identity, older: Identity | None = None, only: frozenset[NodeId] | None = None
    ) -> None:
        """From now on; connections that are open are judged anew at the next word on them."""
        self.newest = newest
        self.older = older
        self._only = only
        self._identities = (newest,) if older is None else (newest, older)
        self._authorities = tuple(identity.authority for identity in self._identities)
        self._admitted: dict[bytes, NodeId] = {}
        self.passes = tuple(self._pass(identity) for identity in self._identities)
        self._servers = {epoch_name(each.epoch): self._server(each) for each in self._identities}
        self._grpc = grpc.ssl_server_certificate_configuration(
            [grpc_pair(identity) for identity in self._identities],
            b"".join(authority.pem for authority in self._authorities),
        )

    @property
    def id(self) -> NodeId:
        return self.newest.id

    def admit(self, certificate: bytes) -> NodeId:
        """Who shows this certificate (DER), whose key was proven; raises `Unauthorized` for who may not (any
        more)."""
        known = self._admitted.get(certificate)
        if known is not None:
            return known
        node = peer_id(certificate)
        issuer = self._issuer(certificate)
        if issuer is None:
            raise Unauthorized(f"the certificate of {node} is of a key that is not valid here")
        if self._only is not None and issuer is not self._authorities[0] and node not in self._only:
            raise Unauthorized(f"{node} does not belong to the cluster any more")
        if len(self._admitted) >= ADMITTED_MAX:
            self._admitted.clear()
        self._admitted[certificate] = node
        return node

    def pass_of(self, *, newest: bool) -> Pass:
        """By the newest key, or by the older one where there is one."""
        return self.passes[0] if newest else self.passes[-1]

    def server_context(self) -> ssl.SSLContext:
        """For a listener that stays: each handshake is by what is valid at that moment."""

        def choose(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
            servers = self._servers  # replaced as a whole, the newest comes first: threads ask as well
            connection.context = servers.get(name or "") or next(iter(servers.values()))

        front = self._server(self.newest)
        front.sni_callback = choose
        return front

    def grpc_server_credentials(self) -> grpc.ServerCredentials:
        """The same for one gRPC server, which asks before each handshake, and is told of changes only.

        It replaces what it has by every answer while other threads make use of that: told the same again and
        again it crashes the process as soon as two connections come at a time.
        """
        given = self._grpc

        def changed() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            if given is self._grpc:
                return None
            given = self._grpc
            return given

        return grpc.dynamic_ssl_server_credentials(given, changed, True)  # type: ignore[arg-type]  # None too

    def _issuer(self, certificate: bytes) -> Authority | None:
        parsed = x509.load_der_x509_certificate(certificate)
        for authority in self._authorities:
            try:
                parsed.verify_directly_issued_by(authority.certificate)
            except (ValueError, TypeError, InvalidSignature):
                continue
            return authority
        return None

    def _pass(self, identity: Identity) -> Pass:
        return Pass(
            identity,
            client_context(identity, [HTTP2], self._authorities),
            client_context(identity, (), self._authorities),
            client_context(identity, [BULK], self._authorities),
            self.admit,
        )

    def _server(self, identity: Identity) -> ssl.SSLContext:
        return server_context(identity, [BULK], self._authorities)
