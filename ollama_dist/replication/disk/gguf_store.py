"""The embedded engine's folder of GGUF files as a store: manifests are made of what lies there.

A model that came from elsewhere keeps the manifest it came with, so that it stays the same model; small blobs
and such manifests lie in folders of their own, whose names begin with a dot.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from ollama_dist.backends.llamacpp.folder import Installed
from ollama_dist.core.errors import DistError, ModelNotFound
from ollama_dist.core.ids import Digest, is_digest
from ollama_dist.core.names import ModelKey, ModelName
from ollama_dist.replication.disk.gguf_manifest import (
    Blobs,
    manifest_of,
    noted_layers,
    notes_of,
    path_of,
    weights_of,
)
from ollama_dist.replication.disk.store import BlobFile, BlobNotFound, StoreUnreadable, store_id
from ollama_dist.replication.manifest import Manifest, read_manifest
from ollama_dist.runtime.private_files import write_private

BLOBS: Final = ".blobs"
MANIFESTS: Final = ".manifests"
PARTIAL: Final = ".partial"
"""Folder of files on their way; one that was left is gone on with."""


class GgufStore:
    """See `Store`. ``installed`` are the models of the folder ``root`` as the engine knows them."""

    def __init__(self, root: Path, installed: Callable[[], Mapping[ModelKey, Installed]]) -> None:
        self._root = root
        self._installed = installed

    @property
    def root(self) -> Path:
        return self._root

    @property
    def id(self) -> str:
        files = []
        for model in self._installed().values():
            with contextlib.suppress(BlobNotFound, StoreUnreadable):
                files.append(BlobFile.at(model.weights, model.path))
        return store_id(min(files, key=lambda file: (file.mtime_ns, file.digest))) if files else ""

    def manifest(self, name: ModelName) -> Manifest:
        model = self._installed().get(name.key)
        if model is None:
            raise ModelNotFound(f"model '{name.short}' not found")
        kept = self._kept(model)
        if kept is not None:
            return kept
        try:
            manifest, blobs = manifest_of(model.weights, model.size, model.card, _notes_beside(model.path))
            for digest, data in blobs.items():
                self._keep(digest, data)
        except OSError as error:
            raise StoreUnreadable(f"{self._root}: {error.strerror or error}") from error
        return manifest

    def blob(self, digest: Digest) -> BlobFile:
        for model in self._installed().values():
            if model.weights == digest:
                return BlobFile.at(digest, model.path)
        return BlobFile.at(digest, self._root / BLOBS / digest)

    def coming(self, digest: Digest) -> Path:
        return self._root / PARTIAL / digest

    def blobs(self) -> list[Digest]:
        files = {model.weights for model in self._installed().values()}
        with contextlib.suppress(FileNotFoundError):
            files |= {Digest(name) for name in os.listdir(self._root / BLOBS) if is_digest(name)}
        return sorted(files)

    def keep(self, name: ModelName, manifest: Manifest, blobs: Blobs) -> None:
        """Remember with which manifest a model came, and its ``blobs`` but the file. Raises `OSError`."""
        for digest, data in blobs.items():
            self._keep(digest, data)
        path = self._kept_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_private(path, manifest.raw)

    def forget(self, name: ModelName) -> None:
        """The model is gone: so is its manifest, and what only that named. Raises `OSError`."""
        self._kept_path(name).unlink(missing_ok=True)
        named: set[Digest] = set()
        for model in self._installed().values():
            if model.name.key != name.key:
                with contextlib.suppress(DistError):
                    named |= self.manifest(model.name).blobs.keys()
        with contextlib.suppress(FileNotFoundError):
            for path in (self._root / BLOBS).iterdir():
                if path.name not in named:
                    path.unlink(missing_ok=True)

    def _kept(self, model: Installed) -> Manifest | None:
        """The manifest the model came with, if nobody changed the model or its notes since."""
        try:
            manifest = read_manifest(self._kept_path(model.name).read_bytes())
            blobs = {
                layer.digest: (self._root / BLOBS / layer.digest).read_bytes()
                for layer in noted_layers(manifest)
            }
            is_whole = all(
                (self._root / BLOBS / each).exists() for each in manifest.blobs if each != model.weights
            )
            is_same = weights_of(manifest).digest == model.weights
            return (
                manifest
                if is_whole and is_same and notes_of(manifest, blobs) == _notes_beside(model.path)
                else None
            )
        except (OSError, DistError):
            return None

    def _kept_path(self, name: ModelName) -> Path:
        return self._root / MANIFESTS / f"{path_of(name).casefold()}.manifest"

    def _keep(self, digest: Digest, data: bytes) -> None:
        path = self._root / BLOBS / digest
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_private(path, data)


def _notes_beside(path: Path) -> bytes | None:
    try:
        return path.with_suffix(".json").read_bytes()
    except FileNotFoundError:
        return None
