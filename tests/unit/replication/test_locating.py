"""Where a store may be, and which one is believed."""

import hashlib
from pathlib import Path

import pytest

from ollama_dist.backends.target import Target
from ollama_dist.core.errors import ModelNotFound
from ollama_dist.core.names import parse_model_name
from ollama_dist.core.view import InstalledModel
from ollama_dist.replication.disk.locating import CUSTOMARY, candidates, choose_store, find_store, store_in
from ollama_dist.replication.disk.store import OllamaStore
from tests.support.model_store import ModelStore
from tests.support.views import node_id


def listed(name: str, raw: bytes) -> InstalledModel:
    return InstalledModel(f"{name}:latest", hashlib.sha256(raw).hexdigest(), 1)


LINUX_HOME = "/home/me"


def test_what_the_server_says_comes_before_what_we_guess() -> None:
    its_own = {"OLLAMA_MODELS": "/disk/models", "HOME": "/home/ollama"}

    folders = candidates(its_own, "/told", {"HOME": LINUX_HOME}, LINUX_HOME, "linux")

    assert folders == [
        "/told",
        "/disk/models",
        "/home/ollama/.ollama/models",
        "/home/me/.ollama/models",
        *CUSTOMARY["linux"],
    ]


LAYOUTS = {
    "Linux, service of the install script": (
        "linux",
        {"HOME": "/usr/share/ollama"},
        "",
        LINUX_HOME,
        0,
        "/usr/share/ollama/.ollama/models",
    ),
    "Linux, service that tells nothing": ("linux", {}, "", LINUX_HOME, 1, "/usr/share/ollama/.ollama/models"),
    "Linux, of a user": ("linux", {}, "", LINUX_HOME, 0, "/home/me/.ollama/models"),
    "Linux, another disk": (
        "linux",
        {"OLLAMA_MODELS": '"/mnt/big disk/models"'},
        "",
        LINUX_HOME,
        0,
        "/mnt/big disk/models",
    ),
    "macOS, the application": (
        "darwin",
        {"HOME": "/Users/me"},
        "",
        "/Users/me",
        0,
        "/Users/me/.ollama/models",
    ),
    "macOS, a daemon of root": ("darwin", {}, "", "/Users/me", 1, "/var/root/.ollama/models"),
    "macOS, another volume": (
        "darwin",
        {"OLLAMA_MODELS": "/Volumes/T7/models", "HOME": "/Users/me"},
        "",
        "/Users/me",
        0,
        "/Volumes/T7/models",
    ),
    "Windows, of a user": (
        "win32",
        {"USERPROFILE": r"C:\Users\My Name", "HOME": "H:/"},
        "",
        r"C:\Users\My Name",
        0,
        r"C:\Users\My Name\.ollama\models",
    ),
    "Windows, another disk, odd case": (
        "win32",
        {"Ollama_Models": "D:/Models "},
        "",
        r"C:\Users\me",
        0,
        r"D:\Models",
    ),
    "Windows, a service": (
        "win32",
        {},
        "",
        r"C:\Users\me",
        1,
        r"C:\Windows\System32\config\systemprofile\.ollama\models",
    ),
    "Windows, as it says itself": ("win32", {}, r"e:\llm\models", r"C:\Users\me", 0, r"e:\llm\models"),
    "a container: its path, then ours": (
        "linux",
        {},
        "/root/.ollama/models",
        LINUX_HOME,
        1,
        "/home/me/.ollama/models",
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_where_it_is_on_each_system(layout: str) -> None:
    platform, its_own, told, home, place, folder = LAYOUTS[layout]
    assert candidates(its_own, told, {}, home, platform)[place] == folder


def test_on_windows_one_folder_in_two_spellings_is_one() -> None:
    its_own = {"OLLAMA_MODELS": "c:/users/ME/.ollama/models", "UserProfile": r"C:\Users\me"}
    folders = candidates(its_own, "", {}, r"C:\Users\Me", "win32")
    assert folders == [r"c:\users\ME\.ollama\models", *CUSTOMARY["win32"]]
    assert len(candidates({"OLLAMA_MODELS": "/A"}, "/a", {}, "", "linux")) == 2 + len(CUSTOMARY["linux"])


BLOB = "sha256-" + "0" * 64


@pytest.mark.parametrize(
    ("line", "folder"),
    [
        (f"FROM /root/.ollama/models/blobs/{BLOB}", "/root/.ollama/models"),
        (f"FROM C:\\Users\\My Name\\.ollama\\models\\blobs\\{BLOB}\r", "C:\\Users\\My Name\\.ollama\\models"),
        (f'FROM "/mnt/big disk/models/blobs/{BLOB}"', "/mnt/big disk/models"),
        ("FROM llama3:8b", ""),
        ("FROM /tmp/model.gguf", ""),
    ],
)
def test_the_store_is_read_off_the_path_of_the_weights(line: str, folder: str) -> None:
    assert store_in(f"# Modelfile\n# FROM {BLOB}\n{line}\nTEMPLATE x\n") == folder


async def test_where_a_person_says_it_is_it_is_or_nowhere(tmp_path: Path) -> None:
    """A container's Ollama names a path of its own; the volume lies elsewhere on this machine."""
    volume, other = ModelStore(tmp_path / "volume"), ModelStore(tmp_path / "other")
    model = listed("tiny", volume.install("tiny", b"weights").raw)
    nobody = Target(node_id(1), "127.0.0.1", 9)
    found = await find_store(nobody, [model], {}, tmp_path, volume.root)
    assert found.store is not None
    assert found.store.root == volume.root
    missed = await find_store(nobody, [model], {}, tmp_path, other.root)
    assert missed.store is None
    assert "(engine_store)" in missed.reason


def test_names_are_found_in_any_case_and_what_a_disk_cannot_hold_is_not_there(tmp_path: Path) -> None:
    store = ModelStore(tmp_path)
    manifest = store.install("Tiny:Q4_K_M", b"weights")
    assert OllamaStore(tmp_path).manifest(parse_model_name("tiny:q4_k_m")).digest == manifest.digest
    for name in ("127.0.0.1:8080/library/tiny", "tiny:q4_k_m.", "nul"):
        with pytest.raises(ModelNotFound):
            OllamaStore(tmp_path).manifest(parse_model_name(name))


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
