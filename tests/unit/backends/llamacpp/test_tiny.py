from pathlib import Path

import pytest
from gguf import GGUFReader

from ollama_dist.backends.llamacpp.tiny import write_random_model, write_tiny_model
from ollama_dist.wire.llamacpp.gguf import read_gguf


def test_a_scripted_model_is_a_small_gguf_that_others_can_read_too(tmp_path: Path) -> None:
    path = tmp_path / "tiny.gguf"
    write_tiny_model(path, "hello world")
    assert path.stat().st_size < 700_000
    theirs = GGUFReader(path)
    with path.open("rb") as stream:
        ours = read_gguf(stream, path.stat().st_size)
    assert [tensor.name for tensor in ours.tensors] == [tensor.name for tensor in theirs.tensors]
    assert ours.parameter_count == sum(int(tensor.n_elements) for tensor in theirs.tensors)
    assert theirs.fields["general.architecture"].contents() == ours.architecture == "llama"


def test_the_same_sentence_makes_the_same_file(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_tiny_model(tmp_path / name, "hello world")
    write_tiny_model(tmp_path / "c", "hello earth")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != (tmp_path / "c").read_bytes()


@pytest.mark.parametrize("sentence", ["", "twice is twice"])
def test_a_sentence_that_cannot_be_scripted_is_refused(tmp_path: Path, sentence: str) -> None:
    with pytest.raises(ValueError, match="no word comes twice"):
        write_tiny_model(tmp_path / "tiny.gguf", sentence)


def test_random_models_differ_by_their_seed(tmp_path: Path) -> None:
    write_random_model(tmp_path / "a", seed=1)
    write_random_model(tmp_path / "b", seed=2)
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()
