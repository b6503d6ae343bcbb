"""A GGUF file and its notes as a manifest, and a manifest as a GGUF file and notes. Pure.

The media types are Ollama's (``server/create.go``). Notes also travel as they are, in a layer of our own that
an Ollama keeps and ignores: of its own layers no template could be made again, which is Go there, Jinja here.
"""

from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, Final

import orjson

from ollama_dist.core.errors import BadRequest
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import DEFAULT_HOST, DEFAULT_NAMESPACE, DEFAULT_TAG, ModelName
from ollama_dist.replication.manifest import MEDIA_TYPE, Layer, Manifest, read_manifest
from ollama_dist.wire.llamacpp.card import BadNotes, Card, human_number, read_notes

CONFIG: Final = "application/vnd.docker.container.image.v1+json"
NOTES: Final = "application/vnd.ollama-dist.image.notes"

_IMAGE: Final = "application/vnd.ollama.image."
MODEL: Final = f"{_IMAGE}model"

_UNUSABLE: Final = frozenset(f"{_IMAGE}{part}" for part in ("projector", "adapter", "draft", "tensor"))
"""Layers without which the model is another, and which the embedded engine cannot use."""

_NOTED: Final = frozenset(f"{_IMAGE}{part}" for part in ("params", "system", "messages", "license"))

Blobs = Mapping[Digest, bytes]


class Unsuitable(BadRequest):
    """The embedded engine cannot have this model."""

    code = "unsuitable_model"


def manifest_of(weights: Digest, size: int, card: Card, notes: bytes | None) -> tuple[Manifest, Blobs]:
    """The manifest of a file of this digest and ``size`` with these ``notes``, and its blobs but the file."""
    blobs: dict[Digest, bytes] = {}

    def layer(media_type: str, data: bytes) -> dict[str, Any]:
        digest = Digest(sha256(data).hexdigest())
        blobs[digest] = data
        return _row(media_type, digest, len(data))

    rows = [_row(MODEL, weights, size)]
    rows += [layer(media_type, data) for media_type, data in _layers_of_notes(card)]
    rows += [layer(NOTES, notes)] if notes is not None else []
    config = {
        "model_format": "gguf",
        "model_family": card.family,
        "model_families": [card.family],
        "model_type": human_number(card.parameter_count),
        "file_type": card.quantization,
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [row["digest"] for row in rows]},
    }
    raw = orjson.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE,
            "config": layer(CONFIG, orjson.dumps(config)),
            "layers": rows,
        }
    )
    return read_manifest(raw), blobs


def weights_of(manifest: Manifest) -> Layer:
    """The layer that is the GGUF file. Raises `Unsuitable` where that alone is not the model."""
    unusable = sorted({layer.media_type for layer in manifest.layers} & _UNUSABLE)
    if unusable:
        parts = " and ".join(part.removeprefix(_IMAGE) for part in unusable)
        raise Unsuitable(
            f"the embedded engine runs models of one GGUF file; this one has a {parts} beside it"
        )
    models = [layer for layer in manifest.layers if layer.media_type == MODEL]
    if len(models) != 1:
        raise Unsuitable(f"the embedded engine runs models of one GGUF file; this one has {len(models)}")
    return models[0]


def noted_layers(manifest: Manifest) -> list[Layer]:
    """The layers that notes are made of: our own where there is one, else Ollama's."""
    own = [layer for layer in manifest.layers if layer.media_type == NOTES]
    return own or [layer for layer in manifest.layers if layer.media_type in _NOTED]


def notes_of(manifest: Manifest, blobs: Blobs) -> bytes | None:
    """The notes beside the file, made of `noted_layers`; None for none. Raises `Unsuitable`."""
    layers = noted_layers(manifest)
    try:
        notes = _joined(layers, blobs)
        if notes is not None:
            read_notes(notes)
    except (BadNotes, orjson.JSONDecodeError, UnicodeDecodeError) as error:
        raise Unsuitable(f"the embedded engine cannot use what the model says of itself: {error}") from error
    return notes


def path_of(name: ModelName) -> str:
    """Where the file of a model of this name lies in the folder, with ``/``. Raises `Unsuitable`."""
    if name.host.casefold() != DEFAULT_HOST:
        raise Unsuitable(f"the folder of the embedded engine has no place for a host: {name.short}")
    tag = "" if name.tag == DEFAULT_TAG else f"@{name.tag}"
    folder = "" if name.namespace.casefold() == DEFAULT_NAMESPACE else f"{name.namespace}/"
    return f"{folder}{name.model}{tag}.gguf"


def _row(media_type: str, digest: Digest, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _layers_of_notes(card: Card) -> Iterable[tuple[str, bytes]]:
    notes = card.notes
    if notes.system:
        yield f"{_IMAGE}system", notes.system.encode()
    if notes.parameters:
        yield f"{_IMAGE}params", orjson.dumps(dict(notes.parameters), option=orjson.OPT_SORT_KEYS)
    if notes.messages:
        yield f"{_IMAGE}messages", orjson.dumps([dict(message) for message in notes.messages])
    if notes.license:
        yield f"{_IMAGE}license", notes.license.encode()


def _joined(layers: Iterable[Layer], blobs: Blobs) -> bytes | None:
    said: dict[str, Any] = {}
    for layer in layers:
        data = blobs[layer.digest]
        match layer.media_type.removeprefix(_IMAGE):
            case "params":
                said["parameters"] = orjson.loads(data)
            case "messages":
                said["messages"] = orjson.loads(data)
            case "system":
                said["system"] = data.decode()
            case "license":
                said.setdefault("license", []).append(data.decode())
            case _:
                return data
    return orjson.dumps(said, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) if said else None
