"""Loads of models that outlive the client that caused them.

An engine gives a load up when the request that caused it ends, though others may wait for the same model
(``server/sched.go``), and the next one starts it over. So a request that has to load its model is not taken
back when its client leaves: this node keeps it until the model is in memory, and lets it go then.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

import structlog

from ollama_dist.core.names import ModelKey
from ollama_dist.core.requests import InferenceRequest, RunnerOption
from ollama_dist.core.view import NodeView
from ollama_dist.node.answers import Answer, AttemptFailed
from ollama_dist.node.limits import LOAD_S
from ollama_dist.runtime.tasks import Tasks
from ollama_dist.scheduling.estimate import fits, in_memory

log = structlog.get_logger()

LOOK_S: Final = 0.1
"""How often it is looked whether the model has come."""


class Loads:
    """What this node knows of how its engine's models were loaded, and the loads it holds.

    ``me`` gives this node as it is known now, ``look`` makes its engine be looked at again soon.
    """

    def __init__(self, me: Callable[[], NodeView], look: Callable[[], None]) -> None:
        self._me = me
        self._look = look
        self._options: dict[ModelKey, tuple[RunnerOption, ...]] = {}
        self.version = 0
        """Rises whenever `options` answers otherwise than before."""
        self._held = Tasks()

    @property
    def held(self) -> int:
        """Loads that go on without the client that caused them."""
        return len(self._held)

    async def begin(self, request: InferenceRequest, beginning: Coroutine[Any, Any, Answer]) -> Answer:
        """Await ``beginning``, which loads a model first. Should the caller leave, the load goes on."""
        task = asyncio.ensure_future(beginning)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            self._held.start(self._hold(request, task), f"load-{request.model}")
            raise

    async def _hold(self, request: InferenceRequest, task: asyncio.Task[Answer]) -> None:
        log.info("load_held", model=request.model)
        try:
            async with asyncio.timeout(LOAD_S):
                while not task.done() and not self._is_in_memory(request):
                    self._look()
                    await asyncio.wait([task], timeout=LOOK_S)
        except TimeoutError:
            log.warning("load_given_up", model=request.model, after_s=LOAD_S)
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, AttemptFailed):
                (await task).close()

    def _is_in_memory(self, request: InferenceRequest) -> bool:
        loaded = in_memory(request.model, self._me()) if request.model is not None else None
        # What it was last loaded with is of no use here: that is just what changes.
        return loaded is not None and fits(request.runner_options, replace(loaded, options=None))

    def options(self, model: ModelKey) -> tuple[RunnerOption, ...] | None:
        """What the model was last asked for with; None when it was not loaded by this node."""
        return self._options.get(model)

    def note(self, request: InferenceRequest) -> None:
        """The engine answered ``request``: from now on the model is in memory as it asked."""
        if request.model is not None and self._options.get(request.model) != request.runner_options:
            self._options[request.model] = request.runner_options
            self.version += 1

    def forget_all_but(self, loaded: Iterable[ModelKey]) -> None:
        """Only these are still in memory."""
        kept = set(loaded)
        self._options = {model: options for model, options in self._options.items() if model in kept}
        self.version += 1

    async def stop(self) -> None:
        await self._held.stop()
