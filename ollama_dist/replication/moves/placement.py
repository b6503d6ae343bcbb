"""What this node should fetch or give up by itself. Pure: the same picture gives every node the same answer.

Each node plans for itself only. All rank the nodes that could take a copy in the same order, so from one
picture only those act that are first in it; pictures that differ for a moment are what intents, promises
and `GRACE_S` are for. A copy is given up only where a policy says there are too many or, where the disk is
short, that the others are enough; and where placement itself had put it there: what a person pulled and said
nothing of, no calculation takes away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Final

from ollama_dist.core.ids import NodeId
from ollama_dist.core.names import ModelKey, parse_model_name
from ollama_dist.core.view import ClusterView, EngineKind, MemberState, NodeView
from ollama_dist.replication.moves.demand import Demand
from ollama_dist.replication.moves.holders import content_of, has, holders, keepers
from ollama_dist.replication.moves.operations import Action
from ollama_dist.replication.moves.planning import fits_in_memory, room_for
from ollama_dist.replication.moves.policies import Policy, policy_for
from ollama_dist.replication.moves.spare import Spare, spares

GRACE_S: Final = 600.0
"""A node that is gone for less still counts as a holder: most come back, and a copy takes minutes."""

HORIZON_S: Final = 600.0
"""A copy is worth the waiting it saves in so long."""

MARGIN: Final = 2.0
"""And it has to be worth so many times what it costs: what is fetched today is not given up tomorrow."""

COPY_BYTES_PER_S: Final = 100e6
"""What a copy is reckoned to take: a full gigabit."""

GIB: Final = 2**30

NO_POLICY: Final = Policy("*", min=0)
"""Nobody said anything: nothing is added or taken away for the number of copies."""


@dataclass(frozen=True)
class Picture:
    """Everything the decision looks at."""

    view: ClusterView
    now: float
    """Unix time by this node's clock, as `NodeView.since` is."""
    policies: Sequence[Policy] = ()
    demand: Mapping[ModelKey, Demand] = field(default_factory=dict)
    """Of the whole cluster."""
    intents: Mapping[NodeId, Mapping[ModelKey, Action]] = field(default_factory=dict)
    """What nodes say they are about to do."""
    placed_here: frozenset[ModelKey] = frozenset()
    """The copies that placement has put on this node."""
    reserve: int = 0
    """Bytes of disk that stay free on every node."""
    by_demand: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """One thing this node should do."""

    action: Action
    model: ModelKey
    content: str
    size: int
    reason: str
    source: NodeId | None = None
    """A holder."""
    first: tuple["Wish", ...] = ()
    """What is given up before, to make room."""


def plan(picture: Picture) -> list[Wish]:
    """What this node should do, the most urgent first; one at a time is enough."""
    me = picture.view.me
    if not me.can_serve or me.engine.kind is EngineKind.NONE or me.draining:
        return []
    fetched, dropped = [], []
    for key in sorted(picture.view.holders):
        if picture.view.is_in_conflict(key):
            continue  # nobody knows which content is meant
        stand = _standing(picture, key)
        if stand.there:
            fetched += _fetch(picture, stand)
            dropped += _drop(picture, stand)
    return [*fetched, *dropped, *_relieve(picture)]


@dataclass(frozen=True)
class _Standing:
    """How it is with one model."""

    key: ModelKey
    policy: Policy
    there: list[NodeView]
    """Those that can give it now."""
    staying: list[NodeView]
    """Those that have it and keep it, each store once."""
    coming: set[NodeId]
    """Those that are fetching it."""
    away: int
    """Holders that may be back soon."""

    @property
    def content(self) -> str:
        return content_of(self.there[0].models[self.key])

    @property
    def size(self) -> int:
        return self.there[0].models[self.key].size


def _standing(picture: Picture, key: ModelKey) -> _Standing:
    there = holders(picture.view, key)
    intents = {node: wanted[key] for node, wanted in picture.intents.items() if key in wanted}
    staying: dict[str, NodeView] = {}
    for node in there:
        if not node.draining and intents.get(node.id) is not Action.DELETE:
            staying.setdefault(node.store or node.id, node)
    held = {node.id for node in there}
    away = [
        node
        for node in picture.view.nodes.values()
        if key in node.models and node.id not in held and _may_be_back(node, picture.now)
    ]
    coming = {
        node
        for node, action in intents.items()
        if action is Action.COPY and node not in held and _is_alive(picture.view, node)
    }
    return _Standing(
        key, policy_for(picture.policies, key) or NO_POLICY, there, list(staying.values()), coming, len(away)
    )


def _fetch(picture: Picture, stand: _Standing) -> list[Wish]:
    me, policy = picture.view.me, stand.policy
    room = _room(me, stand, picture)
    if room is None:
        return []

    def wish(reason: str) -> list[Wish]:
        source = stand.there[0].id
        return [Wish(Action.COPY, stand.key, stand.content, stand.size, reason, source, _drops(room, stand))]

    if me.id in policy.pinned:
        return wish("pinned here")
    count = len(stand.staying) + len(stand.coming) + stand.away
    lacking = policy.min - count
    if lacking > 0 and me.id in _first(picture, stand, lacking):
        return wish(f"{len(stand.staying)} of at least {policy.min} copies")
    has_room_for_more = policy.max is None or count < policy.max
    if not picture.by_demand or stand.coming or stand.away or not has_room_for_more:
        return []
    wanted = picture.demand.get(stand.key)
    if wanted is None or me.id not in _first(picture, stand, 1):
        return []
    saved = wanted.per_s * HORIZON_S * wanted.wait_s / (count + 1)
    cost = _cost(stand.size)
    lost = sum(_worth(picture, spare) for spare in room)
    if saved <= MARGIN * (cost + lost):
        return []
    return wish(f"{saved:.0f} s of waiting saved in {HORIZON_S / 60:.0f} min, {cost + lost:.0f} s to copy")


def _drop(picture: Picture, stand: _Standing) -> list[Wish]:
    """Of too many copies one goes at a time: that of the last in the order, if it can."""
    me, policy = picture.view.me, stand.policy
    if policy.max is None or len(stand.staying) <= max(policy.max, policy.min, 1):
        return []
    if any(action is Action.DELETE for action in _actions(picture, stand.key)):
        return []
    free = [node for node in stand.staying if _can_spare(node, stand)]
    # By the hash alone: free disk changes while it is told, and two would each think themselves the last.
    order = sorted(free, key=lambda node: _hash(node, stand.key), reverse=True)
    if not order or order[0].id != me.id:
        return []
    reason = f"{len(stand.staying)} copies, at most {policy.max} wanted"
    return [Wish(Action.DELETE, stand.key, stand.content, stand.size, reason)]


def _relieve(picture: Picture) -> list[Wish]:
    """Where the disk is short: a copy that placement put here, the least asked for first."""
    me, view = picture.view.me, picture.view
    free = me.resources.disk_free_bytes
    if free is None or free >= picture.reserve:
        return []

    def can_go(key: ModelKey) -> bool:
        policy = policy_for(picture.policies, key) or NO_POLICY
        others = keepers(view, key, content_of(me.models[key]), but=me.id)
        is_spare = me.id not in policy.pinned and not _is_in_use(me, key)
        return is_spare and len(others) >= max(policy.min, 1) and not view.is_in_conflict(key)

    def worth(key: ModelKey) -> tuple[float, ModelKey]:
        wanted = picture.demand.get(key)
        return (wanted.per_s * wanted.wait_s if wanted else 0.0), key

    spare = sorted((key for key in picture.placed_here if key in me.models and can_go(key)), key=worth)
    return [
        Wish(Action.DELETE, key, content_of(me.models[key]), me.models[key].size, "the disk is short")
        for key in spare[:1]
    ]


def _first(picture: Picture, stand: _Standing, count: int) -> set[NodeId]:
    """Those of all nodes that should take a copy."""
    able = []
    for node in picture.view.nodes.values():
        room = None if node.id in stand.coming else _room(node, stand, picture)
        if room is not None:
            able.append((bool(room), _rank(node, stand.key), node.id))
    return {node for _, _, node in sorted(able)[:count]}


def _room(node: NodeView, stand: _Standing, picture: Picture) -> list[Spare] | None:
    """What the node has to give up to take a copy, mostly nothing; None where it cannot take one."""
    if not node.can_serve or node.draining or node.engine.kind is EngineKind.NONE or has(node, stand.key):
        return None
    if node.store and any(node.store == holder.store for holder in stand.there):
        return None
    if not fits_in_memory(node, stand.size):
        return None
    given_up: list[Spare] = []

    def lacks(spares: Sequence[Spare]) -> bool:
        return bool(room_for(node, stand.size, picture.reserve, sum(spare.size for spare in spares)))

    waiting = iter(_cold(picture, node)) if lacks(given_up) else iter(())
    while lacks(given_up):
        spare = next(waiting, None)
        if spare is None:
            return None
        given_up.append(spare)
    for spare in list(given_up):
        rest = [each for each in given_up if each is not spare]
        if not lacks(rest):
            given_up = rest
    return given_up


def _cold(picture: Picture, node: NodeView) -> list[Spare]:
    """The copies that may make room for another, those that would be missed least first.

    Placement has put them there, or a policy says how many are enough. What would be worth copying again
    is not among them, nor what another node is giving up at this moment.
    """
    is_me = node.id == picture.view.self_id

    def least(key: ModelKey) -> int:
        return (policy_for(picture.policies, key) or NO_POLICY).min

    def may_go(spare: Spare) -> bool:
        policy = policy_for(picture.policies, spare.key)
        is_ours = policy is not None or (is_me and spare.key in picture.placed_here)
        is_pinned = policy is not None and node.id in policy.pinned
        is_shrinking = any(action is Action.DELETE for action in _actions(picture, spare.key))
        is_missed = _worth(picture, spare) > _cost(spare.size)
        return is_ours and not is_pinned and not is_shrinking and not is_missed

    found = filter(may_go, spares(picture.view, node, least))
    return sorted(found, key=lambda spare: (_worth(picture, spare), -spare.size, spare.key))


def _worth(picture: Picture, spare: Spare) -> float:
    """Seconds of waiting within the horizon that this copy saves."""
    wanted = picture.demand.get(spare.key)
    return wanted.per_s * HORIZON_S * wanted.wait_s / (len(spare.others) + 1) if wanted else 0.0


def _cost(size: int) -> float:
    """Seconds to copy it."""
    return size / COPY_BYTES_PER_S


def _drops(room: Sequence[Spare], stand: _Standing) -> tuple[Wish, ...]:
    model = parse_model_name(stand.there[0].models[stand.key].name).short
    return tuple(
        Wish(
            Action.DELETE,
            spare.key,
            spare.content,
            spare.size,
            f"makes room for {model}; also on {', '.join(spare.others)}",
        )
        for spare in room
    )


def _can_spare(node: NodeView, stand: _Standing) -> bool:
    return node.id not in stand.policy.pinned and not _is_in_use(node, stand.key)


def _is_in_use(node: NodeView, key: ModelKey) -> bool:
    return key in node.loaded


def _rank(node: NodeView, key: ModelKey) -> tuple[int, bytes]:
    """The order in which nodes take a copy: by free disk in powers of two, then by rendezvous hashing."""
    room = (node.resources.disk_free_bytes or 0) // GIB
    return -room.bit_length(), _hash(node, key)


def _hash(node: NodeView, key: ModelKey) -> bytes:
    return blake2b(f"{key} {node.id}".encode(), digest_size=8).digest()


def _actions(picture: Picture, key: ModelKey) -> list[Action]:
    return [
        wanted[key]
        for node, wanted in picture.intents.items()
        if key in wanted and node != picture.view.self_id and _is_alive(picture.view, node)
    ]


def _is_alive(view: ClusterView, node: NodeId) -> bool:
    return node in view.nodes and view.nodes[node].is_routable


def _may_be_back(node: NodeView, now: float) -> bool:
    """A holder that cannot be asked this moment, but may be in a while."""
    if node.state is MemberState.LEFT:
        return False
    return node.state is not MemberState.DEAD or now - node.since < GRACE_S
