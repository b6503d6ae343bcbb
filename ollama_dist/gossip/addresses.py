"""Under which addresses this node tells others to reach it."""

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Final

import psutil

from ollama_dist.gossip.discovery import join_host_port

MAX_ANNOUNCED: Final = 4

_ANY: Final = ("", "0.0.0.0", "::")
_SHARED: Final = ipaddress.ip_network("100.64.0.0/10")
"""Carrier-grade NAT's range (RFC 6598), which overlay networks such as Tailscale give out."""

_BRIDGES: Final = ("docker", "br-", "veth", "virbr", "cni", "podman")
"""Interfaces that lead to this machine's own containers; their addresses are the same on every machine."""

_NOWHERE: Final = ("192.0.2.1", 9)
"""An address for documentation (RFC 5737): choosing a way there sends nothing."""


def announced(advertise: Sequence[str], host: str, port: int, interfaces: Iterable[str]) -> tuple[str, ...]:
    """``host:port`` of each, at most `MAX_ANNOUNCED`: what was asked for, else where it listens.

    A node that listens everywhere announces the address of each private interface, in the order given, IPv4
    first; without one, what else there is. Others keep the first that answers.
    """
    if advertise:
        return tuple(advertise[:MAX_ANNOUNCED])
    if host not in _ANY:
        return (join_host_port(host, port),)
    ranked = {each: rank for each in interfaces if (rank := _rank(each, host)) is not None}
    private = any(rank < _PUBLIC for rank in ranked.values())
    usable = [
        each for each in sorted(ranked, key=ranked.__getitem__) if ranked[each] < _PUBLIC or not private
    ]
    return tuple(join_host_port(each, port) for each in usable[:MAX_ANNOUNCED])


def interface_addresses() -> list[str]:
    """The IP addresses of this machine's interfaces that are up: the default way out first, bridges last."""
    up = [name for name, stats in psutil.net_if_stats().items() if stats.isup]
    by_interface = psutil.net_if_addrs()
    found = [
        address.address
        for name in sorted(up, key=lambda name: name.startswith(_BRIDGES))
        for address in by_interface.get(name, [])
        if address.family in (socket.AF_INET, socket.AF_INET6)
    ]
    way_out = _way_out()
    return sorted(found, key=lambda address: address != way_out)


_PRIVATE_V4, _PRIVATE_V6, _PUBLIC, _LOOPBACK = range(4)


def _rank(address: str, host: str) -> int | None:
    """None for an address nobody else could use."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return None  # with a scope: of use on one link only
    if parsed.is_link_local or (parsed.version == 6 and host != "::"):
        return None
    if parsed.is_loopback:
        return _LOOPBACK
    if parsed.is_private or parsed in _SHARED:
        return _PRIVATE_V4 if parsed.version == 4 else _PRIVATE_V6
    return _PUBLIC


def _way_out() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_NOWHERE)
        except OSError:
            return ""
        return str(probe.getsockname()[0])
