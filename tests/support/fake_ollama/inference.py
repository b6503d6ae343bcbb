"""The routes that make models speak."""

import email
import email.policy
import hashlib
import json
import time
from typing import Any, Final

from aiohttp import web

from ollama_dist.wire import gojson, structs
from ollama_dist.wire.durations import is_zero, keep_alive_seconds
from ollama_dist.wire.gotypes import Struct
from tests.support.fake_ollama.answers import Refused, decoded, json_answer, recorded_answer
from tests.support.fake_ollama.book import Book, timestamp
from tests.support.fake_ollama.catalogue import WEIGHTS, Catalogue, Installed, parsed
from tests.support.fake_ollama.faults import HEADER, Fault, Faults
from tests.support.fake_ollama.journal import Journal, Seen
from tests.support.fake_ollama.runners import QueueFull, Runner, Runners
from tests.support.fake_ollama.sending import BUSY, Pace, Sending, before_answer
from tests.support.fake_ollama.shapes import Written, from_record, transcript, write
from tests.support.fake_ollama.words import Speech, embed, speak
from tests.support.recordings import Recorded

_SINCE_0_17: Final = {
    "truncate",
    "shift",
    "logprobs",
    "top_logprobs",
    "_debug_render_only",
    "encoding_format",
}
_SINCE_0_6: Final = {"think"}
_INTEGERS: Final = (
    "num_ctx",
    "num_batch",
    "num_gpu",
    "num_thread",
    "num_keep",
    "num_predict",
    "seed",
    "top_k",
)
_FLOATS: Final = ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty")


class Inference:
    """The handlers of one fake. A request on record is answered as recorded, when ``by_the_book``."""

    def __init__(
        self,
        book: Book,
        catalogue: Catalogue,
        runners: Runners,
        faults: Faults,
        pace: Pace,
        journal: Journal,
        *,
        by_the_book: bool,
    ) -> None:
        self._book = book
        self._catalogue = catalogue
        self._runners = runners
        self._faults = faults
        self._pace = pace
        self._journal = journal
        self._by_the_book = by_the_book
        self._age = book.version
        self._newest = self._age == "0.33.0-rc2"
        self._young = self._age in ("0.17.7", "0.33.0-rc2")

    # Text

    async def generate(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        fields = self._fields(seen, structs.GENERATE)
        model = self._model(seen.path, fields)
        if not fields.get("prompt"):
            return await self._load_or_unload(seen, model, fields, {"response": ""})
        if fields.get("raw") and (fields.get("template") or fields.get("system") or fields.get("context")):
            raise Refused(400, "raw mode does not support template, system, or context")
        return await self._infer(request, seen, model, fields, fields["prompt"], stream=_streams(fields))

    async def chat(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        fields = self._fields(seen, structs.CHAT)
        model = self._model(seen.path, fields)
        messages = [message for message in fields.get("messages", []) if message]
        if not messages:
            empty = {"message": {"role": "assistant", "content": ""}}
            return await self._load_or_unload(seen, model, fields, empty)
        last = messages[-1]
        fields["continues"] = last.get("content", "") if last.get("role") == "assistant" else ""
        return await self._infer(request, seen, model, fields, _text(messages), stream=_streams(fields))

    async def openai_chat(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        fields = self._fields(seen, structs.OPENAI_CHAT)
        if not fields.get("messages"):
            raise Refused(400, "[] is too short - 'messages'", early=True)
        return await self._v1(request, seen, fields, fields["messages"], bound="max_tokens")

    async def openai_completion(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        fields = self._fields(seen, structs.OPENAI_COMPLETION)
        return await self._v1(request, seen, fields, fields.get("prompt", ""), bound="max_tokens")

    async def responses(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        fields = self._fields(seen, structs.RESPONSES)
        return await self._v1(request, seen, fields, fields.get("input", ""), bound="max_output_tokens")

    async def messages(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        fields = self._fields(seen, structs.MESSAGES)
        for needed in ("model", "max_tokens", "messages"):
            if not fields.get(needed):
                raise Refused(400, f"{needed} is required", early=True)
        return await self._v1(request, seen, fields, fields["messages"], bound="max_tokens")

    async def transcriptions(self, request: web.Request, seen: Seen) -> web.StreamResponse:
        """What is heard is what the model would say; which noise a noisy one makes follows from the audio."""
        fields, audio = _form(seen)
        model = self._model(seen.path, fields)
        fields["options"] = {"temperature": 0}
        heard = hashlib.sha256(audio).hexdigest()
        return await self._infer(request, seen, model, fields, heard, stream=False)

    async def _v1(
        self, request: web.Request, seen: Seen, fields: dict[str, Any], prompt: Any, *, bound: str
    ) -> web.StreamResponse:
        model = self._model(seen.path, fields)
        fields["options"] = {"num_predict": fields.get(bound), "stop": _stops(fields.get("stop"))}
        return await self._infer(
            request, seen, model, fields, _text(prompt), stream=bool(fields.get("stream"))
        )

    async def _infer(
        self,
        request: web.Request,
        seen: Seen,
        model: Installed,
        fields: dict[str, Any],
        prompt: str,
        *,
        stream: bool,
    ) -> web.StreamResponse:
        began = time.monotonic()
        recorded = self._recorded(seen)
        if recorded is not None and recorded.status >= 400:
            if b"template" in recorded.answer:  # found out after the model had been loaded
                await self._loaded(model, fields)
            return recorded_answer(recorded)
        self._check_abilities(seen.path, model, fields)
        fault = self._fault(seen, fields)
        await before_answer(fault, self._pace)
        runner = await self._loaded(model, fields)
        async with self._runners.slot(runner):
            speech = self._speech(model, fields, prompt)
            if recorded is not None and not (fault.die or fault.repeat):
                written = from_record(recorded, weight=speech.output_tokens)
            else:
                written = self._written(seen.path, fields, speech, stream=stream, began=began)
            return await Sending(request, seen, fault, self._pace, self._journal).send(written)

    def _speech(self, model: Installed, fields: dict[str, Any], prompt: str) -> Speech:
        return speak(
            model.origin,
            prompt,
            options=fields.get("options") or {},
            continues=fields.get("continues", ""),
            tools=fields.get("tools"),
            thinks=self._young and fields.get("think") is not False,
        )

    def _written(
        self, path: str, fields: dict[str, Any], speech: Speech, *, stream: bool, began: float
    ) -> Written:
        if path == "/v1/audio/transcriptions":
            return transcript(speech, fields.get("response_format", ""))
        usage = bool((fields.get("stream_options") or {}).get("include_usage"))
        elapsed_s = time.monotonic() - began
        return write(
            self._book, path, fields["model"], speech, stream=stream, usage=usage, elapsed_s=elapsed_s
        )

    # Vectors

    async def embed(self, _request: web.Request, seen: Seen) -> web.Response:
        fields = self._fields(seen, structs.EMBED)
        given = fields.get("input")
        texts = [given] if isinstance(given, str) and given else given or []
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise Refused(400, "invalid input type")
        vectors = await self._vectors(seen, fields, texts)
        if isinstance(vectors, Recorded):
            return recorded_answer(vectors)
        answer = {"model": fields["model"], "embeddings": vectors}
        if texts:
            answer |= {"total_duration": 1_500_000, "load_duration": 500_000}
            answer["prompt_eval_count"] = _counted(texts)
        return json_answer(200, answer)

    async def embeddings(self, _request: web.Request, seen: Seen) -> web.Response:
        fields = self._fields(seen, structs.EMBEDDINGS)
        vectors = await self._vectors(seen, fields, [fields["prompt"]] if fields.get("prompt") else [])
        if isinstance(vectors, Recorded):
            return recorded_answer(vectors)
        return json_answer(200, {"embedding": vectors[0] if vectors else []})

    async def openai_embeddings(self, _request: web.Request, seen: Seen) -> web.Response:
        fields = self._fields(seen, structs.OPENAI_EMBEDDINGS)
        form = fields.get("encoding_format", "")
        if form.lower() not in ("", "float", "base64"):
            supported = "Supported values: ['float', 'base64']."
            raise Refused(400, f"Invalid value for 'encoding_format' = {form}. {supported}", early=True)
        given = fields.get("input")
        texts = [given] if isinstance(given, str) else given
        if not texts:
            raise Refused(400, "invalid input", early=True)
        if not all(isinstance(text, str) for text in texts):
            raise Refused(400, "invalid input type")
        vectors = await self._vectors(seen, fields, texts)
        if isinstance(vectors, Recorded):
            return recorded_answer(vectors)
        data = [
            {"object": "embedding", "embedding": vector, "index": place}
            for place, vector in enumerate(vectors)
        ]
        usage = {"prompt_tokens": _counted(texts), "total_tokens": _counted(texts)}
        answer = {"object": "list", "data": data, "model": fields["model"], "usage": usage}
        return json_answer(200, answer, line=True)

    async def _vectors(
        self, seen: Seen, fields: dict[str, Any], texts: list[str]
    ) -> list[list[float]] | Recorded:
        """The vectors of ``texts``; the recorded answer where this very request has one."""
        model = self._model(seen.path, fields)
        fault = self._fault(seen, fields)
        await before_answer(fault, self._pace)
        runner = await self._loaded(model, fields)
        async with self._runners.slot(runner):
            await self._pace.token(fault)
        size = fields.get("dimensions", 0)
        return self._recorded(seen) or [embed(text, self._book.vectors, size) for text in texts]

    # Before an answer

    def _fields(self, seen: Seen, struct: Struct) -> dict[str, Any]:
        """The body as a server of this age reads it."""
        unknown = set() if self._young else _SINCE_0_17
        if self._age == "0.5.13":
            unknown = unknown | _SINCE_0_6
        known = {name: wanted for name, wanted in struct.fields.items() if name not in unknown}
        empty = "missing request body" if seen.path.startswith("/api/") else "EOF"
        try:
            fields = decoded(seen.body, Struct(struct.name, known, struct.package), when_empty=empty)
        except Refused as refusal:
            if not self._newest:  # that level is younger
                refusal.message = refusal.message.replace('"max", ', "")
            raise
        fields.setdefault("model", "")
        seen.model = fields["model"]
        return fields

    def _model(self, path: str, fields: dict[str, Any]) -> Installed:
        name = fields["model"]
        model = self._catalogue.find(name)
        if model is not None:
            return model
        if not name and path in ("/api/chat", "/v1/chat/completions", "/api/embeddings", "/v1/responses"):
            raise Refused(400, "model is required")
        if not name and path == "/api/embed" and self._age == "0.17.7":
            raise Refused(500, "unqualified name: registry.ollama.ai/library/!MISSING!:latest")
        if name and self._newest and parsed(name) is None:
            raise Refused(400, "invalid model name")
        raise Refused(404, self._not_found(path, name))

    def _not_found(self, path: str, name: str) -> str:
        embeds = "embed" in path and (bool(name) or not self._newest)
        chats = path in ("/api/chat", "/v1/chat/completions") and not self._young
        if embeds or chats:
            return f'model "{name}" not found, try pulling it first'
        return f"model '{name}' not found"

    def _check_abilities(self, path: str, model: Installed, fields: dict[str, Any]) -> None:
        if model.origin == "tiny-embed":
            what = "generate" if path in ("/api/generate", "/v1/completions") else "chat"
            raise Refused(400, f'"{fields["model"]}" does not support {what}')
        if fields.get("think") and model.origin != "tiny-think":
            told = f'"{fields["model"]}"' if self._young else model.name.full
            raise Refused(400, f"{told} does not support thinking")
        for name, value in (fields.get("options") or {}).items():
            if name in _INTEGERS and isinstance(value, (str, list, dict)):
                raise Refused(500, f'option "{name}" must be of type integer')
            if name in _FLOATS and isinstance(value, (str, list, dict, bool)):
                raise Refused(500, f'option "{name}" must be of type float32')
            if name == "stop" and not _is_strings(value):
                raise Refused(500, 'option "stop" must be of type array')
        form = fields.get("format")
        if form not in (None, "", "json") and not isinstance(form, dict):
            told = json.dumps(gojson.encode(form).decode())
            raise Refused(500, f'invalid format: {told}; expected "json" or a valid JSON Schema object')

    async def _load_or_unload(
        self, seen: Seen, model: Installed, fields: dict[str, Any], empty: dict[str, Any]
    ) -> web.Response:
        answer = {"model": fields["model"], "created_at": timestamp(), **empty}
        reason = "unload" if is_zero(fields.get("keep_alive")) else "load"
        await before_answer(self._fault(seen, fields), self._pace)
        if reason == "unload":
            self._runners.unload(WEIGHTS[model.origin])
        else:
            self._check_abilities(seen.path, model, fields)
            await self._loaded(model, fields)
        if "message" in empty and not self._young:
            return json_answer(200, answer | {"done_reason": reason, "done": True})
        return json_answer(200, answer | {"done": True, "done_reason": reason})

    async def _loaded(self, model: Installed, fields: dict[str, Any]) -> Runner:
        keep_alive_s = keep_alive_seconds(fields.get("keep_alive"))
        try:
            return await self._runners.load(WEIGHTS[model.origin], model.name.short, keep_alive_s)
        except QueueFull:
            raise Refused(503, BUSY) from None

    def _recorded(self, seen: Seen) -> Recorded | None:
        return self._book.find("POST", seen.path, seen.body) if self._by_the_book else None

    def _fault(self, seen: Seen, fields: dict[str, Any]) -> Fault:
        return self._faults.take(seen.path, fields["model"], seen.headers.get(HEADER))


def _form(seen: Seen) -> tuple[dict[str, Any], bytes]:
    """The fields of a form, and its file."""
    content_type = seen.headers.get("Content-Type", "")
    head = f"Content-Type: {content_type}\r\n\r\n".encode("utf-8", "replace")
    form = email.message_from_bytes(head + seen.body, policy=email.policy.HTTP)
    if form.get_content_type() != "multipart/form-data":
        complaint = "request Content-Type isn't multipart/form-data"
    elif not form.is_multipart() or form.defects:
        complaint = "multipart: NextPart: EOF"
    else:
        complaint = ""
    if complaint:
        raise Refused(400, f"failed to parse multipart form: {complaint}", early=True)
    fields: dict[str, Any] = {"model": ""}
    audio: bytes | None = None
    for part in form.iter_parts():
        content, name = part.get_payload(decode=True), part.get_param("name", header="content-disposition")
        assert isinstance(content, bytes)
        if part.get_filename() is None:
            fields[str(name)] = content.decode("utf-8", "replace")
        elif name == "file":
            audio = content
    seen.model = fields["model"]
    if not fields["model"]:
        raise Refused(400, "model is required", early=True)
    if audio is None:
        raise Refused(400, "file is required: http: no such file", early=True)
    if not audio:
        raise Refused(400, "audio file is empty", early=True)
    return fields, audio


def _streams(fields: dict[str, Any]) -> bool:
    return fields.get("stream") is not False


def _stops(value: Any) -> list[str]:
    """What counts of OpenAI's ``stop``: a text, or the texts of a list."""
    return [each for each in (value if isinstance(value, list) else [value]) if isinstance(each, str)]


def _is_strings(value: Any) -> bool:
    return value is None or (isinstance(value, list) and all(isinstance(each, str) for each in value))


def _counted(texts: list[str]) -> int:
    return sum(len(text.split()) + 5 for text in texts)


def _text(value: Any) -> str:
    """The words in messages, parts of messages or plain text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return " ".join(_text(item) for item in value)
    return _text(value.get("content") or value.get("text") or "") if isinstance(value, dict) else ""
