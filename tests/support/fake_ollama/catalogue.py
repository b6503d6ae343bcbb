"""What is installed, and the routes that show and change it."""

import asyncio
import contextlib
import hashlib
import json
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiohttp import web

from ollama_dist.core.names import InvalidModelName, ModelKey, ModelName, parse_model_name, parse_model_ref
from ollama_dist.wire import structs
from tests.support import recordings
from tests.support.fake_ollama.answers import (
    Refused,
    decoded,
    json_answer,
    lines_answer,
    recorded_answer,
    send_as_they_come,
    send_lines,
)
from tests.support.fake_ollama.book import Book, timestamp
from tests.support.fake_ollama.journal import Seen
from tests.support.fake_ollama.pulling import Line, Puller, PullError
from tests.support.fake_ollama.runners import Runners, expires_in_s
from tests.support.fake_ollama.store import FakeStore, layers_of, weights_of

ORIGINS: Final = {
    "tiny": "markov",
    "tiny-random": "random",
    "tiny-tools": "tools",
    "tiny-think": "think",
    "tiny-uni": "uni",
    "tiny-embed": "embed",
}
"""The six models of the recordings, and the files of their weights."""

WEIGHTS: Final = {
    origin: f"sha256:{hashlib.sha256(recordings.model_file(f'{file}.gguf')).hexdigest()}"
    for origin, file in ORIGINS.items()
}
_ORIGIN_OF_WEIGHTS: Final = {digest: origin for origin, digest in WEIGHTS.items()}


@dataclass(frozen=True)
class Installed:
    """A model on disk."""

    name: ModelName
    origin: str
    """Which of the six it is at heart: what it says and how it is shown."""
    row: Mapping[str, Any]
    modified_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def listed(self) -> dict[str, Any]:
        """Its row of ``/api/tags``."""
        named = {"name": self.name.short, "model": self.name.short}
        return {**self.row, **named, "modified_at": timestamp(self.modified_at)}

    def listed_v1(self) -> dict[str, Any]:
        created = int(self.modified_at.timestamp())
        return {
            "id": self.name.short,
            "object": "model",
            "created": created,
            "owned_by": self.name.namespace,
        }


class Catalogue:
    """The models of one fake, and the handlers of the routes about them."""

    def __init__(
        self, book: Book, runners: Runners, *, by_the_book: bool, store: FakeStore | None = None
    ) -> None:
        self.store = store
        """Its folder; None: nothing of it lies anywhere."""
        self.puller = Puller(store, book.version) if store else None
        self._book = book
        self._runners = runners
        self._by_the_book = by_the_book
        self._old = book.version == "0.5.13"
        self._newest = book.version == "0.33.0-rc2"
        self._installed: dict[ModelKey, Installed] = {}
        self._blobs: set[str] = set()
        self.ps_s = 0.0
        """How long the list of what runs takes."""
        self.line_s = 0.0
        """How long each line of progress but the first takes."""

    def install(self, name: str, origin: str, weights: bytes = b"") -> None:
        """``weights``: other ones than it has on record."""
        parsed = parse_model_name(name)
        row = self._book.rows[f"{origin}:latest"]
        if self.store is not None:
            self.store.make(parsed, weights or weights_of(ORIGINS[origin]))
            row = {**row, **self.store.listed(parsed)}
        self._installed[parsed.key] = Installed(parsed, origin, row)

    def remove(self, name: str) -> None:
        """Raises KeyError when it is not there."""
        self._take_away(parse_model_name(name).key)

    def _take_away(self, key: ModelKey) -> None:
        model = self._installed.pop(key)
        if self.store is not None:
            self.store.remove(model.name)

    def find(self, name: str) -> Installed | None:
        """The model a request means; None when it is not there or no name."""
        with contextlib.suppress(InvalidModelName):
            return self._installed.get(parse_model_ref(name)[0].key)
        return None

    def _newest_first(self) -> list[Installed]:
        return sorted(self._installed.values(), key=lambda model: model.modified_at, reverse=True)

    # Showing

    async def tags(self, _request: web.Request, _seen: Seen) -> web.Response:
        return json_answer(200, {"models": [model.listed() for model in self._newest_first()]})

    async def ps(self, _request: web.Request, _seen: Seen) -> web.Response:
        await asyncio.sleep(self.ps_s)
        rows = []
        for runner in self._runners.loaded():
            model = self.find(runner.name)
            if model is not None:
                like = self._book.running.get(f"{model.origin}:latest", self._book.running["tiny:latest"])
                expires = datetime.now(UTC) + timedelta(seconds=expires_in_s(runner))
                own = {**model.listed(), "expires_at": timestamp(expires), "size": like["size"]}
                own["details"] = {name: model.row["details"][name] for name in like["details"]}
                rows.append({name: own.get(name, value) for name, value in like.items()})
        return json_answer(200, {"models": rows})

    async def v1_models(self, _request: web.Request, _seen: Seen) -> web.Response:
        data = [model.listed_v1() for model in self._newest_first()] or None
        return json_answer(200, {"object": "list", "data": data}, line=True)

    async def v1_model(self, request: web.Request, _seen: Seen) -> web.Response:
        name = request.path.rpartition("/")[2]
        self._check_shown_name(name)
        return json_answer(200, self._shown(name).listed_v1() | {"id": name}, line=True)

    async def show(self, _request: web.Request, seen: Seen) -> web.Response:
        fields = decoded(seen.body, structs.SHOW)
        name = fields.get("model") or fields.get("name") or ""
        if not name:
            raise Refused(400, "model is required")
        self._check_shown_name(name)
        model = self._shown(name)
        recorded = self._book.find("POST", "/api/show", seen.body) if self._by_the_book else None
        document = json.loads(recorded.answer) if recorded else self._book.shown(model.origin)
        return json_answer(200, document | {"modified_at": timestamp(model.modified_at)}, chunked=True)

    def _shown(self, name: str) -> Installed:
        model = self.find(name)
        if model is None:
            told = parse_model_name(name).short if self._newest else name
            raise Refused(404, f"model '{told}' not found")
        return model

    def _check_shown_name(self, name: str) -> None:
        if parsed(name) is None:
            match self._book.version:
                case "0.33.0-rc2":
                    raise Refused(400, "invalid model name")
                case "0.17.7":
                    raise Refused(500, f"unqualified name: registry.ollama.ai/library/{name}:latest")
            raise Refused(500, "invalid model path")

    # Changing

    async def copy(self, _request: web.Request, seen: Seen) -> web.Response:
        fields = decoded(seen.body, structs.COPY)
        source, destination = fields.get("source", ""), fields.get("destination", "")
        for end, name in (("source", source), ("destination", destination)):
            if parsed(name) is None:
                raise Refused(400, f'{end} "{name}" is invalid')
        model = self.find(source)
        if model is None:
            raise Refused(404, f'model "{source}" not found')
        copied = parse_model_name(destination)
        if self.store is not None:
            self.store.write(copied, self.store.manifest(model.name).read_bytes())
        self._installed[copied.key] = replace(model, name=copied, modified_at=datetime.now(UTC))
        return web.Response(status=200)

    async def delete(self, _request: web.Request, seen: Seen) -> web.Response:
        if self._old:
            return self._delete_of_old(seen)
        fields = decoded(seen.body, structs.DELETE)
        name = fields.get("model") or fields.get("name") or ""
        if not name and self._newest:
            raise Refused(400, "model is required")
        wanted = parsed(name)
        if wanted is None:
            raise Refused(400, f'name "{name}" is invalid')
        if wanted.key not in self._installed:
            raise Refused(404, f"model '{name}' not found")
        self._take_away(wanted.key)
        return web.Response(status=200)

    def _delete_of_old(self, seen: Seen) -> web.Response:
        """0.5 answered here with another handler, which had codes."""
        if not seen.body:
            return _coded(400, "bad_request", "empty request body")
        fields = decoded(seen.body, structs.DELETE)
        name = fields.get("model") or fields.get("name") or ""
        wanted = parsed(name)
        if wanted is None:
            return _coded(400, "bad_request", f'invalid or missing name: "{name}"')
        if wanted.key not in self._installed:
            return _coded(404, "not_found", "model not found")
        self._take_away(wanted.key)
        return web.Response(status=200)

    async def create(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        fields = decoded(seen.body, structs.CREATE)
        wanted = parsed(fields.get("model") or fields.get("name") or "")
        if wanted is None:
            raise Refused(400, "invalid model name")
        source = self.find(fields.get("from", ""))
        digests = list(fields.get("files", {}).values())
        recorded = self._book.find("POST", "/api/create", seen.body)
        if recorded is None and source is None and not digests:
            raise Refused(400, "neither 'from' or 'files' was specified")
        if recorded is None or b'"error"' not in recorded.answer:
            origin = source.origin if source else _ORIGIN_OF_WEIGHTS.get(digests[0], "tiny")
            row = self._book.rows.get(wanted.short, self._book.rows[f"{origin}:latest"])
            self._installed[wanted.key] = Installed(wanted, origin, row)
        if recorded is not None:
            return recorded_answer(recorded)
        lines = [{"status": "using existing layer"}, {"status": "writing manifest"}, {"status": "success"}]
        return await self._progress(request, lines, fields)

    async def pull(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        fields = decoded(seen.body, structs.PULL)
        wanted = parsed(fields.get("model") or fields.get("name") or "")
        if wanted is None:
            raise Refused(400, "invalid model name")
        if self.puller is not None:
            lines = self._pulled(self.puller, wanted, insecure=bool(fields.get("insecure")))
            return await send_as_they_come(request, lines, stream=_streams(fields))
        begin: list[dict[str, Any]] = [{"status": "pulling manifest"}]
        model = self._installed.get(wanted.key)
        if model is None:
            error = f"pull model manifest: {_unreachable(wanted, insecure=bool(fields.get('insecure')))}"
            return lines_answer([*begin, {"error": error}], stream=_streams(fields))
        digest, size = model.row["digest"], model.row["size"]
        layer = {
            "status": f"pulling {digest[:12]}",
            "digest": f"sha256:{digest}",
            "total": size,
            "completed": size,
        }
        ending = [{"status": status} for status in ("verifying sha256 digest", "writing manifest", "success")]
        return lines_answer([*begin, layer, *ending], stream=_streams(fields))

    async def _pulled(self, puller: Puller, name: ModelName, *, insecure: bool) -> AsyncGenerator[Line, None]:
        """The lines of a real pull; after the last one the model is listed."""
        async for line in _told(puller.pull(name, insecure=insecure)):
            if line.get("status") == "success":
                self._note_pulled(puller.store, name)
            yield {key: value for key, value in line.items() if key != "fresh"}

    def _note_pulled(self, store: FakeStore, name: ModelName) -> None:
        digests = [layer["digest"] for layer in layers_of(store.read(name))]
        origin = next((_ORIGIN_OF_WEIGHTS[each] for each in digests if each in _ORIGIN_OF_WEIGHTS), "tiny")
        row = {**self._book.rows[f"{origin}:latest"], **store.listed(name)}
        self._installed[name.key] = Installed(name, origin, row)

    async def push(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        fields = decoded(seen.body, structs.PUSH)
        wanted = parsed(fields.get("model") or fields.get("name") or "")
        if wanted is None:
            raise Refused(400, "model is required")
        if self.puller is not None and wanted.key in self._installed and fields.get("insecure"):
            lines = _told(self.puller.push(wanted, insecure=True))
            return await send_as_they_come(request, lines, stream=_streams(fields))
        path = f"/models/manifests/{wanted.host}/{wanted.namespace}/{wanted.model}/{wanted.tag}"
        begin: list[dict[str, Any]] = [{"status": "retrieving manifest"}]
        model = self._installed.get(wanted.key)
        if model is None:
            error = f"open {path}: no such file or directory"
            return await self._progress(
                request, [*begin, {"status": "couldn't retrieve manifest"}, {"error": error}], fields
            )
        size = model.row["size"]
        layer = {"status": "pushing layer", "digest": WEIGHTS[model.origin], "total": size, "completed": size}
        return await self._progress(
            request, [*begin, layer, {"status": "pushing manifest"}, {"status": "success"}], fields
        )

    async def _progress(
        self, request: web.Request, lines: list[dict[str, Any]], fields: dict[str, Any]
    ) -> web.StreamResponse:
        if self.line_s and _streams(fields):
            return await send_lines(request, lines, self.line_s)
        return lines_answer(lines, stream=_streams(fields))

    async def blob_head(self, request: web.Request, _seen: Seen) -> web.Response:
        digest = _digest(request)
        if digest not in self._blobs:
            raise Refused(404, f"blob {digest} not found")
        return web.Response(status=200)

    async def blob_post(self, request: web.Request, seen: Seen) -> web.Response:
        digest = _digest(request)
        if digest in self._blobs:
            return web.Response(status=200)
        found = f"sha256:{hashlib.sha256(seen.body).hexdigest()}"
        self._blobs.add(found)
        if found != digest:
            raise Refused(400, f'digest mismatch, expected "{digest}", got "{found}"')
        return web.Response(status=201)


async def _told(lines: AsyncGenerator[Line, None]) -> AsyncGenerator[Line, None]:
    """The lines, and the one that tells of an error."""
    async with contextlib.aclosing(lines):
        try:
            async for line in lines:
                yield line
        except PullError as error:
            yield {"error": str(error)}


def parsed(name: str) -> ModelName | None:
    with contextlib.suppress(InvalidModelName):
        return parse_model_name(name)
    return None


def _streams(fields: dict[str, Any]) -> bool:
    return fields.get("stream") is not False


def _digest(request: web.Request) -> str:
    digest = request.path.rpartition("/")[2].replace("-", ":", 1)
    if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        raise Refused(400, "invalid digest format")
    return digest


def _unreachable(name: ModelName, *, insecure: bool) -> str:
    """Go's words when nobody listens where the name says; there is no other registry for a fake."""
    host, colon, port = name.host.partition(":")
    if not colon:
        return "file does not exist"
    scheme = "http" if insecure else "https"
    url = f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}/manifests/{name.tag}"
    return f'Get "{url}": dial tcp {host}:{port}: connect: connection refused'


def _coded(status: int, code: str, message: str) -> web.Response:
    response = json_answer(status, {"code": code, "error": message})
    response.headers["Content-Type"] = "application/json"
    return response
