"""Bringing a model into the embedded engine's folder: one file that is there whole, or not at all."""

import asyncio
import contextlib
import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final
from weakref import WeakValueDictionary

import structlog

from ollama_dist.backends.llamacpp.folder import Installed, ModelFolder
from ollama_dist.core.errors import DistError, ModelNotFound
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName
from ollama_dist.replication.disk.gguf_manifest import notes_of, path_of, weights_of
from ollama_dist.replication.disk.gguf_store import PARTIAL, GgufStore
from ollama_dist.replication.intake.copying import ModelSource, OnLine, OpenSource, install_metered
from ollama_dist.replication.intake.feeding import let_go
from ollama_dist.replication.intake.ollama_calls import DiskFull, PullLine
from ollama_dist.replication.manifest import Layer, Manifest
from ollama_dist.replication.sources import BlobLost, Progress
from ollama_dist.runtime.files import opened
from ollama_dist.runtime.private_files import sync_folder, write_private
from ollama_dist.runtime.tasks import background, end
from ollama_dist.wire import gojson

if TYPE_CHECKING:
    from hashlib import _Hash as Hash

log = structlog.get_logger()

KEPT_S: Final = 7 * 86_400.0
"""How long a file on its way is kept that nobody goes on with."""

SMALL: Final = 16 * 2**20
"""Bytes of a blob that is no weights; a larger one is refused."""

LISTED_S: Final = 30.0
"""How long the engine may take to list what lies in its folder."""

STEP: Final = 4 * 2**20
TELL_S: Final = 0.5


class CopyFailed(DistError):
    """The model could not be written; what was here is untouched."""

    code = "copy_failed"


class GgufCopier:
    """See `Copier`. ``make_room`` raises `DiskFull` for a model there is no room for."""

    def __init__(
        self,
        root: Path,
        folder: ModelFolder,
        store: GgufStore,
        open_source: OpenSource,
        make_room: Callable[[Manifest], Awaitable[None]],
    ) -> None:
        self._root = root
        self._folder = folder
        self._store = store
        self._open_source = open_source
        self._make_room = make_room
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()

    async def copy(
        self,
        name: ModelName,
        identity: Digest | None,
        holders: Sequence[NodeId],
        tell: Callable[[Progress], None],
    ) -> None:
        path_of(name)  # one that can have no file here is not asked for
        await install_metered(self._open_source(name, identity, holders), partial(self.install, name), tell)

    async def install(self, name: ModelName, source: ModelSource, on_line: OnLine) -> None:
        """Put the model of ``source`` into the folder as ``name``, in place of what is called so now.

        ``on_line`` hears progress in the words of an Ollama. Raises `Unsuitable`, `BlobLost`, `DiskFull` and
        `CopyFailed`; the old model is untouched then.
        """
        path, manifest = self._root / path_of(name), source.manifest
        weights = weights_of(manifest)
        blobs = {layer.digest: await _small(source, layer) for layer in _small_layers(manifest)}
        notes = notes_of(manifest, blobs)
        for layer in _small_layers(manifest):
            on_line(_line(layer, layer.size))
        lock = self._locks.setdefault(weights.digest, asyncio.Lock())
        async with lock:
            await self._tidy(weights.digest)
            partial = self._store.coming(weights.digest)
            if not await asyncio.to_thread(_reuse, self._same(weights), partial, weights.size):
                await self._make_room(manifest)
            with _room_told():
                await self._fetch(source, weights, partial, on_line)
                await asyncio.to_thread(_place, partial, path, notes)
                await asyncio.to_thread(self._store.keep, name, manifest, blobs)
        self._folder.note_digest(path, weights.digest)
        await self._until_listed(name, path, weights.digest)

    async def delete(self, name: ModelName) -> None:
        model = self._folder.models.get(name.key)
        if model is None:
            raise ModelNotFound(f"model '{name.short}' not found")
        await asyncio.to_thread(_remove, model)
        await asyncio.to_thread(self._store.forget, name)
        await self._folder.until(lambda: name.key not in self._folder.models, LISTED_S)

    async def _tidy(self, wanted: Digest) -> None:
        """Take away files on their way that nobody went on with for `KEPT_S`, but for the wanted one."""
        await asyncio.to_thread(_sweep, self._root / PARTIAL, time.time() - KEPT_S, wanted)

    def _same(self, weights: Layer) -> Path | None:
        """A file that is here under another name and has these bytes."""
        return next(
            (each.path for each in self._folder.models.values() if each.weights == weights.digest), None
        )

    async def _fetch(self, source: ModelSource, weights: Layer, partial: Path, on_line: OnLine) -> None:
        """Have all of the file in ``partial``, going on with what lies there."""
        hashed = sha256()
        async with opened(lambda: _open(partial)) as file:
            kept = done = await asyncio.to_thread(_take_up, file, hashed, weights.size)

            async def say() -> None:
                while True:
                    on_line(_line(weights, done))
                    await asyncio.sleep(TELL_S)

            saying = background(say(), "copy-progress")
            parts = source.read(weights.digest, kept, weights.size)
            try:
                async for part in parts:
                    done += await asyncio.to_thread(_append, file, hashed, part)
            finally:
                await let_go(parts)
                await end(saying)
            on_line(_line(weights, done))
            await asyncio.to_thread(os.fsync, file.fileno())
        if hashed.hexdigest() == weights.digest:
            return None
        await asyncio.to_thread(partial.unlink)
        log.error("copy_wrong", digest=weights.digest, resumed_at=kept)
        if kept:  # what lay here may have been at fault: nobody is blamed, and all of it is had again
            return await self._fetch(source, weights, partial, on_line)
        source.blame(weights.digest)
        raise BlobLost(f"what came is not sha256:{weights.digest}")

    async def _until_listed(self, name: ModelName, path: Path, weights: Digest) -> None:
        def is_listed() -> bool:
            found = self._folder.models.get(name.key)
            return (found is not None and found.weights == weights) or path in self._folder.problems

        if not await self._folder.until(is_listed, LISTED_S):
            log.warning("copy_not_listed_yet", path=str(path))
        elif path in self._folder.problems:
            raise CopyFailed(f"the embedded engine cannot use it: {self._folder.problems[path]}")


def _line(layer: Layer, completed: int) -> PullLine:
    """What an Ollama says when so much of a blob is there."""
    status, digest = f"pulling {layer.digest[:12]}", f"sha256:{layer.digest}"
    said = {"status": status, "digest": digest, "total": layer.size, "completed": completed}
    return PullLine(gojson.encode(said), status, digest, completed)


def _small_layers(manifest: Manifest) -> list[Layer]:
    weights = weights_of(manifest)
    small = [layer for layer in (*manifest.layers, manifest.config) if layer.digest != weights.digest]
    for layer in small:
        if layer.size > SMALL:
            raise CopyFailed(f"a {layer.media_type} of {layer.size} bytes is not to be believed")
    return small


async def _small(source: ModelSource, layer: Layer) -> bytes:
    return b"".join([part async for part in source.read(layer.digest, 0, layer.size)])


# Files: not for the event loop


@contextlib.contextmanager
def _room_told() -> Iterator[None]:
    """What the disk says, in our own words; raises `DiskFull` and `CopyFailed`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("the disk is full; what has arrived is kept") from error
        raise CopyFailed(f"the model cannot be written: {error.strerror or error}") from error


def _reuse(same: Path | None, partial: Path, size: int) -> bool:
    """Have a second name for a file that is here already; whether there was one and that could be done."""
    if same is None or same.stat().st_size != size:
        return False
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        partial.unlink(missing_ok=True)
        os.link(same, partial)
    except OSError:
        return False
    return True


def _open(partial: Path) -> BinaryIO:
    partial.parent.mkdir(parents=True, exist_ok=True)
    return partial.open("a+b")


def _take_up(file: BinaryIO, hashed: "Hash", size: int) -> int:
    """Hash what is there, and no more than ``size`` of it; how much that is."""
    if os.fstat(file.fileno()).st_size > size:
        file.truncate(0)
    file.seek(0)
    kept = 0
    while data := file.read(STEP):
        hashed.update(data)
        kept += len(data)
    return kept


def _append(file: BinaryIO, hashed: "Hash", data: bytes | memoryview) -> int:
    file.write(data)
    file.flush()
    hashed.update(data)
    return len(data)


def _place(partial: Path, path: Path, notes: bytes | None) -> None:
    """Give the file its name, and put the notes beside it: each whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_suffix(".json")
    if notes is None:
        beside.unlink(missing_ok=True)
    else:
        write_private(beside, notes)
    partial.replace(path)
    sync_folder(path.parent)


def _remove(model: Installed) -> None:
    model.path.unlink(missing_ok=True)
    model.path.with_suffix(".json").unlink(missing_ok=True)


def _sweep(folder: Path, before: float, wanted: Digest) -> None:
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            if path.name != wanted and path.stat().st_mtime < before:
                path.unlink(missing_ok=True)
