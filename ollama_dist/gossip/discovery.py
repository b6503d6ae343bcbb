"""Finding nodes on the local network by mDNS: where they may be, never who they are.

What is seen grants nothing. A sighting of our own cluster is an address worth trying; one of another is
shown to people as "seen, not joined". Silence says nothing either way: multicast is often blocked.
"""

import asyncio
import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import structlog
from zeroconf import BadTypeInNameException, DNSQuestionType, IPVersion, ServiceStateChange, Zeroconf
from zeroconf import Error as ZeroconfError
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from ollama_dist.core.ids import NodeId, is_node_id
from ollama_dist.gossip.keys import is_cluster_id
from ollama_dist.runtime.tasks import Tasks

log = structlog.get_logger()

SERVICE_TYPE: Final = "_ollama-dist._tcp.local."
VERSION: Final = "1"

RESOLVE_MS: Final = 3000
MAX_RESOLVING: Final = 32
MAX_ADDRESSES: Final = 8
MAX_CLUSTERS: Final = 64
"""More than anybody has at home; a forger of many gets no further."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What somebody says over multicast; anybody can say anything."""

    cluster_id: str
    node_id: NodeId
    addresses: tuple[str, ...]
    """IP addresses, in no order that means anything."""
    port: int


@dataclass(frozen=True, slots=True)
class SeenCluster:
    """A cluster nearby that this node is no part of."""

    cluster_id: str
    addresses: tuple[str, ...]
    """Of its nodes' listeners, ``host:port``."""
    last_seen: float
    """As the loop's clock has it."""


def read_record(
    properties: Mapping[bytes, bytes | None], addresses: Iterable[str], port: int | None
) -> Sighting | None:
    """The sighting in a service record; None for one that is not as ours are."""
    said = {key: _text(properties.get(key.encode())) for key in "vcip"}
    if said["v"] != VERSION or not is_cluster_id(said["c"]) or not is_node_id(said["i"]):
        return None
    if port is None or not 0 < port < 65536 or said["p"] != str(port):
        return None
    usable = tuple(address for address in addresses if _is_usable(address))[:MAX_ADDRESSES]
    return Sighting(said["c"], NodeId(said["i"]), usable, port) if usable else None


def join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Discovery:
    """Announces this node and reports nodes of its own cluster to ``found``; others are kept in a table.

    ``interfaces``: addresses of the interfaces to use; empty means all.
    """

    def __init__(
        self, me: Sighting, found: Callable[[Sighting], None], interfaces: Sequence[str] = ()
    ) -> None:
        self._me = me
        self._found = found
        self._interfaces = list(interfaces)
        self._clusters: dict[str, SeenCluster] = {}
        self._tasks = Tasks()
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._record: AsyncServiceInfo | None = None

    @property
    def seen_clusters(self) -> tuple[SeenCluster, ...]:
        """Other clusters, the one heard of last first."""
        return tuple(sorted(self._clusters.values(), key=lambda seen: -seen.last_seen))

    async def start(self) -> None:
        """Begin to announce and to listen; where multicast cannot be had, that is logged, no more."""
        ip_version = _ip_version([*self._interfaces, *self._me.addresses])
        try:
            if self._interfaces:
                self._zeroconf = AsyncZeroconf(interfaces=self._interfaces, ip_version=ip_version)
            else:
                self._zeroconf = AsyncZeroconf(ip_version=ip_version)
        except (OSError, ZeroconfError, RuntimeError) as error:
            log.warning(
                "mdns_unavailable", error=str(error), note="nodes are found by --join and from last time"
            )
            return
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf,
            SERVICE_TYPE,
            handlers=[self._on_change],
            question_type=DNSQuestionType.QM,  # answers by multicast: all responders share the port
        )
        self._record = _service_info(self._me)
        if self._record is not None:
            self._tasks.start(self._announce(self._zeroconf, self._record), name="mdns announcement")

    async def stop(self) -> None:
        """Say goodbye and let the sockets go."""
        await self._tasks.stop()
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is None:
            return
        try:
            if self._browser is not None:
                await self._browser.async_cancel()
            if self._record is not None:
                # Twice: the first wait is for the goodbye to be begun, the second for it to be sent.
                await (await zeroconf.async_unregister_service(self._record))
        except (OSError, ZeroconfError) as error:
            log.info("mdns_goodbye_failed", error=str(error))
        finally:
            await zeroconf.async_close()

    async def _announce(self, zeroconf: AsyncZeroconf, record: AsyncServiceInfo) -> None:
        try:
            # The name is a key's hash: nobody else has it, so nobody need be asked (cooperating_responders).
            await (await zeroconf.async_register_service(record, cooperating_responders=True))
        except (OSError, ZeroconfError) as error:
            log.warning("mdns_announcement_failed", error=str(error))

    def _on_change(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        if state_change is ServiceStateChange.Removed or name.startswith(self._me.node_id):
            return  # whether a node is gone, membership finds out
        if len(self._tasks) < MAX_RESOLVING:
            self._tasks.start(self._resolve(zeroconf, service_type, name), name="mdns resolution")

    async def _resolve(self, zeroconf: Zeroconf, service_type: str, name: str) -> None:
        try:
            info = AsyncServiceInfo(service_type, name)
            if not await info.async_request(zeroconf, RESOLVE_MS, question_type=DNSQuestionType.QM):
                return
            sighting = read_record(info.properties, info.parsed_addresses(), info.port)
        except (OSError, ZeroconfError, BadTypeInNameException) as error:
            log.info("mdns_resolution_failed", name=name, error=str(error))
            return
        if sighting is not None:
            self._note(sighting)

    def _note(self, sighting: Sighting) -> None:
        if sighting.cluster_id != self._me.cluster_id:
            self._note_foreign(sighting)
        elif sighting.node_id != self._me.node_id:
            self._found(sighting)

    def _note_foreign(self, sighting: Sighting) -> None:
        known = self._clusters.pop(sighting.cluster_id, None)
        if known is None:
            log.info("cluster_seen", cluster=sighting.cluster_id, note="seen, not joined")
        said = [join_host_port(address, sighting.port) for address in sighting.addresses]
        before = [address for address in (known.addresses if known else ()) if address not in said]
        while len(self._clusters) >= MAX_CLUSTERS:
            del self._clusters[next(iter(self._clusters))]
        self._clusters[sighting.cluster_id] = SeenCluster(
            sighting.cluster_id,
            tuple([*said, *before][:MAX_ADDRESSES]),
            asyncio.get_running_loop().time(),
        )


def _service_info(me: Sighting) -> AsyncServiceInfo | None:
    """None for who has no address to announce."""
    addresses = [address for address in me.addresses if _is_usable(address)]
    if not addresses:
        return None
    return AsyncServiceInfo(
        SERVICE_TYPE,
        f"{me.node_id}.{SERVICE_TYPE}",
        port=me.port,
        parsed_addresses=addresses,
        server=f"{me.node_id}.local.",
        properties={"v": VERSION, "c": me.cluster_id, "i": me.node_id, "p": str(me.port)},
    )


def _ip_version(addresses: Iterable[str]) -> IPVersion:
    return IPVersion.All if any(":" in address for address in addresses) else IPVersion.V4Only


def _is_usable(address: str) -> bool:
    """Whether it can be connected to without naming an interface."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (
        parsed.is_unspecified or parsed.is_multicast or (parsed.version == 6 and parsed.is_link_local)
    )


def _text(value: bytes | None) -> str:
    try:
        return (value or b"").decode("ascii")
    except UnicodeDecodeError:
        return ""
