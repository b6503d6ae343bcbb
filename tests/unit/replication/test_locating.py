"""Where a store may be, and which one is believed."""

import hashlib
from pathlib import Path

from ollama_dist.core.view import InstalledModel
from ollama_dist.replication.disk.locating import CUSTOMARY, candidates, choose_store
from tests.support.model_store import ModelStore


def listed(name: str, raw: bytes) -> InstalledModel:
    return InstalledModel(f"{name}:latest", hashlib.sha256(raw).hexdigest(), 1)


def test_what_the_server_says_comes_before_what_we_guess() -> None:
    its_own = {"OLLAMA_MODELS": "/disk/models", "HOME": "/home/ollama"}

    folders = candidates(its_own, Path("/told"), {"HOME": "/home/me"}, Path("/home/me"))

    assert [str(folder) for folder in folders] == [
        "/told",
        "/disk/models",
        "/home/ollama/.ollama/models",
        "/home/me/.ollama/models",
        *CUSTOMARY,
    ]


def test_the_folder_that_has_what_the_engine_lists_is_believed(tmp_path: Path) -> None:
    other, ours = ModelStore(tmp_path / "other"), ModelStore(tmp_path / "ours")
    other.install("tiny", b"older weights")
    model = listed("tiny", ours.install("tiny", b"weights").raw)

    found = choose_store([tmp_path / "missing", other.root, ours.root], [listed("gone", b"x"), model])

    assert found.store is not None
    assert found.store.root == ours.root


def test_without_models_the_first_store_is_it_and_a_stranger_is_none(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "store")
    store.put(b"left over")
    (tmp_path / "empty").mkdir()

    found = choose_store([tmp_path / "empty", store.root], [])
    assert found.store is not None
    assert found.store.root == store.root

    none = choose_store([tmp_path / "empty", store.root], [listed("tiny", b"x")])
    assert none.store is None
    assert none.reason == "no folder has the models that the engine lists"
