"""A store as Ollama would have written it, with models made up for a test."""

import hashlib
from pathlib import Path
from random import Random

import orjson

from ollama_dist.core.ids import Digest
from ollama_dist.core.names import ModelName, parse_model_name
from ollama_dist.replication.disk.store import OllamaStore
from ollama_dist.replication.manifest import MEDIA_TYPE, Manifest, read_manifest

MODEL = "application/vnd.ollama.image.model"
TEMPLATE = "application/vnd.ollama.image.template"
CONFIG = "application/vnd.docker.container.image.v1+json"


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that do not repeat, the same for the same seed."""
    return Random(seed).randbytes(size)


def layer(media_type: str, data: bytes) -> dict[str, object]:
    digest = hashlib.sha256(data).hexdigest()
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def manifest_of(weights: bytes, template: bytes = b"{{ .Prompt }}", config: bytes = b"{}") -> Manifest:
    return read_manifest(
        orjson.dumps(
            {
                "schemaVersion": 2,
                "mediaType": MEDIA_TYPE,
                "config": layer(CONFIG, config),
                "layers": [layer(MODEL, weights), layer(TEMPLATE, template)],
            }
        )
    )


class ModelStore(OllamaStore):
    """Writes what `OllamaStore` only reads."""

    def install(self, name: str, weights: bytes, template: bytes = b"{{ .Prompt }}") -> Manifest:
        for data in (weights, template, b"{}"):
            self.put(data)
        manifest = manifest_of(weights, template)
        path = self.manifest_path(parse_model_name(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(manifest.raw)
        return manifest

    def put(self, data: bytes) -> Digest:
        digest = Digest(hashlib.sha256(data).hexdigest())
        path = self.blob_path(digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest

    def manifest_path(self, name: ModelName) -> Path:
        return self.root / "manifests" / name.host / name.namespace / name.model / name.tag

    def blob_path(self, digest: Digest) -> Path:
        return self.root / "blobs" / f"sha256-{digest}"

    def flip(self, digest: Digest, at: int) -> None:
        """Change one bit of a blob, as a failing disk would: nothing else of the file tells of it."""
        path = self.blob_path(digest)
        data = bytearray(path.read_bytes())
        data[at] ^= 1
        path.write_bytes(data)
