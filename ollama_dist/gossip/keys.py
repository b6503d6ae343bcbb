"""The cluster's key: the one secret all members share, and the certificate authority that follows from it.

Whoever holds the key can make certificates every member accepts; there is no other authority, so no
machine is needed for a node to join.
"""

import re
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Final, Self
from zlib import crc32

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from ollama_dist.core.errors import ConfigError
from ollama_dist.runtime.private_files import make_private_folder, read_private, write_private

log = structlog.get_logger()

VALID_FROM: Final = datetime(2000, 1, 1, tzinfo=UTC)
VALID_UNTIL: Final = datetime(2100, 1, 1, tzinfo=UTC)
"""Every certificate's time: no clock, right or wrong, decides who may speak."""

_CURVE_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of P-256 (SEC 2, section 2.4.2)."""

_AUTHORITY: Final = "ollama-dist"
_FORM: Final = re.compile(r"odk1-([0-9a-f]{8})-([0-9]{1,6})-([0-9a-f]{64})-([0-9a-f]{8})")
_ISSUER: Final = re.compile(rf"{_AUTHORITY} ([0-9a-f]{{8}}) ([0-9]{{1,6}})")
_CLUSTER_ID: Final = re.compile(r"[0-9a-f]{8}")


def epoch_name(epoch: int) -> str:
    """The DNS name by which a client asks for a certificate of that epoch, where a member has two."""
    return f"epoch-{epoch}.ollama-dist"


def issued_by(certificate: x509.Certificate) -> tuple[str, int] | None:
    """Cluster and epoch that a certificate says it is of, for telling people; it proves nothing."""
    names = certificate.issuer.get_attributes_for_oid(NameOID.COMMON_NAME)
    match = _ISSUER.fullmatch(str(names[0].value)) if names else None
    return (match[1], int(match[2])) if match else None


def is_cluster_id(text: str) -> bool:
    return _CLUSTER_ID.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class ClusterKey:
    """``odk1-<cluster id>-<epoch>-<256-bit secret>-<checksum>``; `text` writes it, printing it does not."""

    cluster_id: str
    """Eight hex digits, the same through every rotation."""
    epoch: int
    """How often the secret was replaced."""
    secret: bytes = field(repr=False)

    @classmethod
    def make(cls) -> Self:
        """The key of a new cluster."""
        return cls(secrets.token_hex(4), 1, secrets.token_bytes(32))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The key in ``text``; raises `ConfigError` that says what is wrong and never repeats the text."""
        text = text.strip().lower()
        if not text.startswith("odk1-"):
            raise ConfigError(
                "that is no cluster key: one begins with odk1- and is made by `ollama-dist cluster-key new`"
            )
        match = _FORM.fullmatch(text)
        if match is None:
            raise ConfigError("the cluster key is cut short, or has characters that no cluster key has")
        cluster_id, epoch, secret, checksum = match.groups()
        if _checksum(text.removesuffix(f"-{checksum}")) != checksum:
            raise ConfigError("the cluster key is mistyped: its last part does not fit the rest")
        return cls(cluster_id, int(epoch), bytes.fromhex(secret))

    def successor(self) -> Self:
        """The key that replaces this one: another secret, the same cluster."""
        return type(self)(self.cluster_id, self.epoch + 1, secrets.token_bytes(32))

    def replaces(self, other: Self) -> bool:
        """Whether all who have both keep this one: of two made at once, everybody picks the same."""
        return self.cluster_id == other.cluster_id and self._rank() > other._rank()

    def _rank(self) -> tuple[int, bytes]:
        return self.epoch, sha256(self.secret).digest()

    @property
    def mark(self) -> str:
        """What tells this key from others and gives nothing of it away."""
        return f"{self.epoch}-{self.authority().fingerprint[:4].hex()}"

    @property
    def text(self) -> str:
        body = f"odk1-{self.cluster_id}-{self.epoch}-{self.secret.hex()}"
        return f"{body}-{_checksum(body)}"

    def authority(self) -> "Authority":
        """The certificate authority of this epoch: the same key and name on every member."""
        info = f"ollama-dist certificate authority {self.cluster_id} {self.epoch}".encode()
        # 64 bits more than the order has, so that the remainder leans to no side (FIPS 186-5, A.2.1).
        stretched = HKDF(SHA256(), length=40, salt=None, info=info).derive(self.secret)
        scalar = int.from_bytes(stretched, "big") % (_CURVE_ORDER - 1) + 1
        return Authority.make(self.cluster_id, self.epoch, ec.derive_private_key(scalar, ec.SECP256R1()))


@dataclass(frozen=True, slots=True)
class Authority:
    """What issues and checks members' certificates.

    Every member builds the certificate afresh: signatures differ, key and name agree, and chains are
    checked by those.
    """

    cluster_id: str
    epoch: int
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    certificate: x509.Certificate

    @classmethod
    def make(cls, cluster_id: str, epoch: int, key: ec.EllipticCurvePrivateKey) -> Self:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{_AUTHORITY} {cluster_id} {epoch}")])
        public = key.public_key()
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(public)
            .serial_number(1)
            .not_valid_before(VALID_FROM)
            .not_valid_after(VALID_UNTIL)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(key_usage(key_cert_sign=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(key, SHA256())
        )
        return cls(cluster_id, epoch, key, certificate)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def fingerprint(self) -> bytes:
        """What an invitation names the cluster by, 32 bytes."""
        return key_hash(self.certificate.public_key())


def key_usage(*, digital_signature: bool = False, key_cert_sign: bool = False) -> x509.KeyUsage:
    """A key that may do one thing alone."""
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )


def key_hash(public: CertificatePublicKeyTypes) -> bytes:
    """SHA-256 over a public key (SPKI, DER): what names a node, and what an invitation names a cluster by."""
    return sha256(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def new_cluster_key() -> str:
    """A key for a new cluster, as text."""
    return ClusterKey.make().text


def load_cluster_key(path: Path) -> ClusterKey | None:
    """The key kept in a file, None when there is none. Raises `ConfigError`."""
    data = read_private(path)
    if data is None:
        return None
    try:
        return ClusterKey.parse(data.decode(errors="replace"))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def keep_cluster_key(path: Path, key: ClusterKey) -> None:
    """Put the key in its file. Raises `ConfigError`."""
    make_private_folder(path.parent)
    try:
        write_private(path, f"{key.text}\n".encode())
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error


def load_or_make_cluster_key(path: Path) -> ClusterKey:
    """The key kept in a file; a first start makes one, and with it a cluster of its own."""
    key = load_cluster_key(path)
    if key is None:
        key = ClusterKey.make()
        keep_cluster_key(path, key)
        log.info("cluster_made", cluster=key.cluster_id)
    return key


def _checksum(body: str) -> str:
    """CRC-32 finds every error within 32 bits in a row, so every single wrong character."""
    return f"{crc32(body.encode()):08x}"
