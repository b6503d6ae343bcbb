"""The embedded engine as a `LocalEngine`: served in this process, looked at like any other engine."""

from dataclasses import replace

from ollama_dist.backends.llamacpp.folder import ModelFolder
from ollama_dist.backends.llamacpp.service import EngineService
from ollama_dist.backends.llamacpp.settings import LlamaCppSettings
from ollama_dist.backends.local import Changed, Snapshot
from ollama_dist.backends.poller import EnginePoller
from ollama_dist.backends.target import Target
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import Engine, EngineKind, EngineState


class LlamaCppEngine:
    """See `LocalEngine`. ``start`` raises `EngineMissing` or `ConfigError`, and then nothing runs."""

    def __init__(self, node: NodeId, settings: LlamaCppSettings) -> None:
        self._node = node
        self._service = EngineService(settings, self.nudge)
        self._target: Target | None = None
        self._poller: EnginePoller | None = None
        self.slots = self.width = settings.slots
        """Requests one loaded model answers at once."""

    @property
    def folder(self) -> ModelFolder:
        """The files it serves."""
        return self._service.folder

    @property
    def target(self) -> Target | None:
        return self._target

    @property
    def snapshot(self) -> Snapshot:
        if self._poller is None:
            return Snapshot(Engine(EngineKind.LLAMACPP, "", EngineState.STARTING), "is starting")
        known = self._poller.snapshot
        problems = self._service.folder.problems
        if known.error or not problems or known.models:
            return known
        path, reason = next(iter(problems.items()))
        return replace(known, error=f"no model can be used; {path.name}: {reason}")

    def nudge(self) -> None:
        if self._poller is not None:
            self._poller.nudge()

    async def start(self, changed: Changed) -> None:
        host, port = await self._service.start()
        self._target = Target(self._node, host, port)
        # Looking has connections of its own, as with an Ollama.
        self._poller = EnginePoller(Target(self._node, host, port), EngineKind.LLAMACPP, changed)
        await self._poller.look()
        self._poller.start()

    async def stop(self) -> None:
        if self._poller is not None:
            await self._poller.stop()
        await self._service.stop()
        if self._target is not None:
            self._target.close()
