"""The server itself: starting, stopping, finding the handler of a request, and being told what to do."""

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from aiohttp import web

from ollama_dist.core.dialects import DIALECTS, Dialect
from ollama_dist.wire.errors import error_body
from tests.support.fake_ollama import browsers
from tests.support.fake_ollama.answers import (
    JSON,
    Refused,
    json_answer,
    moved_answer,
    text_answer,
    without_own_headers,
)
from tests.support.fake_ollama.book import Book
from tests.support.fake_ollama.catalogue import ORIGINS, Catalogue
from tests.support.fake_ollama.faults import HEADER, Fault, Faults
from tests.support.fake_ollama.inference import Inference
from tests.support.fake_ollama.journal import Journal, Seen
from tests.support.fake_ollama.runners import Runners
from tests.support.fake_ollama.sending import Broken, Pace, before_answer
from tests.support.fake_ollama.store import FakeStore

MODELS: Final = tuple(ORIGINS)
"""The six models of the recordings: a sentence, noise, a tool call, a thought, Unicode, vectors."""

MAX_BODY_BYTES: Final = 2**30

Handler = Callable[[web.Request, Seen], Awaitable[web.StreamResponse]]


class FakeOllama:
    """A fake of the Ollama ``age`` (a version on record), serving while entered or until `stop`.

    ``models`` are there from the beginning: names of `MODELS`, or any name mapped to one of them. ``slots``
    stands for OLLAMA_NUM_PARALLEL, ``max_queue`` for OLLAMA_MAX_QUEUE; ``load_s`` is how long a load takes. A
    request on record is answered as recorded only when ``by_the_book``. With a ``folder``, its OLLAMA_MODELS,
    its models lie there as files, and it really pulls from registries.
    """

    def __init__(
        self,
        age: str = "0.33.0-rc2",
        *,
        models: tuple[str, ...] | Mapping[str, str] = MODELS,
        tokens_per_s: float = 0.0,
        slots: int = 1,
        load_s: float = 0.0,
        max_queue: int = 512,
        by_the_book: bool = True,
        folder: Path | None = None,
    ) -> None:
        self.age = age
        self.port = 0
        self.faults = Faults()
        self.journal = Journal()
        self.pace = Pace(tokens_per_s)
        self.runners = Runners(self.journal, slots=slots, load_s=load_s, max_queue=max_queue)
        self.book = Book(age)
        self.store = FakeStore(folder) if folder else None
        self.catalogue = Catalogue(self.book, self.runners, by_the_book=by_the_book, store=self.store)
        self._inference = Inference(
            self.book,
            self.catalogue,
            self.runners,
            self.faults,
            self.pace,
            self.journal,
            by_the_book=by_the_book,
        )
        self._routes = self._route_table()
        self._runner: web.AppRunner | None = None
        origins = models if isinstance(models, Mapping) else {name: name for name in models}
        for name, origin in origins.items():
            self.catalogue.install(name, origin)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(
        self,
        port: int = 0,
        host: str = "127.0.0.1",
        create: Callable[[], socket.socket] = socket.socket,
    ) -> None:
        """Listen; where no port is given on the one it had before, or any free one."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        app.on_response_prepare.append(without_own_headers)
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=0.05,
            auto_decompress=False,  # as Go's server; what is opened is opened by Ollama
        )
        await self._runner.setup()
        listener = create()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port or self.port))
        await web.SockSite(self._runner, listener).start()
        self.port = listener.getsockname()[1]

    async def stop(self) -> None:
        """Stop listening and break off what is under way, as a killed server does."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        if self.catalogue.puller is not None:
            await self.catalogue.puller.kill()
        for connection in runner.server.connections if runner.server else ():
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    def clear_faults(self) -> None:
        """Switch all faults off and let go of what hangs."""
        self.faults.clear()
        self.pace.release()

    # One request

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        path = request.raw_path.partition("?")[0]
        if path.startswith("/fake/"):
            return await self._control(request, path)
        seen = self.journal.open(request.method, path, dict(request.headers), await request.read())
        end = "failed"
        try:
            response = await self._let_in(request, seen)
            seen.status = response.status
            end = seen.end or "answered"
        except Broken:
            response = web.Response(status=499)  # nobody is there to read it
            end = "reset"
        except asyncio.CancelledError:
            end = "client left"
            raise
        finally:
            seen.end = ""
            self.journal.close(seen, end)
        return response

    async def _let_in(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        origin = request.headers.get("Origin")
        is_preflight = request.method == "OPTIONS"
        if not browsers.is_allowed_host(request.headers.get("Host", "")):
            return web.Response(status=403)
        if origin is None:
            return await self._routed(request, seen)
        if not browsers.is_allowed_origin(origin):
            return web.Response(status=403, headers=self._allow(seen.path) if is_preflight else {})
        if is_preflight:
            return self._preflight(seen.path, origin)
        response = await self._routed(request, seen)
        response.headers.update({"Access-Control-Allow-Origin": origin, "Vary": "Origin"})
        return response

    def _preflight(self, path: str, origin: str) -> web.Response:
        response = web.Response(status=204, headers=self._allow(path))
        for name, value in self.book["origin-localhost-preflight"].answer_headers:
            if name != "Allow":
                response.headers.add(name, origin if name == "Access-Control-Allow-Origin" else value)
        return response

    async def _routed(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        method, path = request.method, seen.path
        if "//" in path:
            return moved_answer(307, re.sub(r"//+", "/", path), "Temporary Redirect", method)
        if len(path) > 1 and path.endswith("/") and self._methods(path[:-1]):
            return moved_answer(301, path[:-1], "Moved Permanently", method)
        handler = self._methods(path).get(method)
        if handler is None:
            return self._no_handler(path)
        try:
            if path not in DIALECTS:
                await before_answer(self.faults.take(path, "", request.headers.get(HEADER)), self.pace)
            response = await handler(request, seen)
        except Refused as refusal:
            response = self._refusal(path, refusal)
            if path == "/v1/messages" and b'"stream": true' in seen.body and not refusal.early:
                response.headers["Cache-Control"] = "no-cache"
        return response

    def _methods(self, path: str) -> Mapping[str, Handler]:
        return next((methods for pattern, methods in self._routes if pattern.fullmatch(path)), {})

    def _allow(self, path: str) -> dict[str, str]:
        """The methods a route knows, which 0.5 did not tell."""
        methods = self._methods(path)
        known = [method for method in ("HEAD", "GET", "POST", "DELETE") if method in methods]
        return {"Allow": ", ".join(known)} if known and self.age != "0.5.13" else {}

    def _no_handler(self, path: str) -> web.Response:
        allow = self._allow(path)
        if allow:
            return text_answer(405, "405 method not allowed", allow)
        if path == "/api/delete":
            response = json_answer(405, {"code": "method_not_allowed", "error": "method not allowed"})
            response.headers["Content-Type"] = "application/json"
            return response
        return text_answer(404, "404 page not found")

    def _refusal(self, path: str, refusal: Refused) -> web.Response:
        if path.startswith("/api/"):
            return json_answer(refusal.status, {"error": refusal.message})
        dialect = DIALECTS.get(path, Dialect.OPENAI)
        _, body = error_body(dialect, refusal.status, refusal.message, request_id="f" * 24)
        if refusal.early:
            return web.Response(status=refusal.status, body=body, headers={"Content-Type": JSON})
        if dialect is not Dialect.ANTHROPIC and self.age != "0.33.0-rc2":
            body = re.sub(rb'"type":"\w+"', b'"type":"api_error"', body)  # all that handlers said was one
        return web.Response(
            status=refusal.status, body=body + b"\n", headers={"Content-Type": "application/json"}
        )

    # Being told what to do, outside of Ollama's surface

    async def _control(self, request: web.Request, path: str) -> web.Response:
        """``/fake/journal`` (GET), ``/fake/faults`` (POST, DELETE), ``/fake/settings``, ``/fake/install``."""
        match (request.method, path):
            case ("GET", "/fake/journal"):
                return web.json_response(self.journal.to_json())
            case ("POST", "/fake/faults"):
                self.faults.add(Fault.from_json(await request.json()))
            case ("DELETE", "/fake/faults"):
                self.clear_faults()
            case ("POST", "/fake/settings"):
                self._set(await request.json())
            case ("POST", "/fake/install"):
                for name, origin in (await request.json()).items():
                    self.catalogue.install(name, origin)
            case _:
                raise web.HTTPNotFound
        return web.json_response({})

    def _set(self, settings: dict[str, Any]) -> None:
        """Raises ValueError for a setting there is not."""
        holders = {
            "tokens_per_s": self.pace,
            "ps_s": self.catalogue,
            "line_s": self.catalogue,
            "load_s": self.runners,
            "slots": self.runners,
            "max_queue": self.runners,
        }
        for name, value in settings.items():
            if name not in holders:
                raise ValueError(f"there is no setting {name}; there are {', '.join(holders)}")
            setattr(holders[name], name, value)

    async def _root(self, _request: web.Request, _seen: Seen) -> web.Response:
        return web.Response(text="Ollama is running")

    async def _version(self, _request: web.Request, _seen: Seen) -> web.Response:
        return json_answer(200, {"version": self.age})

    def _route_table(self) -> list[tuple[re.Pattern[str], dict[str, Handler]]]:
        catalogue, inference = self.catalogue, self._inference
        rows: dict[str, dict[str, Handler]] = {
            "/": {"HEAD": self._root, "GET": self._root},
            "/api/version": {"HEAD": self._version, "GET": self._version},
            "/api/tags": {"HEAD": catalogue.tags, "GET": catalogue.tags},
            "/api/ps": {"GET": catalogue.ps},
            "/api/show": {"POST": catalogue.show},
            "/api/copy": {"POST": catalogue.copy},
            "/api/delete": {"DELETE": catalogue.delete},
            "/api/create": {"POST": catalogue.create},
            "/api/pull": {"POST": catalogue.pull},
            "/api/push": {"POST": catalogue.push},
            "/api/blobs/[^/]+": {"HEAD": catalogue.blob_head, "POST": catalogue.blob_post},
            "/v1/models": {"GET": catalogue.v1_models},
            "/v1/models/[^/]+": {"GET": catalogue.v1_model},
            "/api/generate": {"POST": inference.generate},
            "/api/chat": {"POST": inference.chat},
            "/api/embed": {"POST": inference.embed},
            "/api/embeddings": {"POST": inference.embeddings},
            "/v1/chat/completions": {"POST": inference.openai_chat},
            "/v1/completions": {"POST": inference.openai_completion},
            "/v1/embeddings": {"POST": inference.openai_embeddings},
        }
        if self.age in ("0.17.7", "0.33.0-rc2"):
            rows["/v1/responses"] = {"POST": inference.responses}
            rows["/v1/messages"] = {"POST": inference.messages}
        if self.age == "0.33.0-rc2":
            rows["/v1/audio/transcriptions"] = {"POST": inference.transcriptions}
        return [(re.compile(pattern), methods) for pattern, methods in rows.items()]
