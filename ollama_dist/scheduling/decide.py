"""The one decision: which node answers this request. Pure.

Candidates come from the view, filters take out what is impossible, estimates turn the rest into seconds, and
a picker chooses among the near-equal at random: nodes that decide at the same moment on the same stale news
must not all decide alike.
"""

from collections.abc import Sequence
from random import Random
from typing import Final

from ollama_dist.core.errors import BadRequest, ModelNotFound, NoCandidate
from ollama_dist.core.ids import NodeId
from ollama_dist.core.labels import PIN_PREFIX, Wanted
from ollama_dist.core.names import ModelKey
from ollama_dist.core.requests import InferenceRequest
from ollama_dist.core.view import ClusterView, NodeView
from ollama_dist.scheduling.decision import Candidate, Decision, Rejection, Stage
from ollama_dist.scheduling.estimate import Holding, estimate
from ollama_dist.scheduling.filters import (
    Conditions,
    reject,
    reject_for_labels,
    reject_for_model,
    suspects_last,
)
from ollama_dist.scheduling.ledger import Ledger
from ollama_dist.scheduling.rates import Rates

FRESH_S: Final = 1.0
"""News of a node's load that is older is stale."""

FRESH_BAND: Final = 0.10
STALE_BAND: Final = 0.30
"""Candidates whose score is within this part of the best are as good as it, for all one can know."""

_SCORED: Final = Stage.SCORED

TIE_PART: Final = 0.05
TIE_S: Final = 0.020
"""Two estimates closer than this are equal."""


def decide(
    request: InferenceRequest,
    view: ClusterView,
    rates: Rates,
    ledger: Ledger,
    conditions: Conditions,
    rng: Random,
    own_load: int | None = None,
) -> Decision:
    """The node to send ``request`` to, with all that was looked at.

    ``own_load`` is how many requests this node's engine has, where that is known better than ``view`` has it.
    Where nobody is known to have the model, some engine is asked all the same: it knows the right words.
    Raises `NoCandidate` when nothing can be done now, and for a pin `NodeNotFound`, `ModelNotFound` or
    `BadRequest`.
    """
    wanted, model = None, request.model
    if request.pin is not None and (wanted := _wanted(request)) is None:
        return _pinned(request, view, rates, ledger, conditions, own_load)
    if model is None:
        return _ask_any_engine(view, conditions, wanted)
    usable, rejected = _usable(model, request.local_only, view, conditions, wanted)
    if not usable:
        if not rejected:
            return _ask_any_engine(view, conditions, wanted)
        raise NoCandidate(_nobody(request, view, rejected))
    if len(usable) == 1:  # no choice: as usual
        winner = _candidate(request, usable[0], rates, ledger, own_load)
        candidates: tuple[Candidate, ...] = (winner,)
    else:
        candidates = _rank(request, usable, rates, ledger, own_load)
        winner = _pick(candidates, view, rng)
    return Decision(winner.node, _SCORED, winner.reason, candidates, rejected, winner)


_Sifted = tuple[Sequence[Holding], tuple[Rejection, ...]]


def _usable(
    key: ModelKey, local_only: bool, view: ClusterView, conditions: Conditions, wanted: Wanted | None
) -> _Sifted:
    """The holders that may serve the model, and why others may not; neither where there are no holders.

    Nearly all requests for a model find the same as long as the picture is the same.
    """
    if wanted is not None or conditions.circuits or conditions.tried:
        return _sifted(key, local_only, view, conditions, wanted)
    question = key, local_only, conditions.mode
    known: _Sifted | None = view.worked_out.get(question)
    if known is None:
        known = _sifted(key, local_only, view, conditions, None)
        if known[0]:  # callers can invent names of models
            view.worked_out[question] = known
    return known


def _sifted(
    key: ModelKey, local_only: bool, view: ClusterView, conditions: Conditions, wanted: Wanted | None
) -> _Sifted:
    nodes = [view.me] if local_only else view.nodes.values()
    holders = [node for node in nodes if key in node.models]
    open_to_us, rejected = _sift(holders, view, conditions, wanted)
    fitting, unfit = _fitting(key, open_to_us, view) if open_to_us else ([], [])
    usable, doubtful = suspects_last(fitting)
    holdings = [Holding.of(key, node, is_self=node.id == view.self_id) for node in usable]
    return holdings, (*rejected, *unfit, *doubtful)


def _wanted(request: InferenceRequest) -> Wanted | None:
    """The labels a request asks for in place of a node. Raises `BadRequest`."""
    if request.pin is None or not request.pin.startswith(PIN_PREFIX):
        return None
    try:
        return Wanted.parse(request.pin)
    except ValueError as error:
        raise BadRequest(f"X-Ollama-Node: {error}") from error


def _pinned(
    request: InferenceRequest,
    view: ClusterView,
    rates: Rates,
    ledger: Ledger,
    conditions: Conditions,
    own_load: int | None,
) -> Decision:
    node = view.find(request.pin or "")
    rejection = reject(node, view, conditions)
    if rejection is not None:
        raise NoCandidate(f"node {node.name!r} was asked for by name, but it {rejection.reason}")
    if request.model is not None and request.model not in node.models:
        raise ModelNotFound(
            f"node {node.name!r} was asked for by name, but it does not have {request.model_text!r}"
        )
    if request.model is None:
        return Decision(node.id, Stage.PINNED, "asked for by name", ())
    holding = Holding.of(request.model, node, is_self=node.id == view.self_id)
    only = _candidate(request, holding, rates, ledger, own_load)
    return Decision(node.id, Stage.PINNED, "asked for by name", (only,), expected=only)


def _ask_any_engine(view: ClusterView, conditions: Conditions, wanted: Wanted | None) -> Decision:
    nodes = sorted(view.nodes.values(), key=lambda node: node.id != view.self_id)
    open_to_us, rejected = _sift(nodes, view, conditions, wanted)
    if not open_to_us:
        raise NoCandidate(f"no engine answers: {_reasons(view, rejected)}")
    return Decision(
        open_to_us[0].id,
        Stage.SCORED,
        "nobody is known to have it: an engine has the right words",
        (),
        tuple(rejected),
    )


def _sift(
    nodes: Sequence[NodeView], view: ClusterView, conditions: Conditions, wanted: Wanted | None
) -> tuple[list[NodeView], list[Rejection]]:
    kept, rejected = [], []
    for node in nodes:
        rejection = reject_for_labels(node, wanted) if wanted else None
        rejection = rejection or reject(node, view, conditions)
        if rejection is None:
            kept.append(node)
        else:
            rejected.append(rejection)
    return kept, rejected


def _fitting(
    key: ModelKey, holders: Sequence[NodeView], view: ClusterView
) -> tuple[list[NodeView], list[Rejection]]:
    """Those that hold what the name stands for here (see `ClusterView.content`) and could load it."""
    meant = view.content(key, view.serving_holders(key) or holders)
    fitting, unfit = [], []
    for node in holders:
        rejection = reject_for_model(node, key, meant)
        if rejection is None:
            fitting.append(node)
        else:
            unfit.append(rejection)
    return fitting, unfit


def _rank(
    request: InferenceRequest,
    holdings: Sequence[Holding],
    rates: Rates,
    ledger: Ledger,
    own_load: int | None,
) -> tuple[Candidate, ...]:
    candidates = (_candidate(request, holding, rates, ledger, own_load) for holding in holdings)
    return tuple(sorted(candidates, key=lambda candidate: candidate.score))


def _candidate(
    request: InferenceRequest, holding: Holding, rates: Rates, ledger: Ledger, own_load: int | None
) -> Candidate:
    if not holding.is_self:
        ahead = ledger.in_flight(holding.node)
    else:
        ahead = holding.node.load.in_flight if own_load is None else own_load
    return estimate(request, holding, ahead, rates)


def _pick(candidates: tuple[Candidate, ...], view: ClusterView, rng: Random) -> Candidate:
    """This node where it is one of the best and free, else the better of two random ones of the best."""
    best = candidates[0]
    own = next((candidate for candidate in candidates if candidate.node == view.self_id), None)
    if own is not None and _equal(own, best) and not own.wait_s and not own.load_s:
        return own
    near = [candidate for candidate in candidates if candidate.score <= _reach(best, candidate, view)]
    if len(near) == 1:
        return best
    one, other = rng.sample(near, 2)
    if _equal(one, other):
        return one
    return min(one, other, key=lambda candidate: candidate.score)


def _reach(best: Candidate, candidate: Candidate, view: ClusterView) -> float:
    ages = (view.nodes[each.node].age_s for each in (best, candidate) if each.node != view.self_id)
    band = STALE_BAND if any(age > FRESH_S for age in ages) else FRESH_BAND
    return best.score * (1 + band) + TIE_S


def _equal(one: Candidate, other: Candidate) -> bool:
    low, high = sorted((one.score, other.score))
    return high <= low * (1 + TIE_PART) + TIE_S


def unload_targets(key: ModelKey, view: ClusterView, conditions: Conditions) -> list[NodeId]:
    """Every node that has the model in memory and can be told to let it go."""
    holders = (node for node in view.nodes.values() if key in node.loaded)
    return [node.id for node in holders if reject(node, view, conditions) is None]


def _nobody(request: InferenceRequest, view: ClusterView, rejected: Sequence[Rejection]) -> str:
    return f"no node can serve {request.model_text!r} now: {_reasons(view, rejected)}"


def _reasons(view: ClusterView, rejected: Sequence[Rejection]) -> str:
    return "; ".join(f"{view.nodes[each.node].name} {each.reason}" for each in rejected) or "there is none"
