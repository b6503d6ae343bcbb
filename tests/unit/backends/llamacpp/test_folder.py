import hashlib
import shutil
from pathlib import Path

import pytest

from ollama_dist.backends.llamacpp.folder import BadFileName, ModelFolder, model_name_of
from ollama_dist.core.names import InvalidModelName
from tests.support.recordings import FOLDER
from tests.support.views import key

MARKOV = FOLDER / "models" / "markov.gguf"


@pytest.fixture
def folder(tmp_path: Path) -> ModelFolder:
    (tmp_path / "models").mkdir()
    return ModelFolder(tmp_path / "models", tmp_path / "state")


def put(folder: Path, name: str, notes: str = "") -> Path:
    path = folder / "models" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(MARKOV, path)
    if notes:
        path.with_suffix(".json").write_text(notes)
    return path


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("llama3.gguf", "llama3:latest"),
        ("llama3@8b.gguf", "llama3:8b"),
        ("me/llama3@8b.gguf", "me/llama3:8b"),
        ("qwen2.5@0.5b-q4_K_M.gguf", "qwen2.5:0.5b-q4_K_M"),
    ],
)
def test_a_file_is_called_after_its_path(path: str, name: str) -> None:
    assert model_name_of(Path(path)).short == name


def test_names_that_no_model_has_are_refused() -> None:
    with pytest.raises(InvalidModelName):
        model_name_of(Path("a b.gguf"))
    with pytest.raises(BadFileName, match="one part of several"):
        model_name_of(Path("big-00001-of-00003.gguf"))


async def test_files_are_listed_with_the_digest_of_their_bytes(folder: ModelFolder, tmp_path: Path) -> None:
    put(tmp_path, "tiny.gguf")
    put(tmp_path, "me/other@v2.gguf")
    await folder.look()
    assert set(folder.models) == {key("tiny"), key("me/other:v2")}
    model = folder.models[key("tiny")]
    assert model.digest == hashlib.sha256(MARKOV.read_bytes()).hexdigest()
    assert model.size == MARKOV.stat().st_size
    assert model.card.capabilities == ("completion",)


async def test_notes_are_part_of_what_a_model_is(folder: ModelFolder, tmp_path: Path) -> None:
    put(tmp_path, "plain.gguf")
    put(tmp_path, "noted.gguf", '{"system": "be brief"}')
    await folder.look()
    plain, noted = folder.models[key("plain")], folder.models[key("noted")]
    assert noted.card.notes.system == "be brief"
    assert noted.digest != plain.digest
    assert len(noted.digest) == 64


async def test_a_broken_file_is_skipped_with_a_reason(folder: ModelFolder, tmp_path: Path) -> None:
    whole = put(tmp_path, "whole.gguf")
    cut = put(tmp_path, "cut.gguf")
    cut.write_bytes(whole.read_bytes()[:100_000])
    (tmp_path / "models" / "text.gguf").write_text("not a model at all")
    noted = put(tmp_path, "noted.gguf", '{"parameters": {"num_ctx": "many"}}')
    await folder.look()
    assert set(folder.models) == {key("whole")}
    assert folder.problems[cut].startswith("it ends after 100000 of at least")
    assert folder.problems[tmp_path / "models" / "text.gguf"] == "it does not begin with GGUF"
    assert folder.problems[noted] == 'option "num_ctx" must be of type integer'


async def test_of_two_files_with_one_name_the_first_counts(folder: ModelFolder, tmp_path: Path) -> None:
    put(tmp_path, "Tiny.gguf")
    second = put(tmp_path, "tiny@latest.gguf")
    await folder.look()
    assert len(folder.models) == 1
    assert folder.problems == {second: "another file already is tiny:latest"}


async def test_what_is_new_or_gone_is_told(tmp_path: Path) -> None:
    changes: list[int] = []
    folder = ModelFolder(tmp_path / "models", tmp_path / "state", lambda: changes.append(1))
    (tmp_path / "models").mkdir()
    await folder.look()
    assert changes == []
    path = put(tmp_path, "tiny.gguf")
    await folder.look()
    assert (len(changes), len(folder.models)) == (1, 1)
    await folder.look()
    assert len(changes) == 1
    path.unlink()
    await folder.look()
    assert (len(changes), len(folder.models)) == (2, 0)


async def test_a_completed_file_is_taken_up(folder: ModelFolder, tmp_path: Path) -> None:
    path = put(tmp_path, "tiny.gguf")
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    await folder.look()
    assert not folder.models
    path.write_bytes(whole)
    await folder.look()
    assert set(folder.models) == {key("tiny")}
    assert folder.problems == {}


async def test_a_folder_that_is_not_there_is_made(tmp_path: Path) -> None:
    folder = ModelFolder(tmp_path / "a" / "b", tmp_path / "state")
    await folder.start()
    try:
        assert (tmp_path / "a" / "b").is_dir()
    finally:
        await folder.stop()
