"""Who may speak to the public listener from a browser: the Origin and Host checks, as Ollama makes them.

Pure. Ollama's own: ``server/routes.go`` (allowedHostsMiddleware) and gin-contrib/cors. Ours differ in three
things. The Host check holds on every bind, not only on loopback, since a page in any browser on the network
can rebind its name to our address. A Host that is no host is refused as malformed, the empty one included:
Go reads as much of it as it can, and a proxy in front may have read something else. And a request that would
change something, of which the browser says that another site caused it, needs an Origin to be let in for.
"""

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from typing import Final

from ollama_dist.core.values import value

_LOCAL_NAMES: Final = ("localhost", "127.0.0.1", "0.0.0.0")

DEFAULT_ORIGINS: Final = tuple(
    f"{scheme}://{name}{port}" for name in _LOCAL_NAMES for port in ("", ":*") for scheme in ("http", "https")
) + ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")
"""Origins always let in; one ``*`` stands for anything."""

_LOCAL_SUFFIXES: Final = (".localhost", ".local", ".internal")

_SAFE_METHODS: Final = ("GET", "HEAD", "OPTIONS")

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
    BAD_HOST = auto()
    """The Host header is none, or the request line names another host."""


@value(frozen=True, slots=True)
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

    def judge(
        self, method: str, host: str | None, origin: str, *, target: str = "/", site: str = ""
    ) -> Verdict:
        """``host``, ``origin`` and ``site`` (Sec-Fetch-Site) are the headers as sent.

        A ``host`` of None is none at all, as HTTP/1.0 allows; ``target`` is what the request line asks for.
        """
        if (host is not None and host_of(host) is None) or _names_another(target, host):
            return Verdict(Judgement.BAD_HOST)
        cross = origin and origin not in (f"http://{host}", f"https://{host}")
        headers: tuple[tuple[str, str], ...] = ()
        if cross:
            if not self._knows_origin(origin):
                return Verdict(Judgement.WRONG_ORIGIN)
            allow = ("Access-Control-Allow-Origin", "*" if "*" in self.origins else origin)
            if method == "OPTIONS":
                return Verdict(Judgement.PREFLIGHT, (allow, *_PREFLIGHT_HEADERS))
            headers = (allow, ("Vary", "Origin"))
        elif not origin and site == "cross-site" and method not in _SAFE_METHODS:
            # Browsers name the origin of whatever is not safe: here something on the way took it out.
            return Verdict(Judgement.WRONG_ORIGIN)
        if host is not None and not self._knows_host(host):
            return Verdict(Judgement.WRONG_HOST)
        return Verdict(Judgement.PASS, headers)

    def _knows_origin(self, origin: str) -> bool:
        is_one = not {" ", ","} & set(origin)  # a pattern's star would take a second one in
        return is_one and any(_matches(pattern, origin) for pattern in self.origins)

    def _knows_host(self, header: str) -> bool:
        host = host_of(header)
        if host is None:
            return False
        if host == "localhost" or host in self.hosts or host.endswith(_LOCAL_SUFFIXES):
            return True
        return _is_near(host, self.addresses)


def _matches(pattern: str, origin: str) -> bool:
    before, star, after = pattern.partition("*")
    if not star:
        return origin == pattern
    return len(origin) >= len(before) + len(after) and origin.startswith(before) and origin.endswith(after)


_HOST: Final = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]{2,45})\]|(?P<name>(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63})\.?)(?::(?P<port>[0-9]{0,5}))?"
)
"""RFC 9110 §7.2, of a registered name only what DNS knows: no user, no escapes, no zone, no list."""


@lru_cache(maxsize=256)
def host_of(header: str) -> str | None:
    """The host in a Host header, lower case, without port, brackets and final dot; None where it is none."""
    found = _HOST.fullmatch(header)
    if found is None or len(header) > 300 or int(found["port"] or 0) > 65535:
        return None
    if found["v6"] is None:
        return found["name"].lower()
    try:
        return str(ipaddress.IPv6Address(found["v6"]))
    except ValueError:
        return None


def _names_another(target: str, host: str | None) -> bool:
    """Whether a request line that names a host itself (RFC 9112 §3.2.2) names another than ``host``."""
    if target.startswith("/") or target == "*":
        return False
    authority = re.split("[/?#]", target.partition("://")[2] or target, maxsplit=1)[0]
    return host is None or authority.lower() != host.lower()


@lru_cache(maxsize=256)
def _is_near(host: str, own: frozenset[str]) -> bool:
    """Whether it is the address of no machine that everybody can reach, or one of our ``own``."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    address = getattr(address, "ipv4_mapped", None) or address
    is_near = address.is_loopback or _is_private(address) or address.is_unspecified
    return is_near or str(address) in own


_PRIVATE: Final = tuple(
    ipaddress.ip_network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


def _is_private(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """As Go's ``netip.Addr.IsPrivate``: the private networks proper, not everything that is not global."""
    return any(address in net for net in _PRIVATE if net.version == address.version)
