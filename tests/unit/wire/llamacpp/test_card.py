import io
import json

import pytest

from ollama_dist.wire.llamacpp.card import BadNotes, Card, Notes, human_number, make_card, read_notes
from ollama_dist.wire.llamacpp.gguf import Gguf, Value, read_gguf
from tests.support.recordings import by_id, model_file


def gguf_of(name: str) -> Gguf:
    data = model_file(f"{name}.gguf")
    return read_gguf(io.BytesIO(data), len(data))


def card(template: str = "", values: dict[str, Value] | None = None) -> Card:
    told = {"general.architecture": "llama"} | (values or {})
    return make_card(Gguf(told, ()), Notes(template=template))


@pytest.mark.parametrize(
    ("file", "model"), [("markov", "tiny"), ("embed", "tiny-embed"), ("random", "tiny-random")]
)
def test_details_are_those_a_recorded_ollama_listed(file: str, model: str) -> None:
    rows = json.loads(by_id("0.33.0-rc2")["tags"].answer)["models"]
    row = next(row for row in rows if row["model"] == f"{model}:latest")
    made = make_card(gguf_of(file))
    assert made.listed_details == row["details"]
    assert list(made.capabilities) == row["capabilities"]


@pytest.mark.parametrize(
    ("template", "capabilities"),
    [
        ("{{ messages }}", ("completion",)),
        ("{% if tools %}…{% endif %}", ("completion", "tools")),
        ("<think>{{ thought }}</think>", ("completion", "thinking")),
        ("{{ content.split('</think>')[-1] }}", ("completion", "thinking")),
        ("{{ content.split('</think>') }} {{ reasoning_content }}", ("completion",)),
    ],
)
def test_a_template_tells_what_a_model_can_do(template: str, capabilities: tuple[str, ...]) -> None:
    assert card(template).capabilities == capabilities


def test_the_file_tells_the_rest() -> None:
    assert card(values={"llama.pooling_type": 1}).capabilities == ("embedding",)
    assert card(values={"tokenizer.ggml.fim_pre_token_id": 5}).capabilities == ("completion", "insert")


def test_the_cache_is_as_large_as_the_shape_says() -> None:
    made = make_card(gguf_of("markov"))
    assert made.cache_bytes_per_token == 2 * 2 * (32 + 32) * 2  # blocks, heads, keys and values, 16 bit


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (999, "999"),
        (304_768, "305K"),
        (1_000_000, "1M"),
        (134_515_008, "134.52M"),
        (8_030_261_248, "8.0B"),
        (8_000_000_000, "8B"),
    ],
)
def test_counts_are_shown_as_ollama_shows_them(count: int, text: str) -> None:
    assert human_number(count) == text


def test_notes_are_read() -> None:
    notes = read_notes(
        b'{"parameters": {"num_ctx": 10}, "system": "s", "license": ["a", "b"], "messages": []}'
    )
    assert notes == Notes({"num_ctx": 10}, "s", "", "a\nb", ())


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"{", "unexpected EOF"),
        (b"", "EOF"),
        (b'{"system": 5}', "cannot unmarshal number"),
        (b'{"license": [5]}', "license must be"),
        (b'{"parameters": {"stop": "x"}}', "must be of type array"),
    ],
)
def test_notes_that_make_no_sense_are_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(BadNotes, match=complaint):
        read_notes(data)
