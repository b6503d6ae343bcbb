"""One running node: its engine, its membership, its picture of the cluster, its dispatcher."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import SystemRandom
from typing import Any, Final

import structlog

from ollama_dist import __version__
from ollama_dist.backends.local import LocalEngine
from ollama_dist.backends.target import Security, Target
from ollama_dist.core.contexts import ContextRule, pinned_context
from ollama_dist.core.errors import NoCandidate
from ollama_dist.core.ids import NodeId
from ollama_dist.core.labels import Label
from ollama_dist.core.modes import Mode
from ollama_dist.core.names import ModelKey, ModelName
from ollama_dist.core.view import (
    ClusterView,
    EngineKind,
    EngineState,
    InstalledModel,
    Load,
    LoadedModel,
    MemberState,
    NodeView,
    Resources,
    Standing,
)
from ollama_dist.gossip.protocol.effects import MemberView
from ollama_dist.node.announce import Cold, Hot
from ollama_dist.node.announcer import Announcer
from ollama_dist.node.answer_cache import AnswerCache
from ollama_dist.node.cluster import Cluster
from ollama_dist.node.cluster_view import ViewStore
from ollama_dist.node.dispatch import Dispatcher
from ollama_dist.node.load import EngineLoad
from ollama_dist.node.loads import Loads
from ollama_dist.node.modes import Switches, effective_mode
from ollama_dist.node.mover import Mover
from ollama_dist.node.moves import MoveOptions, Moves
from ollama_dist.node.reports import Reach
from ollama_dist.node.telemetry import Telemetry
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.disk.keeper import Keeper
from ollama_dist.replication.disk.store import StoreUnreadable
from ollama_dist.replication.intake.lending import Lender
from ollama_dist.replication.moves import memory
from ollama_dist.replication.pulls.pulling import Pulling
from ollama_dist.replication.pulls.turns import Turns
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

REFRESH_S: Final = 1.0
"""How often the picture is renewed when nothing happens: ages go on."""

TELEMETRY_S: Final = 5.0

ANNOUNCE_S: Final = 0.01
"""How long a change of the load waits for others; members are told at most every few tenths of a second."""

FIRST_LOOK_S: Final = 0.3
"""How long a starting node waits to see its engine before it tells the others: a load is told only so often,
and theirs would be that nothing can be sent here."""


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """What a node is told about itself."""

    id: NodeId
    name: str
    max_queue: int
    switches: Switches
    labels: tuple[Label, ...] = ()
    """What the operator says of it, for requests to choose by."""
    contexts: tuple[ContextRule, ...] = ()
    """Context lengths that are pinned."""
    cached_routes: frozenset[str] = frozenset()
    """Where answers are kept without being asked to."""
    splice: bool = True
    """Whether streams run straight from connection to connection."""
    cache_bytes: int = 64 * 2**20
    cache_age_s: float = 3600.0
    moves: MoveOptions = field(default_factory=MoveOptions)


class Node:
    """Everything a front needs, and nothing of how requests come in."""

    def __init__(
        self,
        options: NodeOptions,
        engine: LocalEngine,
        cluster: Cluster,
        secure: Callable[[NodeId], Security | None],
        keeper: Keeper | None = None,
    ) -> None:
        self.engine = engine
        self.keeper = keeper
        self.mover: Mover | None = None
        """What brings models onto this node; set before `start`. None: nothing does."""
        self.cluster = cluster
        self.switches = options.switches
        self.listen = ""
        """Where clients connect; for reports."""
        self.reach = Reach.MACHINE
        """Which clients can; for reports."""
        self.on_moved: Callable[[], Awaitable[None]] | None = None
        """Called when the node is in another cluster than before, with other certificates."""
        self.options = options
        self._secure = secure
        self._standing = Standing()
        self._labels = {label.name: label.value for label in options.labels}
        self._relay_port = 0
        self._resources = Resources()
        self._telemetry = Telemetry()
        self._is_draining = False
        self._began = time.monotonic()
        self._since = time.time()
        self._targets: dict[NodeId, Target] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._is_engine_seen = asyncio.Event()
        self._loaded: tuple[object, int, Mapping[ModelKey, LoadedModel]] | None = None
        """Made of the engine's list and this version of what is known beside it."""
        self._is_stale = False
        """Our own load has changed since the picture was made."""
        self._announcing: asyncio.TimerHandle | None = None
        self._load = EngineLoad(
            engine.slots, options.max_queue, self._load_changed, time.monotonic, width=engine.width
        )
        self._loads = Loads(lambda: self.view().me, engine.nudge)
        self._models: Mapping[ModelKey, InstalledModel] = {}
        self._models_of: tuple[object, int] | None = None
        """The engine's list and the keeper's version that they were made of."""
        self.moves = Moves(self, options.moves, engine.nudge, self._renew_self, self._announce_state)
        self._views = ViewStore(cluster.id, self._myself())
        self._announcer = Announcer(cluster.set_load, cluster.set_state)
        self.dispatcher = Dispatcher(
            view=self._picture,
            switches=lambda: self.switches,
            target=self.target,
            load=self._load,
            loads=self._loads,
            cache=AnswerCache(options.cache_bytes, options.cache_age_s),
            rng=SystemRandom(),
            clock=time.monotonic,
            asked=self.moves.shared.note_request,
        )

    # Life

    async def start(self, relay_port: int) -> None:
        """Begin to watch and to take part. ``relay_port`` is where peers send requests; 0: nowhere."""
        self._relay_port = relay_port
        await self._look_around()
        if self.keeper is not None:
            self.keeper.changed = self._engine_changed
            self.keeper.is_serving = lambda: self._load.now.in_flight > 0
            self.keeper.start()
        if self.mover is not None:
            await self.mover.start()
        await self.engine.start(self._engine_changed)
        await self._look_first()
        self.cluster.subscribe(self._hear)
        await self.cluster.start()
        self._engine_changed()
        self.look_at_members()
        self._tasks = [
            background(self._refresh(), "view-refresh"),
            background(self._sample(), "telemetry"),
        ]
        await self.moves.start()

    async def _look_first(self) -> None:
        self._note_engine()
        try:
            async with asyncio.timeout(FIRST_LOOK_S):
                await self._is_engine_seen.wait()
        except TimeoutError:
            log.debug("engine_not_seen_yet", waited_s=FIRST_LOOK_S)

    async def drain(self) -> None:
        """Tell the others to send nothing more."""
        self._is_draining = True
        self._renew_self()

    async def stop(self) -> None:
        await self.moves.stop()
        await end(*self._tasks)
        await self.cluster.stop()
        for target in self._targets.values():
            target.fail()
        await self._loads.stop()
        if self.mover is not None:
            await self.mover.stop()
        if self.keeper is not None:
            await self.keeper.stop()
        await self.engine.stop()
        if self._announcing is not None:
            self._announcing.cancel()
        self._telemetry.close()

    # The picture

    def view(self) -> ClusterView:
        if self._is_stale:
            self._is_stale = False
            self._views.set_self(self._myself())
        return self._views.current

    def _picture(self) -> ClusterView:
        """As `view`, but up to `ANNOUNCE_S` behind with how busy this node is: each request changes that."""
        if self._loaded is None or self._loaded[1] != self._loads.version:
            self._is_stale = True
            return self.view()
        return self._views.current

    def target(self, node: NodeId) -> Target | None:
        """Where to send requests for ``node``; None where that is not known."""
        if node == self.options.id:
            return self.engine.target
        peer = self.view().nodes.get(node)
        if peer is None or peer.relay is None:
            return None
        known = self._targets.get(node)
        if known is None or (known.host, known.port) != peer.relay:
            if known is not None:
                known.close()
            known = self._targets[node] = Target(node, *peer.relay, security=self._secure(node))
        known.renew(self._secure(node))
        return known

    @property
    def giver(self) -> Giver:
        """What gives other members our models. Raises `StoreUnreadable` where nothing does."""
        if self.keeper is None:
            raise StoreUnreadable("this node gives no models")
        return self.keeper.giver

    @property
    def puller(self) -> Pulling | None:
        """What pulls for clients; None where the engine does that best alone: nobody else is to be asked."""
        if self.mover is None or self.mover.trouble or self.mode is not Mode.DISTRIBUTED:
            return None
        return self.mover.pulling

    @property
    def pull_hosts(self) -> Collection[str]:
        """Registries that this node asks itself."""
        return self.mover.settings.pull_hosts if self.mover is not None else ()

    @property
    def turns(self) -> Turns:
        """The turns at asking upstream registries that this node gives."""
        return self.mover.turns if self.mover is not None else Turns()

    @property
    def lender(self) -> Lender | None:
        """What makes models readable that this node may not read itself."""
        return self.mover.lender if self.mover is not None else None

    def _identified(self, models: Mapping[ModelKey, InstalledModel]) -> Mapping[ModelKey, InstalledModel]:
        """``models`` with what the keeper knows of them; the same object as long as nothing changes."""
        if self.keeper is None:
            return models
        made_of = models, self.keeper.version
        if self._models_of is None or self._models_of[0] is not models or self._models_of[1] != made_of[1]:
            identified = {
                key: replace(model, identity=self.keeper.identity(key, model.digest))
                for key, model in models.items()
            }
            if identified != self._models:
                self._models = identified
            self._models_of = made_of
        return self._models

    def _myself(self) -> NodeView:
        snapshot = self.engine.snapshot
        return NodeView(
            id=self.options.id,
            name=self.options.name,
            since=self._since,
            reason="this node",
            address=self.cluster.address,
            version=__version__,
            engine=snapshot.engine,
            load=self._load.now,
            resources=self._resources,
            models=self._identified(snapshot.models),
            loaded=self._in_memory(),
            store=self.keeper.store_id if self.keeper is not None else "",
            draining=self._is_draining or self.moves.draining.is_on,
            labels=self._labels,
            standing=self._standing,
        )

    def _in_memory(self) -> Mapping[ModelKey, LoadedModel]:
        """What the engine runs, with what this node knows of it."""
        seen, version = self.engine.snapshot.loaded, self._loads.version
        if self._loaded is None or self._loaded[0] is not seen or self._loaded[1] != version:
            known = {key: replace(model, options=self._loads.options(key)) for key, model in seen.items()}
            self._loaded = seen, version, known
        return self._loaded[2]

    def _note_engine(self) -> None:
        engine = self.engine.snapshot.engine
        if engine.state is EngineState.READY or engine.kind is EngineKind.NONE:
            self._is_engine_seen.set()

    def _engine_changed(self) -> None:
        self._note_engine()
        if self.keeper is not None:
            self.keeper.look(self.engine.snapshot.models)
        self._loads.forget_all_but(self.engine.snapshot.loaded)
        self._load.set_slots(self.engine.slots, self.engine.width)
        self._renew_self()
        self._announce_state()

    def _announce_state(self) -> None:
        me = self.view().me
        self._announcer.announce_state(
            Cold(
                name=self.options.name,
                version=__version__,
                engine_kind=me.engine.kind,
                engine_version=me.engine.version,
                relay_port=self._relay_port,
                cpus=me.resources.cpus,
                memory_bytes=me.resources.memory_bytes,
                gpus=tuple((gpu.name, gpu.memory_bytes) for gpu in me.resources.gpus),
                labels=self._labels,
                store=me.store,
                models=me.models,
                loaded={key: _without_life(model) for key, model in me.loaded.items()},
            ),
            self.moves.shared.entries(),
        )

    def _load_changed(self) -> None:
        """It changes several times within a request: the picture is renewed when somebody looks at it, and
        what changes in between is told the others as one."""
        self._is_stale = True
        if self._announcing is None:
            self._announcing = asyncio.get_running_loop().call_later(ANNOUNCE_S, self._announce_load)

    def _renew_self(self) -> None:
        self._is_stale = True
        self._announce_load()

    def _announce_load(self) -> None:
        if self._announcing is not None:
            self._announcing.cancel()
            self._announcing = None
        me = self.view().me
        self._announcer.announce_load(
            Hot(
                load=me.load,
                memory_free_bytes=me.resources.memory_free_bytes,
                vram_free_bytes=me.resources.vram_free_bytes,
                engine_state=me.engine.state,
                draining=me.draining,
                disk_free_bytes=me.resources.disk_free_bytes,
            )
        )

    def look_at_members(self) -> None:
        """Renew the picture: somebody came, left or said something."""
        before = self.view().nodes
        members = self.cluster.members()
        self._note_own_standing(members)
        self._views.set_members(members, time.monotonic(), time.time())
        self.moves.shared.hear(members)
        self._hear_identities()
        for node in self.view().peers():
            known = before.get(node.id)
            if known is None or known.state != node.state:
                self._state_changed(node)

    def _hear(self, news: Collection[NodeId]) -> None:
        """Something about these members changed: mostly a load, which concerns nobody else's place."""
        views = [self.cluster.member(member) for member in news]
        members = [view for view in views if view is not None and not view.is_self]
        if len(members) == len(views) and self._views.set_some(members, time.monotonic(), time.time()):
            self.moves.shared.hear(members)
            self._hear_identities()
        else:
            self.look_at_members()

    def _hear_identities(self) -> None:
        """What the others know of contents that this node cannot read itself."""
        if self.keeper is None or all(copy.identity for copy in self._models.values()):
            return
        copies = (copy for peer in self.view().peers() for copy in peer.models.values())
        if self.keeper.hear(copies):
            self._is_stale = True
            self._announce_state()

    def _note_own_standing(self, members: Sequence[MemberView]) -> None:
        own = next((view for view in members if view.is_self), None)
        if own is None:
            return
        standing = Standing(own.generation, own.incarnation, reaches_us=True, protocol=own.protocol)
        if standing != self._standing:
            self._standing = standing
            self._views.set_self(self._myself())

    def _state_changed(self, node: NodeView) -> None:
        tell = log.warning if node.state is MemberState.DEAD else log.info
        tell("member_state", node=node.name, id=node.id, state=node.state, reason=node.reason)
        if node.state is MemberState.ALIVE:
            self.dispatcher.breakers.reset(node.id)
        elif node.state in (MemberState.DEAD, MemberState.LEFT) and (
            target := self._targets.pop(node.id, None)
        ):
            if node.reason.startswith("revoked"):
                target.close()  # it gets nothing more; what it is answering is still somebody's here
            else:
                target.fail()

    async def _refresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH_S)
            self.look_at_members()

    async def _sample(self) -> None:
        while True:
            await asyncio.sleep(TELEMETRY_S)
            await self._look_around()
            self._renew_self()

    def active(self, model: ModelKey) -> int:
        """Requests for a model that run or wait here."""
        return self._load.active(model)

    async def load_model(self, name: ModelName) -> None:
        """Have the engine bring it into memory, with the context that is pinned for it."""
        tokens = pinned_context(self.options.contexts, name.key)
        await memory.load(self._engine_target, name, tokens)

    async def unload_model(self, name: ModelName) -> None:
        """Have the engine let it go."""
        await memory.unload(self._engine_target, name)

    @property
    def _engine_target(self) -> Target:
        target = self.engine.target
        if target is None:
            raise NoCandidate("this node has no engine")
        return target

    async def _look_around(self) -> None:
        store = self.keeper.store if self.keeper is not None else None
        folder = store.root if store is not None else None
        self._resources = await asyncio.to_thread(self._telemetry.sample, folder)

    # What is said of it, and done with it

    @property
    def uptime_s(self) -> float:
        return time.monotonic() - self._began

    @property
    def load(self) -> Load:
        """Of this node's own engine."""
        return self._load.now

    @property
    def held_loads(self) -> int:
        """Models being loaded whose client has left."""
        return self._loads.held

    def describe(self) -> dict[str, Any]:
        """What stands beside the version."""
        view = self.view()
        alive = sum(node.state is MemberState.ALIVE for node in view.nodes.values())
        return {"version": __version__, "mode": effective_mode(self.switches, view).mode, "nodes": alive}

    def scrub(self, *, begin: bool) -> dict[str, Any]:
        """How far this node is with reading its models again; ``begin``: with all of them, now.

        Raises `StoreUnreadable`.
        """
        if self.keeper is None:
            raise StoreUnreadable("this node does not know its models' files")
        if begin and self.keeper.store is None:
            raise StoreUnreadable(f"this node cannot read its models: {self.keeper.reason}")
        if begin:
            self.keeper.scrubber.ask()
        state = self.keeper.scrubber.state
        return {
            "node": self.options.name,
            "state": "running" if state.is_running else "idle",
            "files": state.blobs,
            "waiting": state.waiting,
            "bytes_total": state.bytes_total,
            "bytes_done": state.bytes_done,
            "corrupt": [
                {"digest": digest, "models": self.keeper.needing(digest)} for digest in state.corrupt
            ],
        }

    async def moved(self) -> None:
        """Begin again in another cluster: nothing of the former one is kept."""
        for target in self._targets.values():
            target.fail()
        self._targets.clear()
        await self.moves.shared.leave()
        self._views = ViewStore(self.cluster.id, self._myself())
        self.look_at_members()
        if self.on_moved is not None:
            await self.on_moved()

    @property
    def mode(self) -> Mode:
        return effective_mode(self.switches, self._views.current).mode  # this node's own load is not in it


def _without_life(model: LoadedModel) -> LoadedModel:
    """Without the moment it would be unloaded: that moves with every request, and who asks is told afresh."""
    return replace(model, row={name: value for name, value in model.row.items() if name != "expires_at"})
