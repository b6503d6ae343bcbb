"""The folder of models: which GGUF files are in it, what they are called, what is wrong with the others.

``name.gguf`` is ``name:latest``, ``name@tag.gguf`` is ``name:tag``, ``namespace/name.gguf`` has a namespace;
notes lie beside it as ``name.json``. A model is there once the SHA-256 of its file is known, not before.
"""

import asyncio
import contextlib
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import structlog

from ollama_dist.backends.llamacpp.digests import DigestStore, Stamp
from ollama_dist.core.errors import ConfigError, DistError
from ollama_dist.core.ids import Digest
from ollama_dist.core.names import DEFAULT_TAG, InvalidModelName, ModelKey, ModelName, parse_model_name
from ollama_dist.runtime.tasks import background, end
from ollama_dist.wire.llamacpp.card import NO_NOTES, BadNotes, Card, make_card, read_notes
from ollama_dist.wire.llamacpp.gguf import BadGguf, read_gguf

log = structlog.get_logger()

PERIOD_S: Final = 2.0
"""Between two looks at the folder."""

POKE_S: Final = 0.1
"""The same while somebody waits for what was put there."""

FIRST_LOOK_S: Final = 1.0
MAX_FILES: Final = 2_000
MAX_NOTES_BYTES: Final = 2**20

NOT_A_MODEL: Final = frozenset(("clip", "imatrix", "adapter"))
"""Architectures of files that belong to a model but are none."""

_PART: Final = re.compile(r"-\d{5}-of-\d{5}$")


@dataclass(frozen=True, slots=True)
class Installed:
    """A model that can be run."""

    name: ModelName
    path: Path
    size: int
    modified_at: float
    """Unix time."""
    digest: Digest
    """SHA-256 of the file; with notes, of that and theirs."""
    weights: Digest
    """SHA-256 of the file alone."""
    card: Card


@dataclass(frozen=True, slots=True)
class _File:
    """A file as it was found; another stamp means another file."""

    path: Path
    stamp: Stamp
    notes: Stamp | None


_Problem = str
"""Why a file is no model, in one line."""


class ModelFolder:
    """Watches ``folder``. ``changed`` is called whenever `models` is another than before."""

    def __init__(self, folder: Path, state_dir: Path, changed: Callable[[], None] = lambda: None) -> None:
        self._folder = folder
        self._digests = DigestStore(state_dir)
        self._changed = changed
        self._found: dict[_File, Installed | _Problem] = {}
        self._told: set[_File] = set()
        """Whose problem was logged."""
        self._looked = asyncio.Event()
        self._poked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.models: Mapping[ModelKey, Installed] = MappingProxyType({})
        """What is there, an immutable picture."""

    @property
    def root(self) -> Path:
        return self._folder

    @property
    def problems(self) -> dict[Path, str]:
        """Files that cannot be used, and why."""
        return {file.path: found for file, found in self._found.items() if isinstance(found, str)}

    async def start(self) -> None:
        """Begin to watch. Models small enough to be hashed within `FIRST_LOOK_S` are there afterwards."""
        await asyncio.to_thread(_make, self._folder)
        self._task = background(self._watch(), "model-folder")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._looked.wait()

    async def stop(self) -> None:
        self._digests.stop()
        await end(self._task)

    def note_digest(self, path: Path, digest: Digest) -> None:
        """The file at ``path`` was just written and hashed by who calls this. Raises OSError."""
        self._digests.note(path, Stamp.of(path), digest)

    async def until(self, is_so: Callable[[], bool], timeout_s: float) -> bool:
        """Look again and again until ``is_so``, at most so long; whether it is."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while not is_so() and asyncio.get_running_loop().time() < deadline:
            self._poked.set()
            await asyncio.sleep(POKE_S)
        return is_so()

    async def look(self) -> None:
        """Look at the folder once; what is new is read and hashed, the least work first."""
        files = await asyncio.to_thread(_list, self._folder)
        self._tell_problems(set(files))
        self._found = {file: self._found[file] for file in files if file in self._found}
        self._publish()
        news = sorted((file for file in files if file not in self._found), key=self._effort)
        for file in news:
            found = await asyncio.to_thread(_examine, file, self._folder, self._digests)
            if found is not None:
                self._found[file] = found
                self._publish()
        if news:
            await asyncio.to_thread(self._digests.save, {file.path for file in files})

    async def _watch(self) -> None:
        while True:
            self._poked.clear()
            await self.look()
            self._looked.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PERIOD_S):
                    await self._poked.wait()

    def _effort(self, file: _File) -> int:
        """Bytes to be read before the file is known."""
        return 0 if self._digests.known(file.path, file.stamp) else file.stamp.size

    def _publish(self) -> None:
        models: dict[ModelKey, Installed] = {}
        for file, found in sorted(self._found.items(), key=lambda each: each[0].path):
            if isinstance(found, Installed) and models.setdefault(found.name.key, found) is not found:
                self._found[file] = f"another file already is {found.name.short}"
        if models != self.models:
            self.models = MappingProxyType(models)
            self._changed()

    def _tell_problems(self, files: set[_File]) -> None:
        """Log what is wrong with a file once, and not before it stopped changing: it may be on its way."""
        self._told &= files
        for file, found in self._found.items():
            if isinstance(found, str) and file in files and file not in self._told:
                self._told.add(file)
                log.warning("model_file_skipped", path=str(file.path), reason=found)


# Looking at files: not for the event loop


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder of models {folder} cannot be made: {error.strerror}") from error


def _list(folder: Path) -> list[_File]:
    paths = sorted(folder.glob("*.gguf"))
    paths += sorted(path for path in folder.glob("*/*.gguf") if not path.parent.name.startswith("."))
    found = []
    for path in paths[:MAX_FILES]:
        with contextlib.suppress(OSError):  # gone since the folder was read, or not ours to see
            found.append(_File(path, Stamp.of(path), _stamp_of_notes(path)))
    return found


def _stamp_of_notes(path: Path) -> Stamp | None:
    try:
        return Stamp.of(path.with_suffix(".json"))
    except FileNotFoundError:
        return None


def _examine(file: _File, folder: Path, digests: DigestStore) -> Installed | _Problem | None:
    """The model in ``file``, or what is wrong with it; None when that cannot be told now."""
    try:
        name = model_name_of(file.path.relative_to(folder))
        with file.path.open("rb") as stream:
            gguf = read_gguf(stream, file.stamp.size)
        if gguf.architecture in NOT_A_MODEL:
            return f"it belongs to a model ({gguf.architecture}) but is none"
        notes_data = _read_notes(file)
        card = make_card(gguf, read_notes(notes_data) if notes_data is not None else NO_NOTES)
        weights = digests.known(file.path, file.stamp) or digests.compute(file.path, file.stamp)
    except (BadGguf, BadNotes, BadFileName) as error:
        return str(error)
    except InvalidModelName:
        return "its name cannot be that of a model"
    except OSError as error:
        return f"it cannot be read: {error.strerror or error}"
    if weights is None:
        return None
    digest = weights
    if notes_data is not None:
        digest = Digest(hashlib.sha256(f"{digest}\n".encode() + notes_data).hexdigest())
    changed_ns = max(file.stamp.mtime_ns, file.notes.mtime_ns if file.notes else 0)
    return Installed(name, file.path, file.stamp.size, changed_ns / 1e9, digest, weights, card)


def _read_notes(file: _File) -> bytes | None:
    if file.notes is None:
        return None
    if file.notes.size > MAX_NOTES_BYTES:
        raise BadNotes(f"the notes beside it are longer than {MAX_NOTES_BYTES} bytes")
    return file.path.with_suffix(".json").read_bytes()


class BadFileName(DistError):
    """The file is called in a way that no model can be."""

    code = "bad_file_name"


def model_name_of(path: Path) -> ModelName:
    """The model that a file of this path below the folder is. Raises `BadFileName` or `InvalidModelName`."""
    stem = path.stem
    if _PART.search(stem):
        raise BadFileName("it is one part of several: join them (llama-gguf-split --merge)")
    model, _, tag = stem.partition("@")
    namespace = f"{path.parent.name}/" if path.parent.name else ""
    return parse_model_name(f"{namespace}{model}:{tag or DEFAULT_TAG}")
