"""The routes of the embedded engine: Ollama's own, and the dialects its clients speak.

What only a server with a store of its own can do (pull, create, copy, …) is refused in one clear sentence.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from aiohttp import web

from ollama_dist.backends.llamacpp import listing
from ollama_dist.backends.llamacpp.embedding import Embedded, Embedding
from ollama_dist.backends.llamacpp.errors import NotSupported
from ollama_dist.backends.llamacpp.folder import Installed, ModelFolder
from ollama_dist.backends.llamacpp.inference import Inference
from ollama_dist.backends.llamacpp.sending import reply, send
from ollama_dist.backends.llamacpp.supervisor import Supervisor
from ollama_dist.core.dialects import Dialect
from ollama_dist.core.errors import BadRequest, ModelNotFound
from ollama_dist.core.names import Source, parse_model_ref
from ollama_dist.wire import gojson
from ollama_dist.wire.llamacpp import anthropic, native, openai, responses
from ollama_dist.wire.llamacpp.asks import (
    ChatAsk,
    EmbedAsk,
    GenerateAsk,
    read_body,
    read_chat,
    read_embed,
    read_embeddings,
    read_generate,
)
from ollama_dist.wire.llamacpp.gguf import Gguf, read_gguf
from ollama_dist.wire.llamacpp.responses_answers import ResponsesWriter
from ollama_dist.wire.llamacpp.writer import JSON, Writer
from ollama_dist.wire.structs import SHOW

Fields = dict[str, Any]

TEXT: Final = "text/plain; charset=utf-8"

_IDS: Final = 999
"""Ollama numbers completions from 0 to 998, responses and their messages to 999998."""

_RESPONSE_IDS: Final = 999_999


@dataclass(frozen=True, slots=True)
class Route:
    """``read`` finds what a body asks, or raises `BadRequest`; ``run`` answers it."""

    run: Callable[[web.BaseRequest, Any], Awaitable[web.StreamResponse]]
    read: Callable[[bytes], Any] = lambda _: None
    dialect: Dialect = Dialect.OLLAMA
    takes_head: bool = False


class Routes:
    """Answers with what ``folder`` has and ``supervisor`` runs."""

    def __init__(
        self, version: str, folder: ModelFolder, supervisor: Supervisor, inference: Inference
    ) -> None:
        self._version = version
        self._folder = folder
        self._supervisor = supervisor
        self._inference = inference
        self._embedding = Embedding(inference)
        self._rng = random.Random()
        self._table = self._make_table()

    def find(self, path: str) -> Mapping[str, Route]:
        """What is served at ``path``, by method; nothing where there is no such route."""
        if path.startswith(_MODEL_PREFIX) and "/" not in path[len(_MODEL_PREFIX) :]:
            return {"GET": Route(self._v1_model, dialect=Dialect.OPENAI)}
        if path.startswith(_BLOB_PREFIX):
            return {"POST": Route(_refuse), "HEAD": Route(_refuse)}
        return self._table.get(path, {})

    def _make_table(self) -> Mapping[str, Mapping[str, Route]]:
        refused = {"POST": Route(_refuse)}
        return {
            "/": {"GET": Route(_greet, takes_head=True)},
            "/api/version": {"GET": Route(self._tell_version, takes_head=True)},
            "/api/status": {"GET": Route(_status)},
            "/api/tags": {"GET": Route(self._tags, takes_head=True)},
            "/api/ps": {"GET": Route(self._ps)},
            "/api/show": {"POST": Route(self._show, _read_show)},
            "/api/generate": {"POST": Route(self._generate, read_generate)},
            "/api/chat": {"POST": Route(self._chat, read_chat)},
            "/api/embed": {"POST": Route(self._embed, read_embed)},
            "/api/embeddings": {"POST": Route(self._embeddings, read_embeddings)},
            "/v1/models": {"GET": Route(self._v1_models, dialect=Dialect.OPENAI)},
            "/v1/chat/completions": {
                "POST": Route(self._openai_chat, openai.read_chat, Dialect.OPENAI),
            },
            "/v1/completions": {
                "POST": Route(self._openai_completion, openai.read_completion, Dialect.OPENAI),
            },
            "/v1/embeddings": {
                "POST": Route(self._openai_embeddings, openai.read_embeddings, Dialect.OPENAI),
            },
            "/v1/responses": {
                "POST": Route(self._responses, responses.read_responses, Dialect.RESPONSES),
            },
            "/v1/messages": {"POST": Route(self._messages, _read_messages, Dialect.ANTHROPIC)},
            "/api/delete": {"DELETE": Route(_refuse)},
            **dict.fromkeys(_REFUSED, refused),
        }

    # What there is

    async def _tell_version(self, _request: web.BaseRequest, _: None) -> web.Response:
        return reply(gojson.encode({"version": self._version}))

    async def _tags(self, _request: web.BaseRequest, _: None) -> web.Response:
        return reply(listing.tags(self._folder.models.values()))

    async def _ps(self, _request: web.BaseRequest, _: None) -> web.Response:
        return reply(listing.ps(self._supervisor.loaded))

    async def _show(self, request: web.BaseRequest, fields: Fields) -> web.Response:
        text = fields.get("model") or fields.get("name", "")
        model = self._find(text, lambda: _shown_missing(text))
        gguf = await asyncio.to_thread(_head_of, model.path)
        return reply(listing.show(model, gguf, fields, request.headers.get("User-Agent", "")))

    async def _v1_models(self, _request: web.BaseRequest, _: None) -> web.Response:
        return reply(listing.v1_models(self._folder.models.values()), JSON)

    async def _v1_model(self, request: web.BaseRequest, _: None) -> web.Response:
        name = unquote(request.rel_url.raw_path[len(_MODEL_PREFIX) :])
        model = self._find(name, lambda: _shown_missing(name))
        return reply(gojson.encode_line(listing.v1_model(model, name)), JSON)

    # Answers

    async def _generate(self, request: web.BaseRequest, ask: GenerateAsk) -> web.StreamResponse:
        model = self._find(ask.model, lambda: _missing(ask.model), empty=ModelNotFound("model '' not found"))
        return await self._run_generate(request, model, ask, native.GenerateWriter(ask.model))

    async def _chat(self, request: web.BaseRequest, ask: ChatAsk) -> web.StreamResponse:
        return await self._run_chat(request, ask, native.ChatWriter(ask.model))

    async def _openai_chat(self, request: web.BaseRequest, told: tuple[ChatAsk, bool]) -> web.StreamResponse:
        ask, usage = told
        writer = openai.ChatWriter(ask.model, self._rng.randrange(_IDS), usage=usage)
        return await self._run_chat(request, ask, writer)

    async def _openai_completion(
        self, request: web.BaseRequest, told: tuple[GenerateAsk, bool]
    ) -> web.StreamResponse:
        ask, usage = told
        model = self._find(ask.model, lambda: _missing(ask.model), empty=ModelNotFound("model '' not found"))
        writer = openai.CompletionWriter(ask.model, self._rng.randrange(_IDS), usage=usage)
        return await self._run_generate(request, model, ask, writer)

    async def _responses(self, request: web.BaseRequest, told: tuple[ChatAsk, Fields]) -> web.StreamResponse:
        ask, fields = told
        writer = ResponsesWriter(ask.model, self._rng.randrange(_RESPONSE_IDS), fields)
        return await self._run_chat(request, ask, writer)

    async def _messages(self, request: web.BaseRequest, told: tuple[ChatAsk, int]) -> web.StreamResponse:
        ask, estimated = told
        message_id = f"msg_{self._rng.getrandbits(96):024x}"
        return await self._run_chat(request, ask, anthropic.MessagesWriter(ask.model, message_id, estimated))

    async def _run_chat(self, request: web.BaseRequest, ask: ChatAsk, writer: Writer) -> web.StreamResponse:
        model = self._find(ask.model, lambda: _missing(ask.model))
        async with self._inference.chat(model, ask) as answer:
            return await send(request, writer, answer, stream=ask.terms.stream)

    async def _run_generate(
        self, request: web.BaseRequest, model: Installed, ask: GenerateAsk, writer: Writer
    ) -> web.StreamResponse:
        async with self._inference.generate(model, ask) as answer:
            return await send(request, writer, answer, stream=ask.terms.stream)

    # Vectors

    async def _embed(self, _request: web.BaseRequest, ask: EmbedAsk) -> web.Response:
        embedded = await self._vectors(ask, empty=ModelNotFound("model '' not found"))
        body = native.embed_body(
            ask.model,
            embedded.vectors,
            total_ns=embedded.total_ns,
            load_ns=embedded.load_ns,
            tokens=embedded.tokens,
        )
        return reply(body)

    async def _embeddings(self, _request: web.BaseRequest, ask: EmbedAsk) -> web.Response:
        embedded = await self._vectors(ask)
        return reply(native.embeddings_body(embedded.vectors[0] if embedded.vectors else ()))

    async def _openai_embeddings(
        self, _request: web.BaseRequest, told: tuple[EmbedAsk, bool]
    ) -> web.Response:
        ask, packed = told
        embedded = await self._vectors(ask, empty=ModelNotFound("model '' not found"))
        body = openai.embeddings_body(ask.model, embedded.vectors, embedded.tokens, packed=packed)
        return reply(body, JSON)

    async def _vectors(self, ask: EmbedAsk, empty: BadRequest | ModelNotFound | None = None) -> Embedded:
        def missing() -> ModelNotFound:
            return ModelNotFound(f'model "{ask.model}" not found, try pulling it first')

        return await self._embedding.embed(self._find(ask.model, missing, empty=empty), ask)

    def _find(
        self,
        text: str,
        missing: Callable[[], ModelNotFound],
        *,
        empty: BadRequest | ModelNotFound | None = None,
    ) -> Installed:
        """The model called ``text``. Raises `InvalidModelName`, what ``missing`` makes, or ``empty``."""
        if not text.strip():
            raise empty or BadRequest("model is required")
        name, source = parse_model_ref(text)
        model = self._folder.models.get(name.key)
        if model is None or source is Source.CLOUD:
            raise missing()
        return model


_MODEL_PREFIX: Final = "/v1/models/"
_BLOB_PREFIX: Final = "/api/blobs/"

_REFUSED: Final = (
    "/api/create",
    "/api/copy",
    "/api/pull",
    "/api/push",
    "/api/me",
    "/api/signout",
    "/api/experimental/web_search",
    "/api/experimental/web_fetch",
    "/v1/audio/transcriptions",
)


async def _greet(_request: web.BaseRequest, _: None) -> web.Response:
    return reply(b"Ollama is running", TEXT)


async def _status(_request: web.BaseRequest, _: None) -> web.Response:
    return reply(gojson.encode({"cloud": {"disabled": True, "source": "config"}}))


async def _refuse(request: web.BaseRequest, _: None) -> web.Response:
    action = request.path.split("/")[-1] if not request.path.startswith(_BLOB_PREFIX) else "blobs"
    raise NotSupported(
        f"the embedded engine has no {action}: its models are the GGUF files in its folder, put there by hand"
    )


def _read_show(data: bytes) -> Fields:
    fields = read_body(data, SHOW)
    if not (fields.get("model") or fields.get("name")):
        raise BadRequest("model is required")
    return fields


def _read_messages(data: bytes) -> tuple[ChatAsk, int]:
    ask = anthropic.read_messages(data)
    return ask, anthropic.estimated_tokens(data) if ask.terms.stream else 0


def _missing(text: str) -> ModelNotFound:
    return ModelNotFound(f"model '{text}' not found")


def _shown_missing(text: str) -> ModelNotFound:
    return ModelNotFound(f"model '{parse_model_ref(text)[0].short}' not found")


def _head_of(path: Path) -> Gguf:
    with path.open("rb") as stream:
        return read_gguf(stream, path.stat().st_size)
