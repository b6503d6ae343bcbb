"""The folder of a fake that has one: manifests and blobs as an Ollama lays them out, for others to read."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ollama_dist.core.names import ModelName
from tests.support import recordings

MEDIA_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
IMAGE = "application/vnd.ollama.image"


class NoSpace(Exception):
    """The disk is full."""


class FakeStore:
    """An OLLAMA_MODELS. ``disk_bytes`` is the room there is for blobs; None: as much as is needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.blobs = folder / "blobs"
        self.blobs.mkdir(parents=True)
        self.disk_bytes: int | None = None

    def blob(self, digest: str) -> Path:
        return self.blobs / digest.replace(":", "-")

    def put(self, data: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        self.blob(digest).write_bytes(data)
        return digest

    def manifest(self, name: ModelName) -> Path:
        return self.folder / "manifests" / name.host / name.namespace / name.model / name.tag

    def make(self, name: ModelName, weights: bytes, system: str = "") -> None:
        """As ``create`` does."""
        config = json.dumps({"model_format": "gguf", "model_family": "llama"}).encode()
        layers = [_layer(f"{IMAGE}.model", self.put(weights), weights)]
        if system:
            layers.append(_layer(f"{IMAGE}.system", self.put(system.encode()), system.encode()))
        document = {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPE,
            "config": _layer("application/vnd.docker.container.image.v1+json", self.put(config), config),
            "layers": layers,
        }
        self.write(name, json.dumps(document, separators=(",", ":")).encode() + b"\n")

    def write(self, name: ModelName, raw: bytes) -> None:
        path = self.manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)

    def read(self, name: ModelName) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.manifest(name).read_bytes())
        return document

    def listed(self, name: ModelName) -> dict[str, Any]:
        """Digest and size as ``tags`` has them."""
        raw = self.manifest(name).read_bytes()
        size = sum(layer["size"] for layer in layers_of(json.loads(raw)))
        return {"digest": hashlib.sha256(raw).hexdigest(), "size": size}

    def remove(self, name: ModelName) -> None:
        """The manifest, and every blob of it that no other manifest names."""
        layers = layers_of(self.read(name))
        self.manifest(name).unlink()
        self.prune(layer["digest"] for layer in layers)

    def prune(self, digests: Any) -> None:
        used = {
            layer["digest"]
            for path in self._manifests()
            for layer in layers_of(json.loads(path.read_bytes()))
        }
        for digest in set(digests) - used:
            self.blob(digest).unlink(missing_ok=True)

    def take_room(self, more: int) -> None:
        """Raises `NoSpace`."""
        if self.disk_bytes is not None:
            self.disk_bytes -= more
            if self.disk_bytes < 0:
                raise NoSpace

    def _manifests(self) -> Iterator[Path]:
        return (path for path in (self.folder / "manifests").glob("*/*/*/*") if path.is_file())


def layers_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The layers and then the config, as Ollama goes through them."""
    return [*manifest["layers"], manifest["config"]]


def weights_of(file: str) -> bytes:
    return recordings.model_file(f"{file}.gguf")


def _layer(media_type: str, digest: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": len(data)}
