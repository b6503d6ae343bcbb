"""Mutual TLS 1.3 between nodes, for gRPC and for asyncio, and who the other side of a connection is.

Anybody with the cluster key can make a certificate that names any node, so a name proves nothing: a peer
is who the hash of its public key says it is, and the name has to agree.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from functools import lru_cache

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from ollama_dist.core.errors import Unauthorized
from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.identity import Identity, node_id_of
from ollama_dist.gossip.keys import Authority


def server_context(
    identity: Identity, protocols: Sequence[str] = (), authorities: Sequence[Authority] = ()
) -> ssl.SSLContext:
    """For a listener that only members reach. ``protocols``: what is offered by ALPN.

    ``authorities``: whose certificates are accepted; by default those of the identity's own.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # nobody resumes: a connection proves itself each time it is made
    return _between_members(context, identity, protocols, authorities)


def client_context(
    identity: Identity, protocols: Sequence[str] = (), authorities: Sequence[Authority] = ()
) -> ssl.SSLContext:
    """For a connection to a member; whom it led to is for `verified_peer` to say, before anything is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    return _between_members(context, identity, protocols, authorities)


def expect(node: NodeId) -> Callable[[asyncio.BaseTransport], None]:
    """A check that a new connection leads to ``node`` and nobody else; it raises `Unauthorized`."""

    def check(transport: asyncio.BaseTransport) -> None:
        if (peer := verified_peer(transport)) != node:
            raise Unauthorized(f"{peer} is there, not {node}")

    return check


def verified_peer(transport: asyncio.BaseTransport) -> NodeId:
    """The node at the other end of a TLS connection; raises `Unauthorized` when it proved no identity."""
    return peer_id(peer_certificate(transport))


def peer_certificate(transport: asyncio.BaseTransport) -> bytes:
    """The other side's certificate (DER), whose key it has proved to hold; raises `Unauthorized`."""
    tls = transport.get_extra_info("ssl_object")
    certificate = tls.getpeercert(binary_form=True) if tls is not None else None
    if not certificate:
        raise Unauthorized("the connection shows no certificate")
    return bytes(certificate)


@lru_cache(maxsize=1024)
def peer_id(certificate: bytes) -> NodeId:
    """The node a certificate (DER) of a proven key is for; raises `Unauthorized` when it names another."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        public = parsed.public_key()
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (ValueError, TypeError, x509.ExtensionNotFound) as error:
        raise Unauthorized("the certificate is none that a node makes") from error
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise Unauthorized("the certificate is none that a node makes")
    node = node_id_of(public)
    if len(uris) != 1 or not uris[0].endswith(f"/node/{node}"):
        raise Unauthorized(f"the certificate of {node} names somebody else")
    return node


def grpc_pair(identity: Identity) -> tuple[bytes, bytes]:
    """Key and certificate as a gRPC server takes them."""
    return _key_pem(identity), _pem(identity.certificate)


def grpc_channel_credentials(identity: Identity, peer: bytes) -> grpc.ChannelCredentials:
    """For a channel to nobody but the holder of exactly the certificate ``peer`` (DER)."""
    root = _pem(x509.load_der_x509_certificate(peer))
    return grpc.ssl_channel_credentials(root, _key_pem(identity), _pem(identity.certificate))


def _between_members(
    context: ssl.SSLContext, identity: Identity, protocols: Sequence[str], authorities: Sequence[Authority]
) -> ssl.SSLContext:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    for authority in authorities or (identity.authority,):
        context.load_verify_locations(cadata=authority.pem.decode())
    context.load_cert_chain(identity.certificate_file, identity.key_file)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(identity: Identity) -> bytes:
    return identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
