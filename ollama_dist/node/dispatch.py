"""The way of a request through this node: decide, attempt, and decide again until an answer has begun.

What decides is pure and lives in `scheduling`. Here is what it is told, what is done about it, and what is
learned from the end.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any, Final

import structlog

from ollama_dist.backends.http1 import Head, Header
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import Busy, DistError, NoCandidate, UpstreamFailed
from ollama_dist.core.ids import NodeId
from ollama_dist.core.modes import Mode
from ollama_dist.core.outcomes import Result
from ollama_dist.core.requests import UNLOAD, InferenceRequest, Priority
from ollama_dist.core.view import ClusterView, NodeView
from ollama_dist.node.answer_cache import LARGEST, AnswerCache, Asking, Kept
from ollama_dist.node.answers import Answer, AttemptFailed, begin
from ollama_dist.node.limits import OWNER_S
from ollama_dist.node.load import AT_ONCE, EngineLoad, OnPlace, Waited
from ollama_dist.node.loads import Loads
from ollama_dist.node.modes import Switches, effective_mode
from ollama_dist.node.notes import Asked, Notes
from ollama_dist.node.served import Held, Served, let_go
from ollama_dist.scheduling.decide import decide, unload_targets
from ollama_dist.scheduling.decision import Decision
from ollama_dist.scheduling.estimate import loaded_as_asked, service_s
from ollama_dist.scheduling.failover import GiveUp, RetryBudget, next_step
from ollama_dist.scheduling.filters import Conditions
from ollama_dist.scheduling.ledger import Ledger
from ollama_dist.scheduling.queue import Ticket
from ollama_dist.wire.places import read_place
from ollama_dist.wire.relay_headers import PRIORITY, QUEUE, REQUEST_ID

log = structlog.get_logger()

UNLOAD_S: Final = 5.0
"""How long the other nodes may take to be told to let a model go."""

REPLAYED: Final = ("Content-Type",)
"""Headers that a kept answer has again."""

_TELLING: Final = (
    Result.BUSY,
    Result.GAVE_OUT,
    Result.FAILED,
    Result.TIMEOUT,
    Result.REFUSED,
    Result.UNSUPPORTED,
    Result.MISSING,
    Result.REJECTED,
    Result.CANCELLED,
)
"""Of several failures the caller is told of the first in this order."""

_USUAL: Final = {mode: Conditions(mode) for mode in Mode}
"""What is so as long as nothing fails."""


class Dispatcher:
    """Serves requests for inference, those of clients over the whole cluster and those of peers from here.

    ``view``, ``switches`` and ``target`` are asked at every decision: the picture may have changed. How busy
    this node's own engine is does not have to be up to date in it: that ``load`` knows.
    ``target`` is None for a node whose address for relayed requests is unknown.
    """

    def __init__(
        self,
        *,
        view: Callable[[], ClusterView],
        switches: Callable[[], Switches],
        target: Callable[[NodeId], Target | None],
        load: EngineLoad,
        loads: Loads,
        cache: AnswerCache,
        rng: Random,
        clock: Callable[[], float],
        asked: Asked = lambda _model, _wait_s, _now: None,
    ) -> None:
        self._view = view
        self._switches = switches
        self._target = target
        self._load = load
        self._loads = loads
        self._rng = rng
        self.clock = clock
        self.budget = RetryBudget()
        self._ledger = Ledger()
        self._notes = Notes(load, loads, clock, asked)
        self.breakers = self._notes.breakers
        self.decisions = self._notes.decisions
        self.stats = self._notes.stats
        self.cache = cache

    def serve(
        self,
        request: InferenceRequest,
        headers: Sequence[Header],
        body: bytes,
        on_place: OnPlace | None = None,
        asking: Asking | None = None,
    ) -> Served:
        """``request``, to be answered by `begin` within a ``with`` block of what is returned.

        ``on_place`` hears how the wait for a slot goes. With ``asking`` the answer is kept, and a kept one
        given where none can be had. How it ended is noted when the block is left.
        """
        self.budget.begin()
        return Served(request, headers, body, on_place, asking, self.clock(), self.end)

    @asynccontextmanager
    async def serve_peer(
        self,
        request: InferenceRequest,
        headers: Sequence[Header],
        body: bytes,
        on_place: OnPlace | None = None,
    ) -> AsyncIterator[tuple[Answer, Waited]]:
        """An answer from this node's own engine to a request another node decided to send here.

        It is never sent on. Raises `AttemptFailed`, for the other node to decide again.
        """
        me = self._view().me
        self.stats.relayed_in += 1
        held: Held = []
        try:
            model = request.model
            service = service_s(request, model, me, self._notes.rates) if model is not None else 0.0
            target, ticket = self._own_slot(request, me.id, service)
            waited = AT_ONCE if ticket is None or ticket.runs else await self._turn(ticket, on_place)
            held.append(partial(self._load.leave, ticket))
            answer = await self._begin_here(target, request, headers, body, _must_load(request, me))
            held.append(answer.close)
            headers, body = (), b""  # sent, and not to be kept for as long as the answer lasts
            yield answer, waited
            if answer.result is Result.OK:
                self._notes.learn(me, request, answer.usage, is_own=True)
        except AttemptFailed as failed:
            self.stats.refused_in += failed.result in (Result.BUSY, Result.REFUSED)
            raise
        finally:
            let_go(held)

    def forget(self, node: NodeId) -> None:
        """Drop what was learned of a node that is gone for good."""
        self._notes.forget(node)
        self._ledger.forget(node)

    # Deciding and attempting

    def begin(self, served: Served) -> Coroutine[Any, Any, Answer]:
        """An answer that has begun at the best place that would give one, to be read to its end.

        It is ``served.answer`` from then on. Raises `NoCandidate`, `Busy`, `UpstreamFailed`, and for pins
        `NodeNotFound` or `ModelNotFound`.
        """
        return (
            self._answer(served) if served.asking is None else self._answer_or_recall(served, served.asking)
        )

    async def _answer_or_recall(self, served: Served, asking: Asking) -> Answer:
        """An answer of now, or else one that was kept."""
        try:
            answer = await self._answer(served)
        except DistError as error:
            if not error.retryable or (kept := self._recall(served, asking)) is None:
                raise
            answer = kept
        else:
            if served.is_refusal and answer.status >= 500:
                answer = self._recall(served, asking) or answer
        answer.keep_copy(LARGEST)
        return answer

    def _recall(self, served: Served, asking: Asking) -> Answer | None:
        """What was kept, if something was and may be given."""
        request, view = served.request, self._view()
        holders = view.holders.get(request.model, ()) if request.model is not None else ()
        if request.model is None or not holders or not self._switches().fallback:
            return None
        # The holders may all be gone: what they were last known to have is what the name stands for.
        here = view.serving_holders(request.model) or [view.nodes[node] for node in holders]
        meant = view.content(request.model, here).digest
        now = self.clock()
        kept = self.cache.get(asking.about(request, meant), now)
        if kept is None:
            return None
        served.kept_s, served.node, served.is_refusal = now - kept.at, None, False
        answer = Answer(Head(kept.status, kept.headers), kept.body)
        self._begun(served, answer)
        return answer

    def _keep(self, served: Served, asking: Asking) -> None:
        """Keep an answer that ended well for the day when there is none."""
        request, answer, node = served.request, served.answer, served.node
        if answer is None or node is None or served.is_refusal or answer.result is not Result.OK:
            return
        model = node.models.get(request.model) if request.model is not None else None
        copy = answer.copy
        if model is not None and copy is not None:
            headers = tuple((name.lower(), value) for name, value in answer.headers if name in REPLAYED)
            kept = Kept(answer.status, headers, copy, request.model, self.clock())
            self.cache.put(asking.about(request, model.digest), kept)

    async def _answer(self, served: Served) -> Answer:
        """The first answer that begins; what it needs stays in ``served.held``."""
        failures: list[AttemptFailed] = []
        while True:
            view = self._view()
            try:
                decision = self._decide(served, view)
            except NoCandidate:
                if not failures:
                    raise
                answer = self._surrender(served, failures)
                break
            node = view.nodes[decision.winner]
            if served.request.intent is UNLOAD:
                await self._unload_elsewhere(served, node.id)
            try:
                is_own = node.id == view.self_id
                answer = await (self._here(served, node, decision) if is_own else self._there(served, node))
                served.node = node
                break
            except AttemptFailed as failed:
                let_go(served.held)
                served.waited = None
                self._notes.failed(served, node, failed)
                failures.append(failed)
                step = next_step(served.attempts, fallback=self._switches().fallback)
                if isinstance(step, GiveUp) or (step.costs and not self._take_retry(served)):
                    answer = self._surrender(served, failures)
                    break
        self._begun(served, answer)
        return answer

    def _begun(self, served: Served, answer: Answer) -> None:
        served.answer = answer
        served.headers, served.body = (), b""  # sent, and not to be kept for as long as the answer lasts
        served.first_byte_s = self.clock() - served.began

    async def _here(self, served: Served, me: NodeView, decision: Decision) -> Answer:
        """An answer of this node's own engine; raises `AttemptFailed`."""
        request, expected = served.request, decision.expected
        target, ticket = self._own_slot(request, me.id, 0.0 if expected is None else expected.service_s)
        if ticket is None or ticket.runs:
            served.waited = AT_ONCE
            must_load = expected is not None and expected.load_s > 0 and _must_load(request, me)
        else:
            served.waited = await self._turn(ticket, served.on_place)
            must_load = _must_load(request, self._view().me)
        served.held.append(partial(self._load.leave, ticket))
        answer = await self._begin_here(target, request, served.headers, served.body, must_load)
        if not answer.is_whole:
            served.held.append(answer.close)
        return answer

    async def _there(self, served: Served, node: NodeView) -> Answer:
        """An answer that a peer's engine gives; raises `AttemptFailed`."""
        request, on_place = served.request, served.on_place
        answer = await begin(
            self._lease(node, served.held),
            request,
            (*served.headers, *_for_owner(request, on_place)),
            served.body,
            patience_s=OWNER_S,
            on_interim=_heard(on_place),
        )
        served.held.append(answer.close)
        return answer

    def _decide(self, served: Served, view: ClusterView) -> Decision:
        switches = self._switches()
        served.mode = effective_mode(switches, view)
        decision = decide(
            served.request,
            view,
            self._notes.rates,
            self._ledger,
            self._conditions(view, served),
            self._rng,
            self._load.in_flight,
        )
        if served.decision is None:
            self._notes.decided(served, decision, view)
        return decision

    def _conditions(self, view: ClusterView, served: Served) -> Conditions:
        mode = served.mode.mode
        if self.breakers.are_closed and not served.attempts:
            return _USUAL[mode]
        circuits = self.breakers.not_closed(view.nodes, self.clock())
        tried = {attempt.node: attempt.result for attempt in served.attempts}
        return Conditions(mode, circuits, tried)

    def _take_retry(self, served: Served) -> bool:
        allowed = self.budget.take()
        served.retries += allowed
        return allowed

    def _surrender(self, served: Served, failures: Sequence[AttemptFailed]) -> Answer:
        """No place gave an answer: take a place's own words for one where it had some, else raise."""
        telling = min(failures, key=_told_after)
        if telling.said is not None:
            place = served.attempts[failures.index(telling)].node
            served.node, served.is_refusal = self._view().nodes.get(place), True
            return telling.said
        if telling.result is Result.BUSY:
            raise Busy(str(telling)) from telling
        tried = (f"{self._name(each.node)}: {each.detail or each.result}" for each in served.attempts)
        raise UpstreamFailed(
            f"{served.request.model_text!r} could not be served ({'; '.join(tried)})"
        ) from telling

    def _lease(self, node: NodeView, held: Held) -> Target:
        """The right to send one request to a peer, as long as ``held``; raises `AttemptFailed`."""
        target = self._way_to(node.id)
        self._ledger.sent(node)
        held.append(lambda: self._ledger.ended(self._view().nodes.get(node.id, node)))
        return target

    def _own_slot(
        self, request: InferenceRequest, me: NodeId, service_s: float
    ) -> tuple[Target, Ticket | None]:
        """A slot of this node's own engine, or a place in the queue for one; raises `AttemptFailed`."""
        target = self._way_to(me)
        try:
            return target, self._load.enter(request, service_s)
        except Busy as busy:
            raise AttemptFailed(Result.BUSY, str(busy)) from busy

    async def _turn(self, ticket: Ticket, on_place: OnPlace | None) -> Waited:
        try:
            return await self._load.wait(ticket, on_place)
        except Busy as busy:
            raise AttemptFailed(Result.BUSY, str(busy)) from busy

    def _begin_here(
        self,
        target: Target,
        request: InferenceRequest,
        headers: Sequence[Header],
        body: bytes,
        must_load: bool,
    ) -> Coroutine[Any, Any, Answer]:
        beginning = begin(target, request, headers, body)
        return self._loads.begin(request, beginning) if must_load else beginning

    def _way_to(self, node: NodeId) -> Target:
        target = self._target(node)
        if target is None:
            raise AttemptFailed(Result.REFUSED, "nothing is known to take relayed requests there")
        if not self.breakers.are_closed:
            self.breakers.begin(node, self.clock())
        return target

    async def _unload_elsewhere(self, served: Served, winner: NodeId) -> None:
        """Tell every other node that has the model in memory; one that does not hear it lets go by itself."""
        request = served.request
        if request.model is None or request.pin is not None:
            return
        view = self._view()
        conditions = self._conditions(view, served)
        others = [node for node in unload_targets(request.model, view, conditions) if node != winner]

        async def unload(node: NodeId) -> None:
            target = self._target(node)
            if target is None:
                return
            try:
                async with asyncio.timeout(UNLOAD_S):
                    (await begin(target, request, served.headers, served.body)).close()
            except (AttemptFailed, TimeoutError) as error:
                log.warning("unload_failed", node=self._name(node), error=str(error))

        await asyncio.gather(*(unload(node) for node in others))

    def end(self, served: Served, error: BaseException | None) -> None:
        """The request is over; ``error`` is what ended it, if something did."""
        let_go(served.held)
        if error is not None:
            served.was_left = isinstance(error, asyncio.CancelledError) and served.answer is None
        elif served.asking is not None:
            self._keep(served, served.asking)
        self.budget.end(served.retries)
        self._notes.ended(served, error)

    def _name(self, node: NodeId) -> str:
        known = self._view().nodes.get(node)
        return known.name if known else node


def _must_load(request: InferenceRequest, me: NodeView) -> bool:
    """Whether the engine of ``me`` has to bring a model of its own into memory for this."""
    model = request.model
    if model is None or model not in me.models or request.intent is UNLOAD or request.local_only:
        return False
    is_elsewhere = bool(me.models[model].row.get("remote_host"))
    return not is_elsewhere and loaded_as_asked(request, model, me) is None


def _told_after(failed: AttemptFailed) -> int:
    """A peer may name a result that ends no attempt of ours; then its words come last, but they are told."""
    return _TELLING.index(failed.result) if failed.result in _TELLING else len(_TELLING)


def _for_owner(request: InferenceRequest, on_place: OnPlace | None) -> list[Header]:
    """What the node that owns the engine has to know beside the request itself."""
    said: list[Header] = []
    if request.priority is not Priority.NORMAL:
        said.append((PRIORITY, request.priority))
    if on_place is not None:
        said.append((QUEUE, "1"))
    said.append((REQUEST_ID, str(request.id)))  # it is looked for at the end
    return said


def _heard(on_place: OnPlace | None) -> Callable[[Head], None] | None:
    if on_place is None:
        return None

    def hear(interim: Head) -> None:
        place = read_place(interim.get(QUEUE) or "")
        if place is not None:
            on_place(place)

    return hear
