"""Ollama's store as it lies on a disk."""

import os
import sys
from pathlib import Path

import pytest

from ollama_dist.core.errors import ModelNotFound
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.disk.store import BlobNotFound, OllamaStore, StoreUnreadable
from ollama_dist.replication.manifest import BadManifest
from tests.support.model_store import ModelStore, noise

TINY = parse_model_name("tiny")


def test_a_model_is_found_by_name_however_that_is_spelt(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    installed = store.install("Hub.example:8080/Some/Model:Q4_K", b"weights")

    assert store.manifest(parse_model_name("hub.EXAMPLE:8080/some/mODEL:q4_k")).raw == installed.raw
    with pytest.raises(ModelNotFound, match="model 'tiny:latest' not found"):
        store.manifest(TINY)


def test_blobs_are_files_of_their_digest_and_nothing_else(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    assert store.blobs() == []
    digest = store.put(b"weights")
    for name in ("sha256-abc", f"sha256-{'a' * 64}-partial", f"sha256-{'A' * 64}", "x"):
        (tmp_path / "blobs" / name).write_bytes(b"")
    (tmp_path / "blobs" / f"sha256-{'b' * 64}").mkdir()

    assert set(store.blobs()) == {digest, "b" * 64}
    assert store.blob(digest).size == 7
    for missing in ("c" * 64, "b" * 64):
        with pytest.raises(BlobNotFound):
            store.blob(Digest(missing))


def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    store.install("tiny", b"weights")
    store.manifest_path(TINY).write_bytes(b"{}")
    with pytest.raises(BadManifest):
        store.manifest(TINY)
    store.manifest_path(TINY).unlink()
    store.manifest_path(TINY).mkdir()
    with pytest.raises(ModelNotFound):
        store.manifest(TINY)


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="this user may read everything")
def test_a_store_of_somebody_else_says_so(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    store.install("tiny", b"weights")
    (tmp_path / "manifests").chmod(0)
    try:
        with pytest.raises(StoreUnreadable, match="Permission denied"):
            store.manifest(parse_model_name("TINY"))
    finally:
        (tmp_path / "manifests").chmod(0o755)


def test_stores_are_told_apart_and_one_store_is_one(tmp_path: Path) -> None:
    one, copied = ModelStore(tmp_path / "one"), ModelStore(tmp_path / "two")
    assert one.id == ""
    for store in (one, copied):
        oldest = store.put(b"weights")
        os.utime(store.blob_path(oldest), ns=(1, 1))
    (tmp_path / "same").symlink_to(tmp_path / "one")
    before = one.id

    one.put(noise(100))

    assert one.id == before == OllamaStore(tmp_path / "same").id != copied.id
