"""Who this node is: a key pair made here that never leaves, the id that follows from it, its certificate."""

from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Self

import structlog
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ollama_dist.core.errors import ConfigError
from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.keys import (
    VALID_FROM,
    VALID_UNTIL,
    Authority,
    ClusterKey,
    epoch_name,
    key_hash,
    key_usage,
)
from ollama_dist.runtime.private_files import make_private_folder, read_private, write_private

log = structlog.get_logger()

SIGNATURE_BYTES: Final = 64
PUBLIC_KEY_BYTES: Final = 33
"""A point of P-256, compressed (SEC 1, section 2.3.3)."""

_INTEGER_BYTES: Final = SIGNATURE_BYTES // 2


@dataclass(frozen=True, slots=True)
class Identity:
    """A node of one cluster. The files are there because the ssl module reads keys from files only."""

    id: NodeId
    authority: Authority
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate
    key_file: Path
    certificate_file: Path

    @classmethod
    def load(cls, folder: Path, cluster_key: ClusterKey, certificate_name: str = "node.crt") -> Self:
        """The node whose key is in ``folder``; a first start makes one. Raises `ConfigError`.

        The certificate is issued anew when it is missing or of another cluster key. One of the key before
        has a file of its own.
        """
        make_private_folder(folder)
        key_file, certificate_file = folder / "node.key", folder / certificate_name
        key = _load_or_make_key(key_file)
        authority = cluster_key.authority()
        certificate = _load_certificate(certificate_file, key, authority)
        if certificate is None:
            certificate = issue_certificate(key, authority)
            _keep(certificate_file, certificate.public_bytes(Encoding.PEM))
        return cls(node_id_of(key.public_key()), authority, key, certificate, key_file, certificate_file)

    @property
    def cluster_id(self) -> str:
        return self.authority.cluster_id

    @property
    def epoch(self) -> int:
        return self.authority.epoch

    @property
    def public_key(self) -> bytes:
        """`PUBLIC_KEY_BYTES` that others check our signatures with."""
        return self.key.public_key().public_bytes(Encoding.X962, PublicFormat.CompressedPoint)

    def sign(self, data: bytes) -> bytes:
        """`SIGNATURE_BYTES` that prove this node said ``data``: r and s of ECDSA with SHA-256."""
        r, s = utils.decode_dss_signature(self.key.sign(data, ec.ECDSA(SHA256())))
        return r.to_bytes(_INTEGER_BYTES, "big") + s.to_bytes(_INTEGER_BYTES, "big")


def verify(node: NodeId, public_key: bytes, data: bytes, signature: bytes) -> bool:
    """Whether ``node``, whose key hashes to its id, said ``data``. Anything may be handed in."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    r, s = (int.from_bytes(half, "big") for half in (signature[:_INTEGER_BYTES], signature[_INTEGER_BYTES:]))
    try:
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), public_key)
        if node_id_of(public) != node:
            return False
        public.verify(utils.encode_dss_signature(r, s), data, ec.ECDSA(SHA256()))
    except (InvalidSignature, ValueError):
        return False
    return True


def node_id_of(public: ec.EllipticCurvePublicKey) -> NodeId:
    return NodeId(key_hash(public)[:8].hex())


def node_name(node: NodeId) -> str:
    """The DNS name in a node's certificate: what a TLS client that knows whom it wants asks for."""
    return f"{node}.ollama-dist"


def issue_certificate(key: ec.EllipticCurvePrivateKey, authority: Authority) -> x509.Certificate:
    """The certificate a node makes for itself, as server and as client."""
    public = key.public_key()
    node = node_id_of(public)
    names = [
        x509.DNSName(node_name(node)),
        x509.DNSName(epoch_name(authority.epoch)),
        x509.UniformResourceIdentifier(f"spiffe://{authority.cluster_id}/node/{node}"),
    ]
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node)]))
        .issuer_name(authority.certificate.subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(VALID_FROM)
        .not_valid_after(VALID_UNTIL)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(issuer, critical=False)
        .sign(authority.key, SHA256())
    )


def set_aside_key(folder: Path) -> Path:
    """Put the node's key where no start finds it: the next makes a new node. Where it is now."""
    aside = folder / "node.key.copied"
    with suppress(FileNotFoundError):
        (folder / "node.key").replace(aside)
    return aside


def _load_or_make_key(path: Path) -> ec.EllipticCurvePrivateKey:
    data = read_private(path)
    if data is None:
        key = ec.generate_private_key(ec.SECP256R1())
        _keep(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        log.info("node_key_made", node=node_id_of(key.public_key()))
        return key
    try:
        loaded = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"{path} holds no key; delete it and the node gets a new one, and a new id"
        ) from error
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or not isinstance(loaded.curve, ec.SECP256R1):
        raise ConfigError(f"{path} holds a key of another kind than this node makes; delete it for a new one")
    return loaded


def _load_certificate(
    path: Path, key: ec.EllipticCurvePrivateKey, authority: Authority
) -> x509.Certificate | None:
    """The certificate kept from last time, if it is for this key and of this authority."""
    data = read_private(path)
    if data is None:
        return None
    try:
        certificate = x509.load_pem_x509_certificate(data)
        certificate.verify_directly_issued_by(authority.certificate)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound):
        return None
    is_current = epoch_name(authority.epoch) in names.get_values_for_type(x509.DNSName)
    return certificate if is_current and certificate.public_key() == key.public_key() else None


def _keep(path: Path, data: bytes) -> None:
    try:
        write_private(path, data)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
