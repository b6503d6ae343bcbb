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


def play(monkeypatch: pytest.MonkeyPatch, *, windows: bool) -> None:
    """Have paths lead where they would on a disk that tells no case.

    On Windows dots at the end do not count either, and ``nul`` is a device in every folder.
    """

    def led(path: str | Path) -> Path:
        found = Path(Path(path).anchor)
        for part in Path(path).parts[1:]:
            part = part.rstrip(". ") if windows else part
            if windows and part.casefold() == "nul":
                return Path(os.devnull)
            there = os.listdir(found) if os.path.isdir(found) else []
            found /= next((entry for entry in there if entry.casefold() == part.casefold()), part)
        return found

    real_lexists, real_stat, real_read = os.path.lexists, Path.stat, Path.read_bytes
    monkeypatch.setattr(os.path, "lexists", lambda path: real_lexists(led(path)))
    monkeypatch.setattr(Path, "stat", lambda path: real_stat(led(path)))
    monkeypatch.setattr(Path, "read_bytes", lambda path: real_read(led(path)))


@pytest.mark.parametrize("system", ["macOS", "Windows"])
def test_on_disks_that_tell_no_case_names_are_found_and_litter_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    store = ModelStore(tmp_path)
    installed = store.install("Some/Model:Q4_K", b"weights")
    blobs = set(store.blobs())
    litter = [".DS_Store", f"._sha256-{'a' * 64}"] if system == "macOS" else ["desktop.ini", "Thumbs.db"]
    for folder in (tmp_path / "manifests", tmp_path / "blobs", store.manifest_path(TINY).parent.parent):
        folder.mkdir(parents=True, exist_ok=True)
        for name in litter:
            (folder / name).write_bytes(b"Bud1")

    with monkeypatch.context() as played:
        play(played, windows=system == "Windows")
        assert os.path.lexists(tmp_path / "MANIFESTS")
        for spelt in ("some/model:q4_k", "SOME/mODEL:Q4_k", "Some/Model:Q4_K"):
            assert store.manifest(parse_model_name(spelt)).raw == installed.raw
        for missing in (
            "some/model:q4_k.",
            "some/model:nul",
            "nul/model:q4_k",
            "127.0.0.1:8080/some/model:q4_k",
        ):
            with pytest.raises(ModelNotFound):
                store.manifest(parse_model_name(missing))
        assert set(store.blobs()) == blobs
        assert store.blob(installed.layers[0].digest).size == len(b"weights")
    assert store.id


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
