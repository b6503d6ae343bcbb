"""Which hosts lie inside: what a registry out there must not lead a node to.

A name says little: its owner can have it lead anywhere, and elsewhere a moment later. So it is the address
that is really connected to that counts, both of who leads and of where it leads.
"""

import errno
import ipaddress
import socket
from collections.abc import Callable, Collection
from typing import Any, Final
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import Connection
from yarl import URL

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
IsInside = Callable[[Address], bool]

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


def is_inside(address: Address) -> bool:
    """Whether it means nothing on the Internet: this machine, this network, or nobody."""
    if isinstance(address, ipaddress.IPv6Address):
        within = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            within = ipaddress.IPv4Address(address.packed[-4:])
        if within is not None:
            return is_inside(within)
    return not address.is_global or address.is_multicast


def is_written_inside(url: URL, inside: IsInside = is_inside) -> bool:
    """Whether the host is written as an address inside, or by a name that is never anywhere else."""
    host = url.host or ""
    address = _address(host)
    if address is not None:
        return inside(address)
    return host == "localhost" or host.endswith((".localhost", ".local", ".internal"))


def is_proxied(url: URL) -> bool:
    """Whether the environment wants it asked through a proxy, which then finds the address."""
    return url.scheme in getproxies() and not proxy_bypass(url.host or "")


class Answer(aiohttp.ClientResponse):
    """An answer that knows who gave it."""

    peer = ""
    """The address that was connected to."""

    async def start(self, connection: Connection) -> "Answer":
        transport = connection.transport
        name = transport.get_extra_info("peername") if transport is not None else None
        self.peer = name[0] if name else ""
        await super().start(connection)
        return self

    def came_from(self, inside: IsInside) -> bool:
        """Whether an address inside gave it."""
        address = _address(self.peer)
        return address is not None and inside(address)


class OutsideOnly(AbstractResolver):
    """Resolves names like ``resolver``, but to no address inside; but for the names of proxies."""

    def __init__(self, resolver: AbstractResolver, inside: IsInside) -> None:
        self._resolver = resolver
        self._inside = inside

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Raises `OSError` where nothing is left."""
        found = await self._resolver.resolve(host, port, family)
        if host in _proxies():
            return found
        outside = [each for each in found if not self._leads_inside(each["host"])]
        if found and not outside:
            raise OSError(errno.EACCES, f"{host} is inside this network, and who sends us there is not")
        return outside

    async def close(self) -> None:
        await self._resolver.close()

    def _leads_inside(self, address: str) -> bool:
        found = _address(address)
        return found is None or self._inside(found)


def _proxies() -> Collection[str]:
    return {urlsplit(proxy).hostname or "" for proxy in getproxies().values()}


def _address(text: Any) -> Address | None:
    try:
        return ipaddress.ip_address(str(text).partition("%")[0])
    except ValueError:
        return None
