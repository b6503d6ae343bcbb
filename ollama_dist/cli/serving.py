"""A node's life as a program: from settings to serving, until a signal ends it."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

import structlog

from ollama_dist import __version__
from ollama_dist.admin.operator import Operator
from ollama_dist.api.auth import ClientPolicy
from ollama_dist.api.bulk_giving import BulkGiving
from ollama_dist.api.connections import Gate
from ollama_dist.api.heads import Incoming
from ollama_dist.api.listener import Listener, bind
from ollama_dist.api.node_listener import NodeListener
from ollama_dist.api.passthrough import Passthrough
from ollama_dist.api.server import peer_front, plain_front, public_front
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import EngineState, MemberState
from ollama_dist.gossip.cluster import GossipCluster
from ollama_dist.gossip.tls import peer_certificate
from ollama_dist.node.assembly import make_cluster, make_engine, make_keeper, make_node
from ollama_dist.node.banner import Banner, SeenCluster, banner_text
from ollama_dist.node.client_keys import KeyFile, Share, new_key
from ollama_dist.node.config import Settings
from ollama_dist.node.logs import configure_logging
from ollama_dist.node.node import Node
from ollama_dist.node.paths import StateLock, StatePaths, make_state_dir
from ollama_dist.node.reports import Reach, reach_of
from ollama_dist.node.runtime_file import Runtime, write_runtime
from ollama_dist.node.secret_files import admin_token_file, find_cluster_key, make_admin_token
from ollama_dist.node.setting_values import Address, ClientKeys, Listen
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

BANNER_WAIT_S: Final = 1.5
"""How long the start message waits for the engine, so that it can say what is there."""

RUNTIME_PERIOD_S: Final = 2.0
"""How often the runtime file is brought up to date where something changed."""

DESCRIPTORS: Final = 65_536
"""Open files wanted: two sockets per stream, and connections to every peer."""

GARBAGE_THRESHOLDS: Final = (50_000, 50, 50)
"""Fewer and larger collections than by default: requests leave no cycles behind."""


def run(settings: Settings) -> int:
    """Serve until told to stop; the exit code. Raises `DistError` for what kept the node from starting."""
    _raise_descriptor_limit()
    paths = make_state_dir(settings.node.state_dir)
    lock = StateLock(paths)
    lock.take()
    try:
        work = _serve(settings, paths) if settings.mode.distributed else _pass_through(settings, paths)
        return _run_loop(work)
    finally:
        lock.release()


async def _serve(settings: Settings, paths: StatePaths) -> int:
    stop = _stop_signal()
    is_new_token = not admin_token_file(settings).exists() and settings.admin.admin_token is None
    token = make_admin_token(settings)
    cluster = make_cluster(settings, paths)
    configure_logging(settings.log, secrets=[token, *filter(None, [find_cluster_key(settings)])])
    engine = await make_engine(settings, paths, cluster.node_id)
    node = make_node(settings, paths, cluster, engine, make_keeper(settings, paths, engine))
    async with AsyncExitStack() as stack:
        passthrough = Passthrough()
        stack.push_async_callback(passthrough.close)
        relay = _Relay(node, cluster, passthrough, settings.cluster.node_listen)
        port = relay.bind()
        await relay.start()  # before anybody is told of it
        stack.push_async_callback(relay.stop)
        await node.start(port)
        stack.push_async_callback(node.stop)
        stack.push_async_callback(relay.stop)  # what it serves ends before the node says goodbye
        node.on_moved = relay.restart
        clients = _client_policy(settings, paths)
        front = public_front(node, passthrough, Operator(node), admin_token=token.reveal(), clients=clients)
        public = Listener(
            front,
            bind(settings.node.listen.host, settings.node.listen.ports()),
            gate=Gate(),
            ways=front if settings.requests.splice else None,
        )
        await public.start()
        stack.push_async_callback(public.stop)
        bound = Listen(*public.address)
        node.listen = str(Address(*public.address))
        node.reach = reach_of(bound.host, settings.node.client_keys)
        runtime = _RuntimeFile(settings, paths, node, cluster)
        stack.push_async_callback(runtime.stop)
        runtime.start()
        await _until_engine_known(lambda: node.view().me.engine.state, stop)
        client_key = _first_key(settings, paths, bound)
        _print_banner(settings, node, cluster, bound, is_new_token=is_new_token, client_key=client_key)
        _settle_garbage()
        await stop.wait()
        log.info("draining")
        await node.drain()
    return 0


async def _pass_through(settings: Settings, paths: StatePaths) -> int:
    """Not distributed: a listener in front of the engine, and nothing else."""
    stop = _stop_signal()
    engine = await make_engine(settings, paths, NodeId("0" * 16))
    async with AsyncExitStack() as stack:
        passthrough = Passthrough()
        stack.push_async_callback(passthrough.close)
        await engine.start(lambda: None)
        stack.push_async_callback(engine.stop)

        def origin() -> str | None:
            return f"http://{engine.target.authority}" if engine.target else None

        front = plain_front(origin, passthrough, clients=_client_policy(settings, paths))
        public = Listener(front, bind(settings.node.listen.host, settings.node.listen.ports()), gate=Gate())
        await public.start()
        stack.push_async_callback(public.stop)
        await _until_engine_known(lambda: engine.snapshot.engine.state, stop)
        snapshot = engine.snapshot
        banner = Banner(
            version=__version__,
            name=settings.node.name,
            client=Listen(*public.address).reachable,
            is_second_choice=_is_second_choice(settings, Listen(*public.address)),
            reach=reach_of(public.address[0], settings.node.client_keys),
            client_key=_first_key(settings, paths, Listen(*public.address)),
            engine=snapshot.engine.kind,
            engine_state=snapshot.engine.state,
            engine_version=snapshot.engine.version,
            engine_address=engine.target.authority if engine.target else "",
            models=tuple(model.name for model in snapshot.models.values()),
            distributed=False,
        )
        print(banner_text(banner), end="", flush=True)
        await stop.wait()
    return 0


class _Relay:
    """The listener for other members' requests; it begins anew when the node moves to another cluster."""

    def __init__(
        self, node: Node, cluster: GossipCluster, passthrough: Passthrough, membership: Listen
    ) -> None:
        self._node = node
        self._front = peer_front(node, passthrough, self._admit)
        self._cluster = cluster
        self._membership = membership
        self._socket: socket.socket | None = None
        self._listener: Listener | None = None
        self._port = 0

    def bind(self) -> int:
        """Take a port, behind the one for membership, which is taken afterwards; raises `ConfigError`."""
        first = self._membership.port
        ports = [self._port] if self._port else range(first + 1, first + 65) if first else [0]
        self._socket = bind(self._membership.host, ports)
        self._port = int(self._socket.getsockname()[1])
        return self._port

    async def start(self) -> None:
        assert self._socket is not None
        tls = self._cluster.credentials.server_context()
        bulk = BulkGiving(lambda: self._node.giver, self._admit_by, tls)
        ways = self._front if self._node.options.splice else None
        self._listener = NodeListener(self._front, self._socket, tls, bulk, ways)
        await self._listener.start()

    async def stop(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            await listener.stop()

    async def restart(self) -> None:
        """With the certificate of the cluster the node is in now."""
        await self.stop()
        self.bind()
        await self.start()

    def _admit(self, request: Incoming) -> NodeId | None:
        """The member on the other side; raises `Unauthorized` unless it is one now, whenever it connected."""
        if request.transport is None:
            return None
        return self._admit_by(peer_certificate(request.transport))

    def _admit_by(self, certificate: bytes) -> NodeId:
        return self._cluster.credentials.admit(certificate)


class _RuntimeFile:
    """Keeps the file by which commands find this node, and the last of what it knew."""

    def __init__(self, settings: Settings, paths: StatePaths, node: Node, cluster: GossipCluster) -> None:
        self._settings = settings
        self._path = paths.runtime
        self._node = node
        self._cluster = cluster
        self._started_at = _now()
        self._written: Runtime | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._write()
        self._task = background(self._keep(), "runtime-file")

    async def stop(self) -> None:
        await end(self._task)
        self._write(stopped_at=_now())

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(RUNTIME_PERIOD_S)
            self._write()

    def _write(self, stopped_at: str | None = None) -> None:
        view = self._node.view()
        runtime = Runtime(
            pid=os.getpid(),
            name=self._settings.node.name,
            node_id=view.self_id,
            version=__version__,
            listen=self._node.listen,
            node_listen=self._cluster.address,
            admin_token_file=str(admin_token_file(self._settings)),
            started_at=self._started_at,
            updated_at="",
            stopped_at=stopped_at,
            cluster=view.cluster_id,
            peers=tuple(sorted(node.name for node in view.peers() if node.state is MemberState.ALIVE)),
            models=sum(bool(view.serving_holders(key)) for key in view.holders),
        )
        if runtime == self._written:
            return
        try:
            write_runtime(self._path, replace(runtime, updated_at=_now()))
        except OSError as error:
            log.warning("runtime_file_not_written", path=str(self._path), error=str(error))
        else:
            self._written = runtime


def _print_banner(
    settings: Settings,
    node: Node,
    cluster: GossipCluster,
    bound: Listen,
    *,
    is_new_token: bool,
    client_key: str,
) -> None:
    view, snapshot, target = node.view(), node.engine.snapshot, node.engine.target
    banner = Banner(
        version=__version__,
        name=settings.node.name,
        client=bound.reachable,
        is_second_choice=_is_second_choice(settings, bound),
        reach=reach_of(bound.host, settings.node.client_keys),
        client_key=client_key,
        engine=snapshot.engine.kind,
        engine_state=snapshot.engine.state,
        engine_version=snapshot.engine.version,
        engine_address=target.authority if target else "",
        models=tuple(model.name for model in snapshot.models.values()),
        cluster=view.cluster_id,
        peers=tuple(sorted(node.name for node in view.peers() if node.state is MemberState.ALIVE)),
        seen=tuple(SeenCluster(name, addresses) for name, addresses in cluster.seen_clusters()),
        admin_token_file=str(admin_token_file(settings)) if is_new_token else "",
    )
    print(banner_text(banner), end="", flush=True)


def _client_policy(settings: Settings, paths: StatePaths) -> ClientPolicy:
    share = Share(settings.requests.client_per_minute, settings.requests.client_at_once)
    match settings.node.client_keys:
        case ClientKeys.NEVER:
            return ClientPolicy(share=share)
        case ClientKeys.ALWAYS:
            return ClientPolicy(KeyFile(paths.client_keys), trusts_this_machine=False, share=share)
    return ClientPolicy(KeyFile(paths.client_keys), share=share)


def _first_key(settings: Settings, paths: StatePaths, bound: Listen) -> str:
    """A key, made where keys are needed and there is none; empty elsewhere. It is shown this once."""
    wanted = settings.node.client_keys
    needed = wanted is ClientKeys.ALWAYS or reach_of(bound.host, wanted) is Reach.KEYED
    file = KeyFile(paths.client_keys)
    if not needed or file.keys():
        return ""
    key, text = new_key("first")
    file.add(key)
    return text.reveal()


def _is_second_choice(settings: Settings, bound: Listen) -> bool:
    wanted = settings.node.listen
    return wanted.search and bound.port != wanted.port


async def _until_engine_known(state: Callable[[], EngineState], stop: asyncio.Event) -> None:
    """A moment's patience, so that the start message can say what the engine has."""
    step = 0.02
    for _ in range(round(BANNER_WAIT_S / step)):
        if state() is EngineState.READY or stop.is_set():
            return
        await asyncio.sleep(step)


def _stop_signal() -> asyncio.Event:
    """Set by the first SIGINT or SIGTERM; a second one ends the process at once."""
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            log.warning("stopped_at_once", signal=signal.Signals(number).name)
            sys.exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        with suppress(NotImplementedError):  # on Windows Ctrl-C arrives as KeyboardInterrupt
            loop.add_signal_handler(number, on_signal, number)
    return stop


def _run_loop(work: Coroutine[Any, Any, int]) -> int:
    if sys.platform == "win32":
        return asyncio.run(work)
    import uvloop

    return uvloop.run(work)


def _settle_garbage() -> None:
    """What is there now stays: later collections need not look at it."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE_THRESHOLDS)


def _raise_descriptor_limit() -> None:
    if sys.platform == "win32":
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError) as error:  # fewer streams at once; `doctor` tells how many
            log.warning("open_files_limit_not_raised", limit=soft, wanted=wanted, error=str(error))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
