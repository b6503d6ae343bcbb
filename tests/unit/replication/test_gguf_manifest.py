"""GGUF files as manifests and back."""

import hashlib
from typing import Any

import orjson
import pytest

from ollama_dist.core.ids import Digest
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.disk.gguf_manifest import Unsuitable, manifest_of, notes_of, path_of, weights_of
from ollama_dist.replication.manifest import Manifest, read_manifest
from ollama_dist.wire.llamacpp.card import make_card, read_notes
from ollama_dist.wire.llamacpp.gguf import Gguf
from tests.support.model_store import CONFIG, MODEL, layer

WEIGHTS = Digest("a" * 64)
IMAGE = "application/vnd.ollama.image."
NOTES = (
    b'{"system": "be kind", "template": "{{ jinja }}", "parameters": {"temperature": 0.5}, "license": "MIT"}'
)
CARD = make_card(Gguf({"general.architecture": "llama", "general.file_type": 2}, ()), read_notes(NOTES))


def received(*layers: tuple[str, bytes]) -> tuple[Manifest, dict[Digest, bytes]]:
    """A manifest as an Ollama has it, and its blobs."""
    rows: list[dict[str, Any]] = [layer(f"{IMAGE}{kind}", data) for kind, data in layers]
    raw = orjson.dumps({"schemaVersion": 2, "config": layer(CONFIG, b"{}"), "layers": rows})
    return read_manifest(raw), {Digest(hashlib.sha256(data).hexdigest()): data for _, data in layers}


def test_a_file_and_its_notes_are_what_an_ollama_can_use() -> None:
    manifest, blobs = manifest_of(WEIGHTS, 100, CARD, NOTES)

    said = {each.media_type.removeprefix(IMAGE): blobs.get(each.digest) for each in manifest.layers}
    assert said["model"] is None
    assert said["system"] == b"be kind"
    assert said["params"] == b'{"temperature":0.5}'
    assert said["license"] == b"MIT"
    config = orjson.loads(blobs[manifest.config.digest])
    assert (config["model_family"], config["file_type"]) == ("llama", "Q4_0")
    assert manifest.size == 100 + sum(map(len, blobs.values()))


def test_the_same_file_is_the_same_model_on_every_node() -> None:
    assert manifest_of(WEIGHTS, 100, CARD, NOTES)[0].raw == manifest_of(WEIGHTS, 100, CARD, NOTES)[0].raw
    plain = make_card(Gguf({"general.architecture": "llama"}, ()))
    assert (
        manifest_of(WEIGHTS, 100, plain, None)[0].identity
        != manifest_of(WEIGHTS, 100, CARD, NOTES)[0].identity
    )


def test_our_own_notes_come_over_as_they_were() -> None:
    manifest, blobs = manifest_of(WEIGHTS, 100, CARD, NOTES)
    assert weights_of(manifest).digest == WEIGHTS
    assert notes_of(manifest, blobs) == NOTES


def test_what_an_ollama_says_of_a_model_becomes_notes() -> None:
    manifest, blobs = received(
        ("model", b"w"),
        ("template", b"{{ .Prompt }}"),
        ("system", b"be kind"),
        ("params", b'{"stop":["x"],"num_ctx":1024}'),
        ("license", b"one"),
        ("license", b"two"),
        ("messages", b'[{"role":"user","content":"hi"}]'),
        ("something-new", b"?"),
    )
    notes = notes_of(manifest, blobs)
    assert notes is not None
    assert orjson.loads(notes) == {
        "license": ["one", "two"],
        "messages": [{"role": "user", "content": "hi"}],
        "parameters": {"num_ctx": 1024, "stop": ["x"]},
        "system": "be kind",
    }
    assert notes_of(*received(("model", b"w"), ("template", b"t"))) is None


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        ([("model", b"w"), ("projector", b"p")], "has a projector beside it"),
        ([("model", b"w"), ("model", b"x")], "this one has 2"),
        ([("tensor", b"w")], "has a tensor beside it"),
        ([], "this one has 0"),
    ],
)
def test_a_model_of_other_parts_is_refused(layers: list[tuple[str, bytes]], complaint: str) -> None:
    with pytest.raises(Unsuitable, match=complaint):
        weights_of(received(*layers)[0])


@pytest.mark.parametrize("params", [b"nonsense", b"[1]", b'{"num_ctx":"many"}'])
def test_parameters_that_make_no_sense_are_refused(params: bytes) -> None:
    with pytest.raises(Unsuitable, match="cannot use what the model says of itself"):
        notes_of(*received(("model", b"w"), ("params", params)))


def test_names_become_paths_that_the_folder_reads_as_the_same_names() -> None:
    assert path_of(parse_model_name("tiny")) == "tiny.gguf"
    assert path_of(parse_model_name("some/tiny:Q4_K")) == "some/tiny@Q4_K.gguf"
    assert f"{IMAGE}model" == MODEL
    with pytest.raises(Unsuitable, match="no place for a host"):
        path_of(parse_model_name("hf.co/some/tiny"))
