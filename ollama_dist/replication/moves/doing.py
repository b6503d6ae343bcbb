"""Doing one step of an operation on this node: getting a model, or giving one up, on disk or in memory."""

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final
from weakref import WeakValueDictionary

import structlog

from ollama_dist.core.errors import DistError, NoCandidate
from ollama_dist.core.names import ModelKey, ModelName
from ollama_dist.core.view import ClusterView, NodeView
from ollama_dist.replication.copier import Copier
from ollama_dist.replication.moves.holders import has, holders, identity_of, keepers
from ollama_dist.replication.moves.operations import Action, State, Step
from ollama_dist.replication.moves.promises import NotPromised, Promises
from ollama_dist.replication.sources import BlobLost, Progress

log = structlog.get_logger()

COPIES_AT_ONCE: Final = 2
"""Models this node gets at a time: each already keeps several sources busy."""

PATIENCE_S: Final = 600.0
"""A copy that gets no further, or a model that is in use or that nobody promises to keep, is tried again for
so long."""

PAUSES_S: Final = (1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Between tries; the last one over and over."""

SEEN_S: Final = 10.0
"""How long the engine may take to list what was just installed, or to list no more what was removed."""

_STEP_S: Final = 0.05

Tell = Callable[[Step], None]


@dataclass(frozen=True)
class Hands:
    """What a step is done with."""

    view: Callable[[], ClusterView]
    copier: Callable[[], Copier]
    promises: Promises
    ask_to_keep: Callable[[NodeView, ModelKey, str], Awaitable[None]]
    """Have a node promise to keep its copy; raises errors of the `DistError` tree."""
    end_promise: Callable[[NodeView, ModelKey], Awaitable[None]]
    """Tell who promised that it is not needed any more; raises the same."""
    nudge: Callable[[], None]
    """Have the engine looked at again."""
    pinned: Callable[[ModelKey], bool]
    """Whether the model is to stay here, whatever else is wished."""
    active: Callable[[ModelKey], int]
    """Requests that run with the model here."""
    load: Callable[[ModelName], Awaitable[None]]
    """Have the engine bring it into memory; returns when it is there."""
    unload: Callable[[ModelName], Awaitable[None]]


class Doing:
    """Does steps, as many at once as are begun. ``pause`` sleeps, ``clock`` is steady.

    ``intend`` tells the others what is done to a model here; None when nothing is any more.
    """

    def __init__(
        self,
        hands: Hands,
        intend: Callable[[ModelKey, Action | None], None],
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hands = hands
        self._intend = intend
        self._movers: WeakValueDictionary[ModelKey, asyncio.Lock] = WeakValueDictionary()
        """One at a time for each model."""
        self._pause = pause
        self._clock = clock
        self._copying = asyncio.Semaphore(COPIES_AT_ONCE)

    async def do(self, step: Step, tell: Tell) -> tuple[State, str]:
        """How it ended, and why. ``tell`` hears how far it is; cancelled, it can be begun again."""
        mover = self._movers.setdefault(step.key, asyncio.Lock())
        try:
            async with mover:
                match step.action:
                    case Action.COPY:
                        self._intend(step.key, step.action)
                        await self._copy(step, tell)
                    case Action.DELETE:
                        self._intend(step.key, step.action)
                        await self._delete(step, tell)
                    case Action.LOAD:
                        await self._load(step, tell)
                    case Action.UNLOAD:
                        await self._unload(step, tell)
        except DistError as error:
            log.warning("step_failed", action=step.action, model=step.model.short, error=str(error))
            return State.FAILED, str(error)
        except Exception:
            log.exception("step_failed", action=step.action, model=step.model.short)
            return State.FAILED, "something went wrong inside this node; see its log"
        finally:
            if step.action in (Action.COPY, Action.DELETE):
                self._intend(step.key, None)
        return State.SUCCEEDED, ""

    # Getting a model

    async def _copy(self, step: Step, tell: Tell) -> None:
        view, hands = self._hands.view, self._hands
        if has(view().me, step.key, step.content):
            return
        if has(view().me, step.key):
            raise Differs(f"{view().me.name} has another model called {step.model.short}")
        furthest, reached_at = 0, self._clock()
        told = step

        def hear(progress: Progress) -> None:
            nonlocal furthest, reached_at, told
            if progress.done > furthest:
                furthest, reached_at = progress.done, self._clock()
            told = replace(
                told,
                bytes_total=progress.total,
                bytes_done=max(told.bytes_done, progress.done),
                bytes_per_s=progress.bytes_per_s,
                sources=progress.sources,
                stalled_s=progress.stalled_s,
                note=_stall(progress),
            )
            tell(told)

        for attempt in itertools.count():
            try:
                async with self._copying:
                    found = holders(view(), step.key, step.content)
                    if not found:
                        raise NoCandidate("no node that has it can be reached")
                    identity = identity_of(found, step.key, step.content)
                    await hands.copier().copy(step.model, identity, [node.id for node in found], hear)
                break
            except DistError as error:
                is_passing = error.retryable or isinstance(error, BlobLost)
                if not is_passing or self._clock() - reached_at > PATIENCE_S:
                    raise
                told = await self._wait(attempt, str(error), told, tell)
        await self._until(lambda: has(view().me, step.key, step.content), "listed")

    # Giving one up

    async def _delete(self, step: Step, tell: Tell) -> None:
        view, hands = self._hands.view, self._hands

        async def give_up() -> None:
            if hands.pinned(step.key):
                raise Pinned(f"{step.model.short} is pinned on {view().me.name}")
            hands.promises.give_up(step.key, is_forced=step.is_forced)
            keeper = None
            try:
                self._check_idle(step)
                if not step.is_forced:
                    keeper = await self._have_it_kept(step)
                await hands.copier().delete(step.model)
                await self._until(lambda: not has(view().me, step.key, step.content), "gone")
            finally:
                hands.promises.given_up(step.key)
            if keeper is not None:
                await self._end_promise(keeper, step.key)

        if has(view().me, step.key, step.content):
            await self._patiently(give_up, step, tell)

    async def _end_promise(self, keeper: NodeView, key: ModelKey) -> None:
        try:
            await self._hands.end_promise(keeper, key)
        except DistError as error:
            log.info("end_of_promise_not_told", node=keeper.name, error=str(error))  # it runs out by itself

    async def _have_it_kept(self, step: Step) -> NodeView:
        """Who promised to keep it. Raises `NotPromised`."""
        view = self._hands.view()
        asked = keepers(view, step.key, step.content, but=view.me.id)
        refusals = []
        for node in sorted(asked, key=lambda node: node.id != step.target):
            try:
                await self._hands.ask_to_keep(node, step.key, step.content)
            except DistError as error:
                refusals.append(f"{node.name}: {error}")
            else:
                return node
        why = "; ".join(refusals) or "no other node that stays has it"
        raise NotPromised(f"nobody promised to keep {step.model.short} ({why})")

    # In memory

    async def _load(self, step: Step, tell: Tell) -> None:
        view, hands = self._hands.view, self._hands

        async def load() -> None:
            if not has(view().me, step.key, step.content):
                raise NotInstalled(f"{view().me.name} does not have {step.model.short}")
            await hands.load(step.model)
            await self._until(lambda: step.key in view().me.loaded, "loaded")

        if step.key not in view().me.loaded:
            await self._patiently(load, step, tell)

    async def _unload(self, step: Step, tell: Tell) -> None:
        view, hands = self._hands.view, self._hands

        async def unload() -> None:
            self._check_idle(step)
            await hands.unload(step.model)
            await self._until(lambda: step.key not in view().me.loaded, "unloaded")

        if step.key in view().me.loaded:
            await self._patiently(unload, step, tell)

    def _check_idle(self, step: Step) -> None:
        active = self._hands.active(step.key)
        if active:
            raise InUse(f"requests run with it: {active}")

    async def _patiently(self, work: Callable[[], Awaitable[None]], step: Step, tell: Tell) -> None:
        """Try ``work`` again for a while where what is in the way may pass."""
        began = self._clock()
        for attempt in itertools.count():
            try:
                await work()
                break
            except DistError as error:
                is_passing = error.retryable or isinstance(error, NotPromised | InUse)
                if not is_passing or self._clock() - began > PATIENCE_S:
                    raise
                await self._wait(attempt, str(error), step, tell)

    async def _wait(self, attempt: int, why: str, step: Step, tell: Tell) -> Step:
        seconds = PAUSES_S[min(attempt, len(PAUSES_S) - 1)]
        waiting = replace(step.waiting(f"{why}; next try in {seconds:g} s"), bytes_per_s=0.0)
        tell(waiting)
        await self._pause(seconds)
        return waiting

    async def _until(self, is_so: Callable[[], bool], what: str) -> None:
        self._hands.nudge()
        for _ in range(round(SEEN_S / _STEP_S)):
            if is_so():
                return
            await asyncio.sleep(_STEP_S)
        log.warning("engine_slow_to_tell", what=what, waited_s=SEEN_S)


class Differs(DistError):
    """Another content stands under this name where it is to be; nothing was changed."""

    status = 409
    code = "content_differs"


class Pinned(DistError):
    """The model is to stay where it is; nothing was changed."""

    status = 409
    code = "pinned"


class NotInstalled(DistError):
    """What is to be loaded is not here; nothing was changed."""

    status = 409
    code = "not_installed"


class InUse(DistError):
    """Requests are being answered with it; nothing was changed."""

    status = 409
    code = "in_use"


def _stall(progress: Progress) -> str:
    return f"nothing has come for {progress.stalled_s:.0f} s" if progress.stalled_s else ""
