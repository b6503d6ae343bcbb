"""From what a caller asks to what a runner does: the model found, loaded, prompted, and listened to.

The order of the checks is Ollama's (``server/routes.go``), so that the same mistake gets the same answer.
"""

import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from ollama_dist.backends.llamacpp.client import RunnerClient
from ollama_dist.backends.llamacpp.errors import NoPictures, RunnerRefused
from ollama_dist.backends.llamacpp.folder import Installed
from ollama_dist.backends.llamacpp.settings import LlamaCppSettings
from ollama_dist.backends.llamacpp.supervisor import Lease, Supervisor
from ollama_dist.core.errors import BadRequest, UpstreamCut, UpstreamTimeout
from ollama_dist.wire.framing import SseEvent
from ollama_dist.wire.llamacpp.asks import ChatAsk, GenerateAsk, Message, Terms
from ollama_dist.wire.llamacpp.bodies import (
    Body,
    Prompt,
    chat_body,
    completion_body,
    cut_prompt,
    infill_body,
    is_too_long,
    without_oldest,
)
from ollama_dist.wire.llamacpp.options import RunnerOptions, Sampling, read_options
from ollama_dist.wire.llamacpp.pieces import ChatReader, Finish, Piece, PromptReader

EMBEDDING_BATCH: Final = 2048
"""An embedding model reads a text in one go, so this bounds the text (Ollama's default, too)."""

_PLAIN_TEMPLATE: Final = re.compile(r"\s*\{\{-?\s*\.Prompt\s*-?\}\}\s*")


@dataclass(frozen=True, slots=True)
class Shortcut:
    """The model was loaded or let go; there is nothing to say."""

    finish: Finish


@dataclass(frozen=True, slots=True)
class Rendered:
    """The prompt alone was asked for."""

    prompt: str


class Running:
    """An answer under way: iterate over `batches` to its end, then ask for its `finish`."""

    def __init__(
        self,
        events: AsyncIterator[list[SseEvent]],
        reader: ChatReader | PromptReader,
        took: Callable[[], tuple[int, int]],
        tokens_of: Callable[[str], Awaitable[list[int]]] | None = None,
    ) -> None:
        self._events = events
        self._reader = reader
        self._took = took
        self._tokens_of = tokens_of
        self._text: list[str] = []

    async def batches(self) -> AsyncIterator[list[Piece]]:
        """What has been said, as it comes. Raises `UpstreamFailed` if it does not end as it should."""
        async for batch in self._events:
            pieces = [piece for event in batch for piece in self._reader.read(event.data)]
            if pieces:
                if self._tokens_of is not None:
                    self._text += [piece.text for piece in pieces]
                yield pieces
            if self._reader.finish is not None:
                return
        raise UpstreamCut("the runner ended its answer too early")

    async def finish(self) -> Finish:
        """How it ended. Raises `UpstreamFailed`."""
        finish = self._reader.finish
        assert finish is not None, "the answer is not at its end"
        context = None if self._tokens_of is None else await self._tokens_of("".join(self._text))
        total_ns, load_ns = self._took()
        return replace(finish, total_ns=total_ns, load_ns=load_ns, context=context)


Answer = Shortcut | Rendered | Running


class Inference:
    """Answers asks with the runners of ``supervisor``."""

    def __init__(self, settings: LlamaCppSettings, supervisor: Supervisor) -> None:
        self._settings = settings
        self._supervisor = supervisor

    @contextlib.asynccontextmanager
    async def chat(self, model: Installed, ask: ChatAsk) -> AsyncIterator[Answer]:
        """The answer to ``ask``; the runner stops working when the block is left."""
        clock = _Clock()
        if ask.is_empty and _lets_go(ask.terms):
            self._supervisor.let_go(model)
            yield Shortcut(Finish("unload"))
            return
        terms = _with_think(model, ask.model, ask.terms, relaxed=ask.relaxed)
        if "completion" not in model.card.capabilities:
            raise BadRequest(f'"{ask.model}" does not support chat')
        if any(message.get("images") for message in ask.messages):
            raise NoPictures
        if ask.tools and "tools" not in model.card.capabilities:
            raise BadRequest(f"{model.name.full} does not support tools")
        options, sampling = self.options(model, terms)
        async with self._supervisor.lease(model, options, terms.keep_alive) as lease:
            clock.loaded()
            if ask.is_empty:
                yield Shortcut(Finish("load"))
                return
            talk = _Talk(self._settings, lease, terms, sampling, clock)
            messages = _with_notes(model, ask.messages)
            async with contextlib.AsyncExitStack() as stack:
                with self._watching(lease):
                    if terms.render_only:
                        yield Rendered(await talk.render(messages, ask.tools))
                    else:
                        yield await talk.chat(stack, messages, ask.tools, adds_bos=model.card.adds_bos)

    @contextlib.asynccontextmanager
    async def generate(self, model: Installed, ask: GenerateAsk) -> AsyncIterator[Answer]:
        """The answer to ``ask``; the runner stops working when the block is left."""
        clock = _Clock()
        if ask.is_empty and _lets_go(ask.terms):
            self._supervisor.let_go(model)
            yield Shortcut(Finish("unload"))
            return
        if ask.raw and (ask.template or ask.system or ask.context):
            raise BadRequest("raw mode does not support template, system, or context")
        terms = _with_think(model, ask.model, ask.terms)
        if "completion" not in model.card.capabilities:
            raise BadRequest(f'"{ask.model}" does not support generate')
        if ask.images:
            raise NoPictures
        if ask.suffix and "insert" not in model.card.capabilities:
            raise BadRequest(f"{model.name.full} does not support insert")
        options, sampling = self.options(model, terms)
        async with self._supervisor.lease(model, options, terms.keep_alive) as lease:
            clock.loaded()
            if ask.is_empty:
                yield Shortcut(Finish("load"))
                return
            talk = _Talk(self._settings, lease, terms, sampling, clock)
            async with contextlib.AsyncExitStack() as stack:
                with self._watching(lease):
                    yield await _generate(talk, stack, model, ask)

    @contextlib.asynccontextmanager
    async def embed(
        self, model: Installed, options: dict[str, Any], keep_alive: float | None
    ) -> AsyncIterator[Lease]:
        """A runner of ``model`` to embed with."""
        runner, _ = self.options(model, Terms(options=options))
        async with self._supervisor.lease(model, runner, keep_alive) as lease:
            with self._watching(lease):
                yield lease

    def options(self, model: Installed, terms: Terms) -> tuple[RunnerOptions, Sampling]:
        """What the settings, the model's notes and the request come to. Raises `WrongOption`."""
        parameters = model.card.notes.parameters
        runner = RunnerOptions(self._settings.context_length, shift=terms.shift)
        runner, sampling = read_options(runner, Sampling(), parameters)
        runner, sampling = read_options(runner, sampling, terms.options)
        trained = model.card.context_length
        num_ctx = runner.num_ctx if runner.num_ctx > 0 else self._settings.context_length
        runner = replace(runner, num_ctx=min(num_ctx, trained) if trained else num_ctx)
        is_embedding = "embedding" in model.card.capabilities
        if is_embedding and "num_batch" not in {**parameters, **terms.options}:
            runner = replace(runner, num_batch=min(EMBEDDING_BATCH, runner.num_ctx))
        return runner, sampling

    @contextlib.contextmanager
    def _watching(self, lease: Lease) -> Any:
        try:
            yield
        except UpstreamTimeout:
            self._supervisor.end_stuck(lease)
            raise


class _Clock:
    """How long a request took, in all and until its model was there; finer than the loop's own clock."""

    def __init__(self) -> None:
        self._began = time.perf_counter_ns()
        self._load_ns = 0

    def loaded(self) -> None:
        self._load_ns = time.perf_counter_ns() - self._began

    def took(self) -> tuple[int, int]:
        """Nanoseconds in all, and until it was loaded."""
        return time.perf_counter_ns() - self._began, self._load_ns


class _Talk:
    """One request's conversation with its runner."""

    def __init__(
        self, settings: LlamaCppSettings, lease: Lease, terms: Terms, sampling: Sampling, clock: _Clock
    ) -> None:
        self._settings = settings
        self._client: RunnerClient = lease.client
        self._num_ctx = lease.options.num_ctx
        self.terms = terms
        self._sampling = sampling
        self._clock = clock

    async def render(self, messages: Sequence[Message], tools: Sequence[Any] = ()) -> str:
        """The prompt that the model's template makes of ``messages``."""
        body = self._chat_body(messages, tools)
        return str((await self._client.ask("/apply-template", body))["prompt"])

    async def tokens(self, text: str, *, special: bool = False) -> list[int]:
        """The ids of ``text``, ``special`` with what the tokenizer puts around it."""
        body = {"content": text, "add_special": special, "parse_special": True}
        tokens: list[int] = (await self._client.ask("/tokenize", body))["tokens"]
        return tokens

    async def text(self, tokens: Sequence[int]) -> str:
        return str((await self._client.ask("/detokenize", {"tokens": list(tokens)}))["content"])

    async def chat(
        self,
        stack: contextlib.AsyncExitStack,
        messages: Sequence[Message],
        tools: Sequence[Any] = (),
        *,
        adds_bos: bool,
        context_of: str | None = None,
    ) -> Running:
        """Let the model answer ``messages``; if they are too long and may be cut, without the oldest."""
        try:
            return await self._start_chat(stack, messages, tools, context_of)
        except RunnerRefused as refusal:
            if not is_too_long(refusal.body) or not self.terms.truncate:
                raise
            count = await self._fitting(messages, tools)
            if count < len(messages):
                return await self._start_chat(stack, without_oldest(messages, count), tools, context_of)
            if not self.terms.shift:
                raise
        prompt = await self.render(without_oldest(messages, len(messages) - 1), tools)
        return await self._start_cut(stack, prompt, adds_bos=adds_bos, context_of=context_of)

    async def complete(
        self, stack: contextlib.AsyncExitStack, prompt: str, *, adds_bos: bool, context_of: str | None
    ) -> Running:
        """Let the model go on from ``prompt``; if it is too long and may be cut, without its middle."""
        try:
            return await self._start_completion(stack, prompt, context_of)
        except RunnerRefused as refusal:
            if not (is_too_long(refusal.body) and self.terms.truncate and self.terms.shift):
                raise
        return await self._start_cut(stack, prompt, adds_bos=adds_bos, context_of=context_of)

    async def infill(self, stack: contextlib.AsyncExitStack, prefix: str, suffix: str) -> Running:
        """Let the model fill in what is between ``prefix`` and ``suffix``."""
        body = infill_body(prefix, suffix, self.terms, self._sampling, num_ctx=self._num_ctx)
        return await self._start(stack, "/infill", body, self._prompt_reader(), None)

    async def _start_cut(
        self, stack: contextlib.AsyncExitStack, prompt: str, *, adds_bos: bool, context_of: str | None
    ) -> Running:
        tokens = await self.tokens(prompt, special=True)
        num_keep = self._sampling.num_keep
        cut = cut_prompt(tokens, num_ctx=self._num_ctx, num_keep=num_keep, adds_bos=adds_bos)
        return await self._start_completion(stack, cut, context_of)

    async def _fitting(self, messages: Sequence[Message], tools: Sequence[Any]) -> int:
        """How many of the oldest have to go for the rest to fit; all if the last alone does not."""
        least, most = 1, len(messages)
        while least < most:
            middle = (least + most) // 2
            prompt = await self.render(without_oldest(messages, middle), tools)
            if len(await self.tokens(prompt, special=True)) < self._num_ctx:
                most = middle
            else:
                least = middle + 1
        return least

    def _chat_body(self, messages: Sequence[Message], tools: Sequence[Any]) -> Body:
        return chat_body(messages, tools, self.terms, self._sampling, num_ctx=self._num_ctx)

    async def _start_chat(
        self,
        stack: contextlib.AsyncExitStack,
        messages: Sequence[Message],
        tools: Sequence[Any],
        context_of: str | None,
    ) -> Running:
        reader = ChatReader(top_logprobs=self.terms.top_logprobs > 0)
        body = self._chat_body(messages, tools)
        return await self._start(stack, "/v1/chat/completions", body, reader, context_of)

    async def _start_completion(
        self, stack: contextlib.AsyncExitStack, prompt: Prompt, context_of: str | None
    ) -> Running:
        body = completion_body(prompt, self.terms, self._sampling, num_ctx=self._num_ctx)
        return await self._start(stack, "/completion", body, self._prompt_reader(), context_of)

    def _prompt_reader(self) -> PromptReader:
        return PromptReader(top_logprobs=self.terms.top_logprobs > 0)

    async def _start(
        self,
        stack: contextlib.AsyncExitStack,
        path: str,
        body: Body,
        reader: ChatReader | PromptReader,
        context_of: str | None,
    ) -> Running:
        """``context_of`` is the prompt whose tokens, and those of the answer, are to be told at the end."""
        stream = self._client.stream(
            path,
            body,
            first_timeout=self._settings.first_token_timeout_s,
            stall_timeout=self._settings.stall_timeout_s,
        )
        events = await stack.enter_async_context(stream)
        tokens_of = None
        if context_of is not None:
            prompt = context_of
            tokens_of = lambda text: self.tokens(prompt + text)  # noqa: E731
        return Running(events, reader, self._clock.took, tokens_of)


async def _generate(
    talk: _Talk, stack: contextlib.AsyncExitStack, model: Installed, ask: GenerateAsk
) -> Answer:
    adds_bos = model.card.adds_bos
    if ask.suffix and not ask.raw:
        return await talk.infill(stack, ask.prompt, ask.suffix)
    if ask.template and not _PLAIN_TEMPLATE.fullmatch(ask.template):
        raise BadRequest("the embedded engine renders a model's own chat template, not Go templates")
    messages = _generate_messages(model, ask)
    is_plain = ask.raw or bool(ask.template) or not (model.card.template or len(messages) > 1)
    prompt = ask.prompt if is_plain else await talk.render(messages)
    if ask.context:
        prompt = await talk.text(ask.context) + prompt
    if talk.terms.render_only:
        return Rendered(prompt)
    context_of = None if ask.raw else prompt
    # Only chats are listened to for thoughts, and only there does a schema hold with every vocabulary.
    if (talk.terms.think or isinstance(talk.terms.format, dict)) and not (ask.context or is_plain):
        return await talk.chat(stack, messages, adds_bos=adds_bos, context_of=context_of)
    return await talk.complete(stack, prompt, adds_bos=adds_bos, context_of=context_of)


def _generate_messages(model: Installed, ask: GenerateAsk) -> list[Message]:
    notes = model.card.notes
    system = ask.system or notes.system
    messages: list[Message] = [{"role": "system", "content": system}] if system else []
    if ask.context is None:
        messages += notes.messages
    return [*messages, {"role": "user", "content": ask.prompt}]


def _with_notes(model: Installed, messages: Sequence[Message]) -> list[Message]:
    notes = model.card.notes
    talk = [*notes.messages, *messages]
    if notes.system and messages[0].get("role") != "system":
        return [{"role": "system", "content": notes.system}, *talk]
    return talk


def _with_think(model: Installed, name: str, terms: Terms, *, relaxed: bool = False) -> Terms:
    """A model that can think does unless it is told not to. Raises `BadRequest`."""
    if "thinking" in model.card.capabilities:
        return replace(terms, think=True) if terms.think is None else terms
    if terms.think and not relaxed:
        raise BadRequest(f'"{name}" does not support thinking')
    return replace(terms, think=None)


def _lets_go(terms: Terms) -> bool:
    return terms.keep_alive is not None and terms.keep_alive < 1e-9
