from hashlib import sha256
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.errors import ConfigError
from ollama_dist.core.ids import NodeId, is_node_id
from ollama_dist.gossip.identity import Identity, verify
from ollama_dist.gossip.keys import ClusterKey

KEY = ClusterKey("9f2c41d0", 1, bytes(range(32)))


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Identity:
    return Identity.load(tmp_path_factory.mktemp("node"), KEY)


def test_the_id_is_the_hash_of_the_public_key(node: Identity) -> None:
    spki = node.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert is_node_id(node.id)
    assert node.id == sha256(spki).hexdigest()[:16]


def test_a_restart_is_the_same_node_with_the_same_certificate(tmp_path: Path) -> None:
    first = Identity.load(tmp_path, KEY)
    again = Identity.load(tmp_path, KEY)
    assert (again.id, again.certificate) == (first.id, first.certificate)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "node.key": 0o600,
        "node.crt": 0o600,
    }


def test_in_another_cluster_the_node_keeps_its_id_and_gets_another_certificate(tmp_path: Path) -> None:
    other = ClusterKey.make()
    first, moved = Identity.load(tmp_path, KEY), Identity.load(tmp_path, other)
    assert moved.id == first.id
    assert moved.cluster_id == other.cluster_id
    moved.certificate.verify_directly_issued_by(other.authority().certificate)


def test_a_certificate_of_another_key_is_replaced(tmp_path: Path) -> None:
    foreign = Identity.load(tmp_path / "foreign", KEY)
    node = Identity.load(tmp_path / "node", KEY)
    node.certificate_file.write_bytes(foreign.certificate_file.read_bytes())
    assert Identity.load(tmp_path / "node", KEY).certificate.public_key() == node.key.public_key()


def test_a_file_that_holds_no_key_is_named(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_text("not a key")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"node\.key holds no key"):
        Identity.load(tmp_path, KEY)


def test_a_signature_proves_who_said_what(node: Identity) -> None:
    signature = node.sign(b"alive")
    assert len(signature) == 64
    assert len(node.public_key) == 33
    assert verify(node.id, node.public_key, b"alive", signature)
    assert not verify(node.id, node.public_key, b"dead", signature)


def test_nobody_can_sign_for_another(node: Identity, tmp_path: Path) -> None:
    rogue = Identity.load(tmp_path, KEY)
    assert not verify(node.id, rogue.public_key, b"left", rogue.sign(b"left"))
    assert not verify(node.id, node.public_key, b"left", rogue.sign(b"left"))


@given(public_key=st.binary(min_size=33, max_size=33), signature=st.binary(min_size=64, max_size=64))
def test_garbage_proves_nothing(node: Identity, public_key: bytes, signature: bytes) -> None:
    assert not verify(NodeId("0" * 16), public_key, b"alive", signature)
    assert not verify(node.id, node.public_key, b"alive", signature)
    assert not verify(node.id, node.public_key[:-1], b"alive", signature)
