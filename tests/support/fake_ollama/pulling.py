"""Pulling from a registry, as ``server/images.go`` and ``server/download.go`` of Ollama do.

What a registry can get wrong goes wrong here as it does there: an answer with the bytes where only their
place is looked for, a status nobody looks at, silence, an end before the end.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import aiohttp

from ollama_dist.core.names import ModelName
from tests.support.fake_ollama.store import MEDIA_TYPE, FakeStore, NoSpace, layers_of

Line = dict[str, Any]


class PullError(Exception):
    """Its text is the error line."""


@dataclass
class Timing:
    """Ollama's own figures; tests take shorter times and smaller parts."""

    part_bytes: int = 100_000_000
    stall_s: float = 30.0
    backoff_s: float = 1.0
    direct_s: float = 30.0
    """For finding out where a blob's bytes are, tries included."""
    line_s: float = 0.06


@dataclass
class Part:
    offset: int
    size: int
    completed: int = 0
    written: int = 0
    """What its file says of it: brought up to date when a try ends."""


@dataclass
class Download:
    digest: str
    total: int = 0
    parts: list[Part] = field(default_factory=list)
    waiting: int = 0
    task: asyncio.Task[None] | None = None

    @property
    def completed(self) -> int:
        return sum(part.completed for part in self.parts)


class Puller:
    """The downloads of one fake, of the age ``age``."""

    def __init__(self, store: FakeStore, age: str) -> None:
        self.store = store
        self.timing = Timing(line_s=0.01)
        self._verbatim = age.startswith("0.33")
        self._agent = {"User-Agent": f"ollama/{age} (amd64 linux) Go/go1.24"}
        self._downloads: dict[str, Download] = {}
        self._partial: dict[str, list[Part]] = {}
        """What lies on disk of blobs that are not whole."""

    async def kill(self) -> None:
        """The process is gone: what no file says of the parts is lost."""
        for download in list(self._downloads.values()):
            on_disk = [part.written for part in download.parts]
            if download.task is not None:
                download.task.cancel()
                await asyncio.wait({download.task})
            for part, written in zip(download.parts, on_disk, strict=True):
                part.completed = part.written = written
        self._downloads.clear()

    async def pull(self, name: ModelName, *, insecure: bool) -> AsyncGenerator[Line, None]:
        """The lines; raises `PullError` for the one that tells of an error."""
        yield {"status": "pulling manifest"}
        base = f"{'http' if insecure else 'https'}://{name.host}/v2/{name.namespace}/{name.model}"
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            raw = await self._manifest(session, f"{base}/manifests/{name.tag}")
            layers = layers_of(json.loads(raw))
            fresh = []
            for layer in layers:
                async for line in self._blob(session, f"{base}/blobs/{layer['digest']}", layer["digest"]):
                    yield line
                    if line.get("fresh"):
                        fresh.append(layer["digest"])
        yield {"status": "verifying sha256 digest"}
        for digest in fresh:
            self._verify(digest)
        yield {"status": "writing manifest"}
        before = layers_of(self.store.read(name)) if self.store.manifest(name).exists() else []
        self.store.write(name, raw if self._verbatim else _marshalled(json.loads(raw)))
        if before:
            self.store.prune(layer["digest"] for layer in before)
        yield {"status": "success"}

    async def push(self, name: ModelName, *, insecure: bool) -> AsyncGenerator[Line, None]:
        """As ``server/upload.go``; raises `PullError` for the line that tells of an error."""
        yield {"status": "retrieving manifest"}
        manifest = self.store.read(name)
        base = f"{'http' if insecure else 'https'}://{name.host}/v2/{name.namespace}/{name.model}"
        async with aiohttp.ClientSession(headers=self._agent) as session:
            for layer in layers_of(manifest):
                await self._upload(session, base, layer["digest"])
                yield {"status": f"pushing {layer['digest'][7:19]}", **layer, "total": layer["size"]}
            yield {"status": "pushing manifest"}
            place = f"{base}/manifests/{name.tag}"
            async with session.put(place, data=_marshalled(manifest)) as answer:
                if answer.status >= 400:
                    raise PullError(f"{answer.status}: ")
        yield {"status": "success"}

    async def _upload(self, session: aiohttp.ClientSession, base: str, digest: str) -> None:
        async with session.head(f"{base}/blobs/{digest}") as answer:
            if answer.status == 200:
                return
        async with session.post(f"{base}/blobs/uploads/") as answer:
            place = answer.headers["Location"]
        data = self.store.blob(digest).read_bytes()
        for part in self._cut(len(data)):
            headers = {
                "Content-Range": f"{part.offset}-{part.offset + part.size - 1}",
                "X-Redirect-Uploads": "1",
            }
            body = data[part.offset : part.offset + part.size]
            async with session.patch(place, data=body, headers=headers) as answer:
                if answer.status >= 400:
                    raise PullError(f"max retries exceeded: http status {answer.status}")
                place = answer.headers["Location"]
        async with session.put(place, params={"digest": digest, "etag": "0-1"}) as answer:
            if answer.status >= 400:
                raise PullError(f"{answer.status}: ")

    async def _manifest(self, session: aiohttp.ClientSession, url: str) -> bytes:
        try:
            async with session.get(url, headers={**self._agent, "Accept": MEDIA_TYPE}) as answer:
                body = await answer.read()
        except aiohttp.ClientConnectorError as error:
            place = f"{urlsplit(url).hostname}:{urlsplit(url).port}"
            refused = f'Get "{url}": dial tcp {place}: connect: connection refused'
            raise PullError(f"pull model manifest: {refused}") from error
        if answer.status == 404:
            raise PullError("pull model manifest: file does not exist")
        if answer.status >= 400:
            raise PullError(f"pull model manifest: {answer.status}: {body.decode()}")
        return body

    def _verify(self, digest: str) -> None:
        path = self.store.blob(digest)
        got = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        if got != digest:
            path.unlink()
            raise PullError(f"digest mismatch, file must be downloaded again: want {digest}, got {got}")

    # One blob

    async def _blob(
        self, session: aiohttp.ClientSession, url: str, digest: str
    ) -> AsyncGenerator[Line, None]:
        line = {"status": f"pulling {digest[7:19]}", "digest": digest}
        path = self.store.blob(digest)
        if path.exists():  # that it is there is all that is looked at
            size = path.stat().st_size
            yield {**line, "total": size, "completed": size}
            return
        download = self._downloads.get(digest)
        if download is None:
            download = self._downloads[digest] = Download(digest, parts=self._partial.get(digest, []))
            download.task = asyncio.create_task(self._run(url, download))
        assert download.task is not None
        download.waiting += 1
        try:
            while not download.task.done():
                completed = {"completed": download.completed} if download.completed else {}
                yield {**line, "total": download.total, **completed}
                await asyncio.wait({download.task}, timeout=self.timing.line_s)
            download.task.result()
            yield {**line, "total": download.total, "completed": download.total, "fresh": True}
        finally:
            download.waiting -= 1
            if not download.waiting and not download.task.done():
                download.task.cancel()
                await asyncio.wait({download.task})
            if not download.waiting:
                self._downloads.pop(digest, None)

    async def _run(self, url: str, download: Download) -> None:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            if not download.parts:
                async with session.head(url, headers=self._agent) as answer:
                    if answer.status >= 400:
                        raise PullError(f"{answer.status}: ")
                    download.total = int(answer.headers.get("Content-Length", "0"))
                download.parts = self._cut(download.total)
                self._partial[download.digest] = download.parts
            download.total = sum(part.size for part in download.parts)
            partial = self.store.blob(f"{download.digest}-partial")
            partial.touch()
            place = await self._direct(session, url)
            slots = asyncio.Semaphore(16)
            try:
                async with asyncio.TaskGroup() as group:
                    for part in download.parts:
                        group.create_task(self._part(slots, place, partial, part))
            except* PullError as errors:
                raise errors.exceptions[0] from None
        self._partial.pop(download.digest, None)
        partial.rename(self.store.blob(download.digest))

    def _cut(self, total: int) -> list[Part]:
        size = min(max(total // 16, self.timing.part_bytes), 10 * self.timing.part_bytes)
        return [Part(offset, min(size, total - offset)) for offset in range(0, total, size)]

    async def _direct(self, session: aiohttp.ClientSession, url: str) -> str:
        """Where the bytes are: a redirect to another host name, or the Location of a 200."""
        asked = url
        deadline = asyncio.get_running_loop().time() + self.timing.direct_s
        while True:
            try:
                answer = await session.get(asked, headers=self._agent, allow_redirects=False)
                answer.close()  # the body is never read
                if answer.status >= 400:
                    raise aiohttp.ClientError(f"{answer.status}")
            except aiohttp.ClientError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise PullError("context deadline exceeded") from error
                await asyncio.sleep(self.timing.backoff_s / 10)
                continue
            location = answer.headers.get("Location")
            same = location and urlsplit(urljoin(asked, location)).hostname == urlsplit(url).hostname
            if same and answer.status in (301, 302, 303, 307, 308):
                asked = urljoin(asked, location or "")
                continue
            if answer.status not in (200, 307):
                raise PullError(f"unexpected status code {answer.status}")
            if location is None:
                raise PullError("http: no Location header in response")
            return urljoin(asked, location)

    async def _part(self, slots: asyncio.Semaphore, url: str, partial: Path, part: Part) -> None:
        async with slots:
            tries = 0
            while part.completed < part.size:
                try:
                    await self._try(url, partial, part)
                except TimeoutError:
                    continue  # a stall: as often as it takes
                except OSError as error:
                    tries += 1
                    if tries == 6:
                        raise PullError(f"max retries exceeded: {error}") from error
                    await asyncio.sleep(self.timing.backoff_s * 2 ** (tries - 1))
                except NoSpace:
                    raise PullError(f"write {partial}: no space left on device") from None

    async def _try(self, url: str, partial: Path, part: Part) -> None:
        """Raises `TimeoutError` after silence, and `OSError` where the answer breaks off."""
        began = part.completed
        first, last = part.offset + part.completed, part.offset + part.size - 1
        try:
            async with aclosing(_ranged(url, first, last)) as blocks:
                while part.completed < part.size:
                    async with asyncio.timeout(self.timing.stall_s if part.completed > began else None):
                        data = await anext(blocks, b"")
                    if not data:
                        raise EOFError("unexpected EOF")
                    data = data[: part.size - part.completed]
                    self.store.take_room(len(data))
                    with partial.open("r+b") as file:
                        file.seek(part.offset + part.completed)
                        file.write(data)
                    part.completed += len(data)
        except EOFError as end:
            raise OSError("unexpected EOF") from end
        except ConnectionResetError:
            part.completed = began  # what came in this try does not count
            raise
        finally:
            part.written = part.completed


async def _ranged(url: str, first: int, last: int) -> AsyncGenerator[bytes, None]:
    """The body of whatever answers, status unseen, as far as it comes before the connection ends."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port or 80)
    try:
        asked = f"GET {place.path} HTTP/1.1\r\nHost: {place.netloc}\r\nRange: bytes={first}-{last}\r\n\r\n"
        writer.write(asked.encode())
        await reader.readuntil(b"\r\n\r\n")
        while data := await reader.read(2**16):
            yield data
    finally:
        writer.close()


def _marshalled(manifest: dict[str, Any]) -> bytes:
    """Written anew, as before 0.19: what that age knows of, in its order."""

    def layer(said: dict[str, Any]) -> dict[str, Any]:
        kept = {name: said[name] for name in ("mediaType", "digest", "size")}
        return {**kept, **({"from": said["from"]} if said.get("from") else {})}

    document = {
        "schemaVersion": manifest["schemaVersion"],
        "mediaType": manifest["mediaType"],
        "config": layer(manifest["config"]),
        "layers": [layer(each) for each in manifest["layers"]],
    }
    return json.dumps(document, separators=(",", ":")).encode()
