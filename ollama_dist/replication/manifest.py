"""What a model is made of: the list of its blobs, as registries and Ollama's store keep it. Pure.

The format is the image manifest, version 2 schema 2, of the distribution project; Ollama's media types are
in its ``manifest`` package. A manifest comes from another machine: nothing in it is trusted before it was
read here.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import orjson

from ollama_dist.core.errors import BadRequest, DistError
from ollama_dist.core.ids import Digest, parse_digest

MEDIA_TYPE: Final = "application/vnd.docker.distribution.manifest.v2+json"

MANIFEST_LIMIT: Final = 4 * 2**20
"""Bytes. Models in one file have a kilobyte; those with a blob per tensor some hundred."""

LAYERS_LIMIT: Final = 16_384
BLOB_LIMIT: Final = 2**43
"""Bytes of one blob: 8 TiB."""

_MEDIA_TYPE_LIMIT: Final = 255


class BadManifest(DistError):
    """These bytes are no manifest that could be served or followed."""

    code = "bad_manifest"


@dataclass(frozen=True, slots=True)
class Layer:
    """One blob of a model and what it is for."""

    media_type: str
    digest: Digest
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Manifest:
    """A model's blobs. Build it with `read_manifest`."""

    raw: bytes
    """Exactly as it was found: its SHA-256 is the model's digest in new versions of Ollama."""
    media_type: str
    config: Layer
    layers: tuple[Layer, ...]

    @cached_property
    def digest(self) -> Digest:
        return Digest(hashlib.sha256(self.raw).hexdigest())

    @cached_property
    def identity(self) -> Digest:
        """The same for two models exactly if their config and their layers are the same, in the same order.

        The digest is not: versions of Ollama before 0.19 write a manifest anew when they pull it, and those
        made on a machine say where their weights lay there.
        """
        parts = [self.config.digest, *(f"{layer.media_type} {layer.digest}" for layer in self.layers)]
        return Digest(hashlib.sha256("\n".join(parts).encode()).hexdigest())

    @cached_property
    def blobs(self) -> Mapping[Digest, int]:
        """The size of every blob, once each, layers first and the config last, as Ollama pulls them."""
        return {layer.digest: layer.size for layer in (*self.layers, self.config)}

    @property
    def size(self) -> int:
        """Bytes of all blobs together."""
        return sum(self.blobs.values())


def read_manifest(raw: bytes) -> Manifest:
    """The manifest in ``raw``; raises `BadManifest`."""
    if len(raw) > MANIFEST_LIMIT:
        raise BadManifest(f"the manifest is longer than {MANIFEST_LIMIT} bytes")
    try:
        said = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadManifest(f"the manifest is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise BadManifest("the manifest is no JSON object")
    rows = said.get("layers")
    if not isinstance(rows, list) or len(rows) > LAYERS_LIMIT:
        raise BadManifest(f'"layers" is not a list of at most {LAYERS_LIMIT}')
    media_type = said.get("mediaType")
    manifest = Manifest(
        raw=raw,
        media_type=media_type if isinstance(media_type, str) and media_type else MEDIA_TYPE,
        config=_layer(said.get("config"), "config"),
        layers=tuple(_layer(row, f"layer {place}") for place, row in enumerate(rows)),
    )
    _check_media_type(manifest.media_type, "the manifest")
    if any(manifest.blobs[layer.digest] != layer.size for layer in (*manifest.layers, manifest.config)):
        raise BadManifest("one blob is listed with two sizes")
    return manifest


def _layer(said: Any, what: str) -> Layer:
    if not isinstance(said, dict):
        raise BadManifest(f"{what} is no JSON object")
    digest, size, media_type = said.get("digest"), said.get("size"), said.get("mediaType")
    if not isinstance(digest, str):
        raise BadManifest(f"{what} has no digest")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= BLOB_LIMIT:
        raise BadManifest(f"{what} has no possible size")
    if not isinstance(media_type, str):
        raise BadManifest(f"{what} has no media type")
    _check_media_type(media_type, what)
    try:
        return Layer(media_type, parse_digest(digest), size)
    except BadRequest:
        raise BadManifest(f"{what} has a malformed digest") from None


def _check_media_type(text: str, what: str) -> None:
    """It becomes a header: printable and not long."""
    if len(text) > _MEDIA_TYPE_LIMIT or not text.isascii() or not text.isprintable():
        raise BadManifest(f"{what} has a malformed media type")
