"""Models of an Ollama whose files this node may not read: that Ollama pushes them into a folder of ours.

It costs a second copy on this machine for as long as somebody reads it, so it is the way where there is no
other. What is taken is what ``server/upload.go`` of Ollama sends: parts in order, a digest at the end of each
blob, and the manifest at the end of all.
"""

import asyncio
import hashlib
import re
import shutil
from itertools import count
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import parse_qs, urlsplit

import structlog
from aiohttp import web

from ollama_dist.core.errors import BadRequest
from ollama_dist.core.ids import Digest, parse_digest
from ollama_dist.core.names import ModelName
from ollama_dist.replication.disk.store import OllamaStore
from ollama_dist.replication.intake.ollama_calls import PullFailed
from ollama_dist.replication.intake.passing import Passing
from ollama_dist.replication.intake.registry import LoopbackRegistry
from ollama_dist.replication.intake.room import check_room
from ollama_dist.replication.manifest import MANIFEST_LIMIT, Manifest, read_manifest
from ollama_dist.runtime.files import opened

log = structlog.get_logger()

KEPT_S: Final = 600.0
"""How long a lent model stays that nobody reads."""

STEP: Final = 2**20

_RANGE: Final = re.compile(r"(\d{1,15})-(\d{1,15})")


class Lender:
    """Keeps what is lent in ``folder``, laid out as an Ollama's store: `store` reads it."""

    def __init__(self, passing: Passing, registry: LoopbackRegistry, folder: Path, reserve: int) -> None:
        self.store = OllamaStore(folder)
        self._passing = passing
        self._registry = registry
        self._folder = folder
        self._reserve = reserve
        self._lending: dict[str, asyncio.Task[Manifest]] = {}
        self._used_at = 0.0
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier life: nobody reads it any more

    async def lend(self, name: ModelName) -> Manifest:
        """Have the model in `store`; asked twice at once, it is pushed once.

        Raises `DiskFull`, `UpstreamFailed`, `NoCandidate`, or `PullFailed` in Ollama's words.
        """
        self.note_use()
        task = self._lending.get(name.key)
        if task is None:
            task = self._lending[name.key] = asyncio.create_task(self._lend(name), name="lend")
            task.add_done_callback(lambda _: self._lending.pop(name.key, None))
        return await asyncio.shield(task)

    def note_use(self) -> None:
        """Somebody reads what is lent."""
        self._used_at = asyncio.get_running_loop().time()

    async def sweep(self) -> None:
        """Take away what nobody has read for `KEPT_S`."""
        is_old = asyncio.get_running_loop().time() - self._used_at > KEPT_S
        if is_old and not self._lending and self._folder.exists():
            log.info("lent_models_taken_back", folder=str(self._folder))
            await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def stop(self) -> None:
        for task in list(self._lending.values()):
            task.cancel()
            await asyncio.wait({task})
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _lend(self, name: ModelName) -> Manifest:
        calls = self._passing.calls()
        listed = (await calls.tags()).get(name.key)
        if listed is None:
            raise PullFailed(f"the engine does not list {name.short}")
        blobs = self._folder / "blobs"
        await asyncio.to_thread(blobs.mkdir, parents=True, exist_ok=True)
        free = (await asyncio.to_thread(shutil.disk_usage, self._folder)).free
        check_room(listed.size, free, self._reserve)
        taking = Taking(blobs)
        with self._registry.take(name, taking) as alias:
            async with self._passing.hold(alias) as held:
                await calls.copy(name, alias)
                held.is_settled = True
                await calls.push(alias)
        if taking.manifest is None:
            raise PullFailed("the engine says it has pushed the model, but no manifest came")
        raw = _as_listed(taking.manifest, listed.digest)
        manifest = read_manifest(raw)
        await asyncio.to_thread(_write, self._folder, name, raw)
        self.note_use()
        return manifest


class Taking:
    """The handler of one push, into the folder ``blobs``; `manifest` is there when all is."""

    def __init__(self, blobs: Path) -> None:
        self._blobs = blobs
        self._numbers = count()
        self.manifest: bytes | None = None

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        match (request.method, *request.path.split("/")[4:]):
            case ("HEAD", "blobs", text) if digest := _digest(text):
                has_it = await asyncio.to_thread(self._path(digest).exists)
                return web.Response(status=200 if has_it else 404)
            case ("POST", "blobs", "uploads", ""):
                return self._go_on(request, f"upload-{id(self):x}-{next(self._numbers)}")
            case ("PATCH", "blobs", "uploads", upload) if self._is_ours(upload):
                return await self._part(request, upload)
            case ("PUT", "blobs", "uploads", upload) if self._is_ours(upload):
                return await self._finish(request, upload)
            case ("PUT", "manifests", _):
                body = await request.content.read(MANIFEST_LIMIT + 1)
                while len(body) <= MANIFEST_LIMIT and (more := await request.content.read(STEP)):
                    body += more
                self.manifest = body
                return web.Response(status=201)
        return web.Response(status=404)

    def _go_on(self, request: web.BaseRequest, upload: str) -> web.Response:
        """Where the next part goes. A whole address: Ollama does not put one together."""
        base = "/".join(request.path.split("/")[:4])
        place = f"http://{request.host}{base}/blobs/uploads/{upload}"
        return web.Response(status=202, headers={"Location": place})

    async def _part(self, request: web.BaseRequest, upload: str) -> web.StreamResponse:
        match = _RANGE.fullmatch(request.headers.get("Content-Range", ""))
        if match is None:
            return web.Response(status=416)
        at, stop = int(match[1]), int(match[2]) + 1
        async with opened(lambda: _open(self._blobs / upload)) as file:
            async for part in request.content.iter_chunked(STEP):
                if at + len(part) > stop:
                    return web.Response(status=400)
                await asyncio.to_thread(_put, file, at, part)
                at += len(part)
        return self._go_on(request, upload) if at == stop else web.Response(status=400)

    async def _finish(self, request: web.BaseRequest, upload: str) -> web.StreamResponse:
        """It is a blob once its bytes are what its digest says."""
        said = parse_qs(urlsplit(request.raw_path).query).get("digest", [""])[0]
        digest = _digest(said)
        if digest is None:
            return web.Response(status=400)
        path = self._blobs / upload
        if await asyncio.to_thread(_hash, path) != digest:
            await asyncio.to_thread(path.unlink, missing_ok=True)
            return web.Response(status=400)
        await asyncio.to_thread(path.rename, self._path(digest))
        return web.Response(status=201)

    def _is_ours(self, upload: str) -> bool:
        return re.fullmatch(rf"upload-{id(self):x}-\d{{1,9}}", upload) is not None

    def _path(self, digest: Digest) -> Path:
        return self._blobs / f"sha256-{digest}"


def _as_listed(pushed: bytes, digest: str) -> bytes:
    """The spelling with this digest, if one is known: what was made on a machine ends in a line end."""
    made_here = pushed + b"\n"
    return made_here if hashlib.sha256(made_here).hexdigest() == digest else pushed


def _write(folder: Path, name: ModelName, raw: bytes) -> None:
    path = folder / "manifests" / name.host / name.namespace / name.model / name.tag
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(raw)


def _open(path: Path) -> BinaryIO:
    path.touch(mode=0o600)
    return path.open("r+b")


def _put(file: BinaryIO, at: int, part: bytes) -> None:
    file.seek(at)
    file.write(part)


def _hash(path: Path) -> str:
    """An upload of no bytes has no file."""
    if not path.exists():
        path.touch(mode=0o600)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(text: str) -> Digest | None:
    try:
        return parse_digest(text)
    except BadRequest:
        return None
