"""The embedded engine as a server on loopback: to the rest of the node, an Ollama at an address."""

import asyncio
import re
import secrets
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Final

import structlog
from aiohttp import web

from ollama_dist.backends.llamacpp.errors import InternalError, status_of
from ollama_dist.backends.llamacpp.folder import ModelFolder
from ollama_dist.backends.llamacpp.inference import Inference
from ollama_dist.backends.llamacpp.process import check_installed
from ollama_dist.backends.llamacpp.routes import Route, Routes
from ollama_dist.backends.llamacpp.sending import reply
from ollama_dist.backends.llamacpp.settings import LlamaCppSettings
from ollama_dist.backends.llamacpp.supervisor import Supervisor
from ollama_dist.core.dialects import Dialect
from ollama_dist.core.errors import BadRequest, DistError, TooLarge
from ollama_dist.wire.compressed import decompress_zstd
from ollama_dist.wire.llamacpp.openai import LateRefusal
from ollama_dist.wire.llamacpp.writer import refusal

log = structlog.get_logger()

SPOKEN_VERSION: Final = "0.33.0"
"""The Ollama whose routes this engine speaks."""

MAX_BODY_BYTES: Final = 64 * 2**20
BODY_TIMEOUT_S: Final = 60.0
"""The node has the whole body before it asks."""

KEEP_ALIVE_S: Final = 75.0
DRAIN_S: Final = 1.0
"""What is under way when the engine stops has had its time before: the node drains."""


def engine_version() -> str:
    """What ``/api/version`` tells: the Ollama it speaks like, and that it is none.

    Written so that programs which compare versions can (a pre-release, in the terms of semver).
    """
    return f"{SPOKEN_VERSION}-llamacpp.{metadata.version('xllamacpp')}"


class EngineService:
    """Serves the GGUF files of a folder. Start it, talk to its address, stop it.

    ``changed`` is called whenever what it lists, or what it has loaded, is not what it was.
    """

    def __init__(self, settings: LlamaCppSettings, changed: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self.folder = ModelFolder(settings.models_dir, settings.state_dir, changed)
        """What is there, and what is wrong with the rest."""
        self.supervisor = Supervisor(settings, changed)
        self._routes: Routes | None = None
        self._runner: web.ServerRunner | None = None

    async def start(self) -> tuple[str, int]:
        """Begin to serve on loopback; the host and port. Raises `EngineMissing` or `ConfigError`."""
        check_installed()
        await self.folder.start()
        inference = Inference(self._settings, self.supervisor)
        self._routes = Routes(engine_version(), self.folder, self.supervisor, inference)
        server = web.Server(
            self._handle,
            handler_cancellation=True,  # a client that leaves frees its place in the runner at once
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE_S,
        )
        self._runner = web.ServerRunner(server, shutdown_timeout=DRAIN_S)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        log.info("engine_started", kind="llama.cpp", address=f"{host}:{port}", models=len(self.folder.models))
        return str(host), int(port)

    async def stop(self) -> None:
        """End answers under way, every runner, and the watching of the folder."""
        await self.supervisor.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await self.folder.stop()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        assert self._routes is not None
        if not _is_trusted(request):
            return reply(b"", status=403)
        methods = self._routes.find(request.rel_url.raw_path)
        if not methods:
            return reply(b"404 page not found", "text/plain", 404)
        method = "GET" if request.method == "HEAD" and "HEAD" not in methods else request.method
        route = methods.get(method)
        if route is None or (request.method == "HEAD" and method == "GET" and not route.takes_head):
            response = reply(b"405 method not allowed", "text/plain", 405)
            response.headers["Allow"] = _allowed(methods)
            return response
        return await self._answer(request, route)

    async def _answer(self, request: web.BaseRequest, route: Route) -> web.StreamResponse:
        try:
            asked = route.read(await _body(request, route.dialect))
        except BadRequest as error:
            return _refusal(route, error, late=isinstance(error, LateRefusal))
        except DistError as error:
            return _refusal(route, error, late=False)
        try:
            return await route.run(request, asked)
        except DistError as error:
            log.info("engine_refused", path=request.path, code=error.code, error=str(error)[:300])
            return _refusal(route, error, late=True)
        except ConnectionError:
            raise  # the client has left
        except Exception:
            log.exception("engine_failed", path=request.path)
            if request.writer.output_size:
                raise  # the answer has begun: it is to end without an end
            return _refusal(route, InternalError(), late=True)


def _refusal(route: Route, error: DistError, *, late: bool) -> web.Response:
    status = status_of(error)
    request_id = secrets.token_hex(12)
    content_type, body = refusal(route.dialect, status, str(error), request_id=request_id, late=late)
    return reply(body, content_type, status)


async def _body(request: web.BaseRequest, dialect: Dialect) -> bytes:
    """The whole body, opened if it is compressed. Raises `TooLarge` or `BadRequest`."""
    data = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            while chunk := await request.content.readany():
                data += chunk
                if len(data) > MAX_BODY_BYTES:
                    raise TooLarge(f"the body is longer than {MAX_BODY_BYTES} bytes")
    except TimeoutError as error:
        raise BadRequest("the body came in too slowly") from error
    encoding = request.headers.get("Content-Encoding", "identity").lower()
    if encoding == "zstd" and dialect is not Dialect.OLLAMA:
        return decompress_zstd(bytes(data))
    if encoding != "identity":
        raise BadRequest(f"the body is encoded as {encoding[:40]!r}, which is not understood here")
    return bytes(data)


def _is_trusted(request: web.BaseRequest) -> bool:
    """Whether the request comes from a program: web pages have no business here, the node serves them.

    A page is told by its Origin, or, where its name was made to point here, by the Host it asks for.
    """
    host = _PORT.sub("", request.headers.get("Host", ""))
    return "Origin" not in request.headers and host in ("127.0.0.1", "localhost")


_PORT: Final = re.compile(r":[0-9]+$")


def _allowed(methods: Mapping[str, Route]) -> str:
    takes_head = any(route.takes_head for route in methods.values())
    return ", ".join([*(["HEAD"] if takes_head else []), *methods])
