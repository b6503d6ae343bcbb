"""The node's place in a cluster, and its ways from one cluster into another: invite, join, leave.

Each cluster a node is in is one life of a `Driver`, with a certificate of that cluster; what the node says
about itself outlives them.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import grpc
import structlog

from ollama_dist.core.errors import BadRequest, ConfigError
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip import invite
from ollama_dist.gossip.calls import CallFailed
from ollama_dist.gossip.credentials import Credentials, Pass
from ollama_dist.gossip.dialing import split_host_port
from ollama_dist.gossip.driver import Driver, GossipSettings
from ollama_dist.gossip.identity import Identity, set_aside_key
from ollama_dist.gossip.invite_code import InviteCode
from ollama_dist.gossip.keyring import Keyring, KeyringFile
from ollama_dist.gossip.keys import ClusterKey, keep_cluster_key
from ollama_dist.gossip.protocol.effects import Failure, MemberView
from ollama_dist.gossip.rotation import Rotation, check_overlap
from ollama_dist.gossip.subscribers import Subscriber
from ollama_dist.runtime.private_files import make_private_folder

log = structlog.get_logger()

MEETING_S: Final = 5.0
"""How long somebody who joined waits to see a member before saying so."""

_GIVEN: Final = (
    "the cluster key was set from outside and has been replaced since; this node keeps the new one in its "
    "state folder, but whoever sets keys up should take it from there (rotation.json)"
)

ADDRESSES_TOLD: Final = 16
"""Members' addresses that a newcomer is given."""


@dataclass(frozen=True, slots=True)
class ClusterOptions:
    """Where a node keeps what it is, and how it takes part."""

    folder: Path
    """State folder: the node's own key is in it."""
    gossip: GossipSettings
    key_file: Path | None = None
    """Where the cluster key is kept; None when it was given otherwise, and the node cannot change it."""
    invite_ports: range = field(default=range(1))
    """For the door of an invitation; the first free one."""


class GossipCluster:
    """One node in the cluster whose key it has.

    ``services`` are further gRPC services for members, on the same listener.
    """

    def __init__(
        self,
        key: ClusterKey,
        options: ClusterOptions,
        services: Sequence[grpc.GenericRpcHandler] = (),
    ) -> None:
        self._options = options
        self._services = services
        self._load: bytes | None = None
        self._state: dict[str, bytes] = {}
        self._subscribers: list[Subscriber] = []
        self._moving = asyncio.Lock()
        make_private_folder(options.folder)
        self._ring_file = KeyringFile(options.folder / "rotation.json")
        self._settle(self._ring_file.load(key), options.gossip)

    def _settle(self, ring: Keyring, gossip: GossipSettings) -> None:
        self._rotation = Rotation(self._options.folder, self._ring_file, ring, self._key_changed)
        self._driver = Driver(self.credentials, gossip, (self._rotation.handler(), *self._services))
        self._driver.subscribe(lambda _: self._yield_to_twin())
        self._driver.subscribe(lambda _: self._rotation.look())
        for changed in self._subscribers:
            self._driver.subscribe(changed)
        self._door = invite.Door(
            self.identity,
            ring.current,
            listen=(gossip.host, self._options.invite_ports),
            hosts=lambda: [split_host_port(address)[0] for address in self._driver.addresses],
            members=self._listeners,
        )

    # Life

    async def start(self) -> None:
        """Listen and look for the others. Raises `ConfigError` when no port can be had."""
        await self._driver.start()
        if self._load is not None:
            self._driver.set_load(self._load)
        for key, value in self._state.items():
            self._driver.set_state(key, value)
        self._rotation.start(self._driver)

    async def stop(self, *, leave: bool = True) -> None:
        """End taking part; with ``leave`` the others are told."""
        await self._rotation.stop()
        await self._door.stop()
        await self._driver.stop(leave=leave)

    # What is known

    @property
    def credentials(self) -> Credentials:
        """What this node shows and accepts, in the cluster it is in now."""
        return self._rotation.credentials

    @property
    def identity(self) -> Identity:
        return self.credentials.newest

    @property
    def epoch(self) -> int:
        """How often the cluster's key was replaced, the first included."""
        return self.identity.epoch

    @property
    def revoked_by(self) -> str:
        """Who took this node out of its cluster; empty where nobody did."""
        return self._rotation.ring.revoked_by

    def pass_to(self, member: NodeId) -> Pass:
        """How to come to a member with a request."""
        return self._rotation.pass_to(member)

    @property
    def id(self) -> str:
        """The cluster's id."""
        return self.identity.cluster_id

    @property
    def node_id(self) -> NodeId:
        return self.identity.id

    @property
    def address(self) -> str:
        """Where members connect, ``host:port``; empty before the start."""
        return next(iter(self._driver.addresses), "")

    def members(self) -> tuple[MemberView, ...]:
        return self._driver.members()

    def member(self, member: NodeId) -> MemberView | None:
        return self._driver.member(member)

    def subscribe(self, changed: Subscriber) -> None:
        """``changed`` is called soon after something about members changed, once for all that changed."""
        self._subscribers.append(changed)
        self._driver.subscribe(changed)

    def seen_clusters(self) -> list[tuple[str, tuple[str, ...]]]:
        """Other clusters on this network and where their nodes are: seen, not joined."""
        return [(seen.cluster_id, seen.addresses) for seen in self._driver.seen_clusters()]

    def strangers(self) -> dict[str, str]:
        """Seeds where somebody of another cluster is: what was said there, by address."""
        return self._seeds_that(lambda failure: failure.kind is Failure.REJECTED and not failure.is_rotated)

    def rotated(self) -> dict[str, str]:
        """Where this cluster is with a key that this node lacks: what is known of that, by address."""
        return self._seeds_that(lambda failure: failure.is_rotated)

    def silent_seeds(self) -> dict[str, str]:
        """Seeds where nobody is: how that showed, by address."""
        return self._seeds_that(lambda failure: failure.kind is not Failure.REJECTED)

    def _seeds_that(self, matches: Callable[[CallFailed], bool]) -> dict[str, str]:
        troubles = self._driver.seed_troubles()
        return {address: str(failure) for address, failure in troubles.items() if matches(failure)}

    def counters(self) -> dict[str, int]:
        return self._driver.counters()

    # What the node says

    def set_load(self, data: bytes) -> None:
        self._load = data
        self._driver.set_load(data)

    def set_state(self, key: str, value: bytes | None) -> None:
        if value is None:
            self._state.pop(key, None)
        else:
            self._state[key] = value
        self._driver.set_state(key, value)

    def hint(self, member: NodeId) -> None:
        self._driver.hint(member)

    def add_seed(self, address: str) -> None:
        self._driver.add_seed(address)

    # From cluster to cluster

    async def invite(self, lifetime_s: float = invite.LIFETIME_S) -> dict[str, Any]:
        """A code that lets one machine in, for a while. Raises `ConfigError` when no port can be had."""
        invitation = await self._door.invite(lifetime_s)
        expires_at = datetime.fromtimestamp(invitation.expires_at, UTC)
        return {
            "code": invitation.code,
            "command": f"ollama-dist join {invitation.code}",
            "expires_at": expires_at.isoformat(timespec="seconds").replace("+00:00", "Z"),
        }

    async def join(self, code: str, *, replace: bool = False) -> dict[str, Any]:
        """Move into the cluster the code is from. Whether others are left behind is the caller's to ask.

        Raises `InviteFailed`, `CodeMistyped`, `BadRequest` or `ConfigError`; nothing has changed then.
        """
        async with self._moving:
            parsed = InviteCode.parse(code)
            comes_back = parsed.cluster_id == self.id and not self._is_of(parsed)
            if self._is_of(parsed) and not self.revoked_by:
                raise BadRequest(f"this node is a member of cluster {self.id} already")
            if not replace and not comes_back and len(self._living()) > 1:
                raise BadRequest(f"this node is in cluster {self.id} with other members; leave that first")
            key_file = self._options.key_file if comes_back else self._own_key_file()
            joined = await invite.join(code)
            await self._move(key_file, ClusterKey.parse(joined.cluster_key), joined.addresses)
        await self._meet_somebody()
        return {"cluster": self.id, "nodes": len(self._living())}

    async def leave(self) -> dict[str, Any]:
        """Say good-bye and go on in a new cluster of one: coming back takes a code."""
        key_file = self._own_key_file()
        async with self._moving:
            left = self.id
            await self._move(key_file, ClusterKey.make(), ())
        return {"left": left, "cluster": self.id}

    def is_own(self, code: str) -> bool:
        """Whether an invitation is into this very cluster. Raises `CodeMistyped`."""
        return InviteCode.parse(code).cluster_id == self.id

    def _is_of(self, code: InviteCode) -> bool:
        """Whether the code is from who has the key that this node has."""
        return self.identity.authority.fingerprint.startswith(code.fingerprint)

    async def rotate(self, overlap_s: float) -> dict[str, Any]:
        """Replace the cluster's key. Raises `RotationUnderWay`."""
        async with self._moving:
            return {"cluster": self.id, **await self._rotation.rotate(check_overlap(overlap_s))}

    async def revoke(self, member: NodeId, by: str) -> dict[str, Any]:
        """Take a member out: the key is replaced for all others."""
        async with self._moving:
            return {"cluster": self.id, **await self._rotation.revoke(member, by)}

    def forget(self, member: NodeId) -> None:
        """List a dead member no more."""
        self._driver.forget(member)

    def _key_changed(self, ring: Keyring, identity: Identity) -> None:
        """The node has another key: codes of the old one are void, and the next start needs it."""
        self._door.renew(identity, ring.current)
        if self._options.key_file is None:
            log.warning("given_key_outdated", epoch=ring.current.epoch, note=_GIVEN)
            return
        try:
            keep_cluster_key(self._options.key_file, ring.current)
        except ConfigError as error:
            log.error("key_not_saved", error=str(error))

    def _own_key_file(self) -> Path:
        if self._options.key_file is None:
            raise ConfigError("the cluster key is set from outside; change it there and start the node again")
        return self._options.key_file

    async def _move(self, key_file: Path | None, key: ClusterKey, seeds: tuple[str, ...]) -> None:
        """End this life and begin one under ``key``, at the same port if it can be."""
        if key_file is not None:
            keep_cluster_key(key_file, key)
        gossip = self._options.gossip
        if self._driver.addresses:
            gossip = replace(gossip, ports=(self._driver.port, *gossip.ports))
        log.info("cluster_changed", left=self.id, joined=key.cluster_id)
        await self.stop()
        self._ring_file.save(Keyring(key))
        self._settle(Keyring(key), replace(gossip, seeds=seeds))
        await self.start()

    async def _meet_somebody(self) -> None:
        met = asyncio.Event()

        def look(_: Collection[NodeId] = ()) -> None:
            if len(self._living()) > 1:
                met.set()

        unsubscribe = self._driver.subscribe(look)
        look()
        try:
            async with asyncio.timeout(MEETING_S):
                await met.wait()
        except TimeoutError:
            log.warning("nobody_met", cluster=self.id, note="the key is kept; members are looked for")
        finally:
            unsubscribe()

    # Shared

    def _living(self) -> list[MemberView]:
        return [view for view in self.members() if view.state in (MemberState.ALIVE, MemberState.SUSPECT)]

    def _listeners(self) -> list[str]:
        """Where a newcomer may knock, this node first."""
        others = [view.addresses[0] for view in self._living() if view.addresses and not view.is_self]
        return [*self._driver.addresses, *others][:ADDRESSES_TOLD]

    def _yield_to_twin(self) -> None:
        """Another process runs with a copy of our key. It was there first: the next start makes a new one."""
        if self._driver.is_clone:
            aside = set_aside_key(self._options.folder)
            log.error(
                "identity_in_use",
                node=self.node_id,
                note="another node runs from a copy of this state folder; this one stays out of the cluster "
                "until it is started again, then with an identity of its own",
                old_key=str(aside),
            )
