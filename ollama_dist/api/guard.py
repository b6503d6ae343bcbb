"""Who may speak to the public listener from a browser: the Origin and Host checks, as Ollama makes them.

Pure. Ollama's own: ``server/routes.go`` (allowedHostsMiddleware) and gin-contrib/cors. Ours differ in one
thing: the Host check holds on every bind, not only on loopback, since a page in any browser on the network
can rebind its name to our address.
"""

import ipaddress
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Final

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "0.0.0.0")

DEFAULT_ORIGINS: Final = tuple(
    f"{scheme}://{name}{port}" for name in _LOCAL_NAMES for port in ("", ":*") for scheme in ("http", "https")
) + ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
"""Origins always let in; one ``*`` stands for anything."""

_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal")

_PREFLIGHT_HEADERS: Final = (
    (
        "Access-Control-Allow-Headers",
        "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,Openai-Beta,X-Stainless-Arch,"
        "X-Stainless-Async,X-Stainless-Custom-Poll-Interval,X-Stainless-Helper-Method,X-Stainless-Lang,"
        "X-Stainless-Os,X-Stainless-Package-Version,X-Stainless-Poll-Helper,X-Stainless-Retry-Count,"
        "X-Stainless-Runtime,X-Stainless-Runtime-Version,X-Stainless-Timeout",
    ),
    ("Access-Control-Allow-Methods", "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"),
    ("Access-Control-Max-Age", "43200"),
    ("Vary", "Origin"),
    ("Vary", "Access-Control-Request-Method"),
    ("Vary", "Access-Control-Request-Headers"),
)


class Judgement(Enum):
    PASS = auto()
    PREFLIGHT = auto()
    """Answer 204 with the headers; the request goes no further."""
    WRONG_ORIGIN = auto()
    WRONG_HOST = auto()


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do with a request, and the headers its answer gets either way."""

    judgement: Judgement
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Guard:
    """The lists requests are held against.

    ``hosts`` are names this machine goes by beyond the local ones, ``addresses`` its own IP addresses,
    ``origins`` patterns with at most one ``*`` (a bare ``*`` lets every origin in).
    """

    hosts: frozenset[str] = frozenset()
    addresses: frozenset[str] = frozenset()
    origins: tuple[str, ...] = DEFAULT_ORIGINS

    def judge(self, method: str, host: str, origin: str) -> Verdict:
        """``host`` and ``origin`` are the headers as sent, "" where absent."""
        cross = origin and origin not in (f"http://{host}", f"https://{host}")
        headers: tuple[tuple[str, str], ...] = ()
        if cross:
            if not self._knows_origin(origin):
                return Verdict(Judgement.WRONG_ORIGIN)
            allow = ("Access-Control-Allow-Origin", "*" if "*" in self.origins else origin)
            if method == "OPTIONS":
                return Verdict(Judgement.PREFLIGHT, (allow, *_PREFLIGHT_HEADERS))
            headers = (allow, ("Vary", "Origin"))
        if not self._knows_host(host):
            return Verdict(Judgement.WRONG_HOST)
        return Verdict(Judgement.PASS, headers)

    def _knows_origin(self, origin: str) -> bool:
        return any(_matches(pattern, origin) for pattern in self.origins)

    def _knows_host(self, header: str) -> bool:
        host = host_of(header)
        if host in ("", "localhost") or host in self.hosts or host.endswith(_LOCAL_SUFFIXES):
            return True
        return host in self.addresses or _is_local_address(host)


def _matches(pattern: str, origin: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return origin == pattern
    return len(origin) >= len(before) + len(after) and origin.startswith(before) and origin.endswith(after)


@lru_cache(maxsize=256)
def host_of(header: str) -> str:
    """The host in a Host header, lower case, without port and brackets."""
    if header.startswith("[") and "]" in header:
        return header[1:].partition("]")[0].lower()
    host, colon, port = header.rpartition(":")
    return (host if colon and port.isdigit() else header).lower()


@lru_cache(maxsize=256)
def _is_local_address(host: str) -> bool:
    """Whether it is the address of no machine that everybody can reach."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or _is_private(address) or address.is_unspecified


_PRIVATE: Final = tuple(
    ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


def _is_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """As Go's ``netip.Addr.IsPrivate``: the private networks proper, not everything that is not global."""
    return any(address in net for net in _PRIVATE if net.version == address.version)
