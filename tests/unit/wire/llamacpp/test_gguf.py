import contextlib
import io
from pathlib import Path

import pytest
from gguf import GGUFReader, GGUFWriter
from hypothesis import example, given
from hypothesis import strategies as st

from ollama_dist.wire.llamacpp.gguf import BadGguf, Gguf, read_gguf
from tests.support.recordings import model_file

MARKOV = model_file("markov.gguf")
HEAD = MARKOV[:12_000]


def read(data: bytes) -> Gguf:
    return read_gguf(io.BytesIO(data), len(data))


def test_the_head_says_what_the_reference_reader_says(tmp_path: Path) -> None:
    path = tmp_path / "markov.gguf"
    path.write_bytes(MARKOV)
    theirs = GGUFReader(path)
    ours = read(MARKOV)
    for name, value in ours.values.items():
        if value is not None:
            assert theirs.fields[name].contents() == value
    assert [(each.name, each.type) for each in ours.tensors] == [
        (each.name, each.tensor_type.name) for each in theirs.tensors
    ]
    assert [each.shape for each in ours.tensors] == [
        tuple(int(length) for length in each.shape) for each in theirs.tensors
    ]


def test_what_listings_need_is_found() -> None:
    gguf = read(MARKOV)
    assert gguf.architecture == "llama"
    assert gguf.parameter_count == 304_768
    assert gguf.own_int("context_length") == 2048
    assert gguf.own("pooling_type") is None
    assert gguf.values["tokenizer.ggml.tokens"] is None


def test_long_vocabularies_are_passed_over(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "big.gguf", "llama")
    writer.add_token_list([f"token number {number}" for number in range(60_000)])
    writer.add_array("llama.numbers", list(range(70_000)))
    writer.add_string("general.name", "after them")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read((tmp_path / "big.gguf").read_bytes()).values["general.name"] == "after them"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends within its head"),
        (b"GGML" + MARKOV[4:], "does not begin with GGUF"),
        (b"GGUF" + (1).to_bytes(4, "little") + MARKOV[8:], "format is version 1"),
        (MARKOV[:5_000], "ends within its head"),
        (MARKOV[:-1], "ends after 622079 of at least 622080 bytes"),
        (MARKOV.replace(b"general.architecture", b"general.architektur!"), "names no architecture"),
        (b"GGUF\3\0\0\0" + b"\xff" * 16, "claims to have"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(data: bytes, reason: str) -> None:
    with pytest.raises(BadGguf, match=reason) as refusal:
        read(data)
    assert "\n" not in str(refusal.value)


@given(st.binary(max_size=200), st.integers(0, len(HEAD)), st.integers(0, 300))
@example(b"", 0, 0)
def test_damage_anywhere_is_refused_or_read_and_nothing_else(patch: bytes, at: int, removed: int) -> None:
    damaged = HEAD[:at] + patch + HEAD[at + removed :] + MARKOV[len(HEAD) :]
    with contextlib.suppress(BadGguf):
        assert isinstance(read(damaged).values["general.architecture"], str)
