"""Channels to peers: each to one proven certificate, replaced when it goes quiet, the least used let go."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import grpc
import structlog

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.calls import MAX_MESSAGE, METHODS, SERVICE, TLS_BUFFER, CallFailed
from ollama_dist.gossip.credentials import Credentials, Pass
from ollama_dist.gossip.dialing import Met, meet, meet_peer
from ollama_dist.gossip.protocol.effects import Failure
from ollama_dist.gossip.protocol.messages import Kind
from ollama_dist.gossip.tls import grpc_channel_credentials
from ollama_dist.runtime.tasks import Tasks

log = structlog.get_logger()

MAX_CHANNELS: Final = 128
"""Some 150 KiB each. With fewer than there are members, every probe of one round would cost a handshake."""
MAX_REMEMBERED: Final = 1024
CONNECT_S: Final = 1.0
GRACE_S: Final = 2.0
"""For calls under way on a connection that another one replaces."""

QUIET_CALLS: Final = 2
"""Calls in a row without an answer after which a connection is taken for stuck, and a new one is made."""

_OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
    ("grpc.service_config_disable_resolution", 1),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.keepalive_time_ms", 30_000),  # a probe finds out sooner who is gone
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.tsi.max_frame_size", TLS_BUFFER),
    ("grpc.enable_channelz", 0),
    ("grpc.http2.bdp_probe", 0),  # it answers each message with a ping; ours are too small to gain by it
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

_FAILURES: Final = {
    grpc.StatusCode.DEADLINE_EXCEEDED: Failure.TIMEOUT,
    grpc.StatusCode.UNAVAILABLE: Failure.UNREACHABLE,
    grpc.StatusCode.CANCELLED: Failure.UNREACHABLE,
}
"""Every other status was said by the peer: it is there, and would not have the call."""

_BROKEN: Final = (grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN)


class Channels:
    """Calls to peers. At most one connection is open, or being made, to each.

    ``lost`` is told of a peer whose connection broke while nothing was being asked of it. ``slowness``: how
    many times longer than usual things may take now, since this process is short of time itself.
    """

    def __init__(
        self,
        credentials: Credentials,
        lost: Callable[[NodeId], None],
        *,
        limit: int = MAX_CHANNELS,
        slowness: Callable[[], int] = lambda: 1,
    ) -> None:
        self._credentials = credentials
        self._lost = lost
        self._slowness = slowness
        self._limit = limit
        self._channels: OrderedDict[NodeId, _Channel] = OrderedDict()
        self._opening: dict[NodeId, asyncio.Task[_Channel | CallFailed]] = {}
        self._working: dict[NodeId, str] = {}
        self._tasks = Tasks()
        self._is_stopped = False

    def __len__(self) -> int:
        return len(self._channels)

    async def meet(self, address: str, timeout: float) -> NodeId:
        """Who is at ``address``; a channel to it is kept if there was none. Raises `CallFailed`."""
        met, shown = await self._showing(lambda each: meet(address, each, timeout))
        if met.node not in self._channels:
            await self._keep(met, shown)
        return met.node

    async def call(
        self, peer: NodeId, addresses: Sequence[str], kind: Kind, payload: bytes, timeout: float
    ) -> bytes:
        """The peer's reply. Raises `CallFailed`; a connection that turns out broken is made anew, once."""
        return await self.ask(peer, addresses, f"/{SERVICE}/{METHODS[kind]}", payload, timeout)

    async def ask(
        self, peer: NodeId, addresses: Sequence[str], method: str, payload: bytes, timeout: float
    ) -> bytes:
        """The same for any method (``/service/name``) of the peer's listener."""
        deadline = asyncio.get_running_loop().time() + timeout
        channel = await self._channel(peer, addresses, timeout)
        try:
            return await self._ask(channel, method, payload, timeout)
        except CallFailed as failure:
            if failure.kind is not Failure.UNREACHABLE and not failure.is_stale:
                raise
        left = deadline - asyncio.get_running_loop().time()
        channel = await self._channel(peer, addresses, left)
        return await self._ask(channel, method, payload, left)

    def working_address(self, peer: NodeId) -> str | None:
        """The address of ``peer`` that answered last."""
        return self._working.get(peer)

    def renew(self) -> None:
        """Other credentials are valid: later calls are by new connections, those under way may end."""
        for peer in list(self._channels):
            self.renew_to(peer)

    def renew_to(self, peer: NodeId) -> None:
        """``peer`` takes our newest certificate now: show that, if it was shown the older one."""
        channel = self._channels.get(peer)
        if channel is not None and channel.shown.identity is not self._credentials.newest:
            self._let_go(peer)

    def _let_go(self, peer: NodeId) -> None:
        self._tasks.start(self._channels.pop(peer).close(GRACE_S), name=f"close {peer}")

    async def stop(self) -> None:
        """Close all channels; calls under way and later ones fail."""
        self._is_stopped = True
        await self._tasks.stop()
        for peer in list(self._channels):
            await self._drop(peer)

    async def _showing(self, go: Callable[[Pass], Awaitable[Met]]) -> tuple[Met, Pass]:
        """Whom we met, and by which certificate: the newest, else the one before. Raises `CallFailed`."""
        *newer, last = self._credentials.passes
        for each in newer:
            try:
                return await go(each), each
            except CallFailed as failure:
                if failure.kind is not Failure.REJECTED:
                    raise
        return await go(last), last

    async def _ask(self, channel: "_Channel", method: str, payload: bytes, timeout: float) -> bytes:
        try:
            reply = await channel.call(method, payload, timeout)
        except CallFailed as failure:
            channel.quiet = channel.quiet + 1 if failure.kind is Failure.TIMEOUT else 0
            is_stuck = channel.quiet >= QUIET_CALLS * self._slowness() or failure.kind is Failure.UNREACHABLE
            if (is_stuck or failure.is_stale) and self._channels.get(channel.peer) is channel:
                await self._drop(channel.peer)
            raise
        channel.quiet = 0
        return reply

    async def _channel(self, peer: NodeId, addresses: Sequence[str], timeout: float) -> "_Channel":
        channel = self._channels.get(peer)
        if channel is not None:
            self._channels.move_to_end(peer)
            return channel
        opening = self._opening.get(peer)
        if self._is_stopped:
            raise CallFailed(Failure.UNREACHABLE, "this node is stopping")
        if opening is None:
            opening = self._tasks.start(self._open(peer, addresses), name=f"connect {peer}")
            self._opening[peer] = opening
            opening.add_done_callback(lambda _: self._opening.pop(peer, None))
        # Being made outlives this call: a short deadline would else never see a slow connection finished.
        await asyncio.wait({opening}, timeout=timeout)
        if not opening.done():
            raise CallFailed(Failure.TIMEOUT, f"no connection to {peer} yet")
        if opening.cancelled():
            raise CallFailed(Failure.UNREACHABLE, "this node is stopping")
        outcome = opening.result()
        if isinstance(outcome, CallFailed):
            raise CallFailed(outcome.kind, str(outcome), is_rotated=outcome.is_rotated) from outcome
        return outcome

    async def _open(self, peer: NodeId, addresses: Sequence[str]) -> "_Channel | CallFailed":
        working = self._working.get(peer)
        ordered = sorted(addresses, key=lambda address: address != working)
        try:
            timeout = CONNECT_S * self._slowness()
            met, shown = await self._showing(lambda each: meet_peer(peer, ordered, each, timeout))
            return await self._keep(met, shown)
        except CallFailed as failure:
            return failure

    async def _keep(self, met: Met, shown: Pass) -> "_Channel":
        if met.node in self._channels:
            await self._drop(met.node)
        while len(self._channels) >= self._limit:
            await self._drop(next(iter(self._channels)))
        channel = _Channel(met, shown)
        self._channels[met.node] = channel
        self._note_working(met)
        self._tasks.start(self._watch(channel), name=f"watch {met.node}")
        return channel

    def _note_working(self, met: Met) -> None:
        self._working.pop(met.node, None)
        while len(self._working) >= MAX_REMEMBERED:
            del self._working[next(iter(self._working))]
        self._working[met.node] = met.address

    async def _watch(self, channel: "_Channel") -> None:
        """Tell of a connection that broke by itself; the next call makes a new one."""
        await channel.broken()
        if self._channels.get(channel.peer) is channel:
            await self._drop(channel.peer)
            self._lost(channel.peer)

    async def _drop(self, peer: NodeId) -> None:
        await self._channels.pop(peer).close()


class _Channel:
    """One gRPC channel to one peer at one address."""

    def __init__(self, met: Met, shown: Pass) -> None:
        self.peer = met.node
        self.met = met
        self.shown = shown
        self.quiet = 0
        """Calls in a row that got no answer in time."""
        scheme, host = ("ipv6", f"[{met.host}]") if ":" in met.host else ("ipv4", met.host)
        self._channel = grpc.aio.secure_channel(
            f"{scheme}:{host}:{met.port}",
            grpc_channel_credentials(shown.identity, met.certificate),
            options=[*_OPTIONS, ("grpc.ssl_target_name_override", met.server_name)],
        )
        self._calls: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {}
        self._is_closed = False

    async def call(self, method: str, payload: bytes, timeout: float) -> bytes:
        """Raises `CallFailed`."""
        if method not in self._calls:
            self._calls[method] = self._channel.unary_unary(method)
        try:
            reply: bytes = await self._calls[method](payload, timeout=max(timeout, 0.0))
        except grpc.aio.AioRpcError as error:
            failure = _FAILURES.get(error.code(), Failure.REJECTED)
            is_stale = error.code() is grpc.StatusCode.UNAUTHENTICATED
            told = f"{method.rpartition('/')[2]} to {self.peer}: {error.details()}"
            raise CallFailed(failure, told, is_stale=is_stale) from error
        except asyncio.CancelledError as error:
            if self._is_closed and not _is_being_cancelled():
                raise CallFailed(Failure.UNREACHABLE, f"the channel to {self.peer} was closed") from error
            raise
        return reply

    async def broken(self) -> None:
        """Returns once a connection that was there is there no more, or could not be made."""
        state = self._channel.get_state(try_to_connect=True)
        was_ready = False
        while state not in _BROKEN and not (was_ready and state is not grpc.ChannelConnectivity.READY):
            was_ready = was_ready or state is grpc.ChannelConnectivity.READY
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state()

    async def close(self, grace_s: float | None = None) -> None:
        """Calls under way get ``grace_s`` to end."""
        try:
            if grace_s is not None:
                await self._channel.close(grace_s)
        finally:
            self._is_closed = True
            await self._channel.close()


def _is_being_cancelled() -> bool:
    """Whether it is the caller who is cancelled, and not only the call it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
