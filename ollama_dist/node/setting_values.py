"""The kinds of value a setting can have, and how each is read from text.

Every reader takes text and returns a value, or raises `ValueError` with words that follow the setting's name:
"must be …". The same readers serve flags, environment and file.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Final, TypeVar

from ollama_dist.core.contexts import ContextRule
from ollama_dist.core.dialects import DIALECTS, FORMS
from ollama_dist.core.labels import LABELS_MAX, Label

OLLAMA_PORT: Final = 11434
NODE_PORT: Final = 11436
SEARCHED_PORTS: Final = 64
"""How many ports are tried when "the next free one" will do."""

Choice = TypeVar("Choice", bound=StrEnum)
Item = TypeVar("Item")

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[A-Za-z0-9_][A-Za-z0-9_-]*(\.[A-Za-z0-9_][A-Za-z0-9_-]*)*\.?")
_ONE_WORD = re.compile(r"[!-~]+")
_MODEL_PATTERN = re.compile(r"[A-Za-z0-9_*?./:-]{1,512}")
_NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Secret:
    """Text that must not be shown: printing, formatting and logging it give a mask."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself, for its one audience."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class Address:
    """Where something can be reached."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen. ``search``: the next free port will do as well."""

    host: str
    port: int
    search: bool = False

    def ports(self) -> range:
        """The ports to try, in order; 0 lets the system choose."""
        last = min(self.port + SEARCHED_PORTS - 1, 65535) if self.search and self.port else self.port
        return range(self.port, last + 1)

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can connect."""
        return is_loopback(self.host)

    @property
    def reachable(self) -> Address:
        """The same place for a program on this machine: "all interfaces" is listened to, not connected to."""
        return Address(connectable_host(self.host), self.port)

    def __str__(self) -> str:
        return join_host_port(self.host, self.port)


class EngineChoice(StrEnum):
    AUTO = "auto"
    OLLAMA = "ollama"
    LLAMACPP = "llama.cpp"
    NONE = "none"


class GossipProfile(StrEnum):
    LAN = "lan"
    WAN = "wan"
    TEST = "test"


class ClientKeys(StrEnum):
    """Which clients have to show a key."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


def join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@lru_cache(maxsize=1024)
def is_loopback(host: str) -> bool:
    """Whether ``host`` is this machine; remembered, for every request asks it of the same few."""
    address = _ip(host)
    return address.is_loopback if address else host.rstrip(".").lower() == "localhost"


def connectable_host(host: str) -> str:
    """``host``, or the loopback address where it stands for every interface."""
    address = _ip(host)
    if address is None or not address.is_unspecified:
        return host
    return "127.0.0.1" if address.version == 4 else "::1"


def parse_bool(text: str) -> bool:
    match text.strip().lower():
        case "true" | "1" | "yes" | "on":
            return True
        case "false" | "0" | "no" | "off":
            return False
    raise ValueError("must be true or false")


def whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    """A reader of whole numbers within bounds, both included."""

    def parse(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"must be a whole number from {lowest} to {highest}") from None
        if not lowest <= number <= highest:
            raise ValueError(f"must be from {lowest} to {highest}")
        return number

    return parse


def one_of(choices: type[Choice]) -> Callable[[str], Choice]:
    """A reader of one word out of a few."""

    def parse(text: str) -> Choice:
        word = text.strip().lower()
        try:
            return choices(word)
        except ValueError:
            listed = ", ".join(choices)
            raise ValueError(f"must be one of {listed}{did_you_mean(word, choices)}") from None

    return parse


def listed(parse: Callable[[str], Item], *, at_most: int) -> Callable[[str], tuple[Item, ...]]:
    """A reader of values separated by commas; empty parts are skipped."""

    def parse_all(text: str) -> tuple[Item, ...]:
        parts = [part.strip() for part in text.split(",")]
        items = tuple(parse(part) for part in parts if part)
        if len(items) > at_most:
            raise ValueError(f"must name at most {at_most}, it names {len(items)}")
        return items

    return parse_all


def parse_context_rule(text: str) -> ContextRule:
    pattern, equals, tokens = text.rpartition("=")
    name = pattern.strip()
    if not equals or not _MODEL_PATTERN.fullmatch(name):
        raise ValueError("must be NAME=TOKENS, as in llama3:8b=8192")
    try:
        return ContextRule(name, whole_number(1, 2**24)(tokens.strip()))
    except ValueError as error:
        raise ValueError(f"tokens for {name} {error}") from None


def parse_labels(text: str) -> tuple[Label, ...]:
    labels = listed(Label.parse, at_most=LABELS_MAX)(text)
    names = [label.name for label in labels]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"says {twice} twice")
    return labels


def parse_cached_route(text: str) -> str:
    kept = DIALECTS.keys() - FORMS  # no two forms are alike: each has a boundary of its own
    if text not in kept:
        raise ValueError(f"must be routes that infer from JSON{did_you_mean(text, sorted(kept))}")
    return text


def parse_text(text: str) -> str:
    return text.strip()


def parse_ip(text: str) -> str:
    if _ip(text.strip()) is None:
        raise ValueError("must be IP addresses of this machine's interfaces")
    return text.strip()


def parse_path(text: str) -> Path:
    return Path(text.strip()).expanduser()


def parse_secret(text: str) -> Secret:
    if not _ONE_WORD.fullmatch(text.strip()):
        raise ValueError("must be one word of plain characters")
    return Secret(text.strip())


def parse_node_name(text: str) -> str:
    name = text.strip()
    if not _NODE_NAME.fullmatch(name):
        raise ValueError(
            "must be 1 to 63 letters, digits, dots, dashes or underscores, a letter or digit first"
        )
    return name


def listen_on(default_host: str, default_port: int) -> Callable[[str], Listen]:
    """A reader of listening addresses; without a port the usual one is meant, or the next free one."""

    def parse(text: str) -> Listen:
        host, port = _split(text)
        if port is None:
            return Listen(host or default_host, default_port, search=True)
        return Listen(host or default_host, port)

    return parse


def address_with(default_port: int) -> Callable[[str], Address]:
    """A reader of addresses to connect to."""

    def parse(text: str) -> Address:
        host, port = _split(text)
        if not host:
            raise ValueError("must begin with a host, as in host:port")
        if port == 0:
            raise ValueError("must have a port from 1 to 65535")
        return Address(host, default_port if port is None else port)

    return parse


def parse_ollama_address(text: str) -> Address:
    """Where an Ollama answers, written as Ollama's own ``OLLAMA_HOST`` may be (``envconfig/config.go``).

    Host, port or both, with or without ``http://`` (then port 80 is meant where none is said). Unlike there a
    bad port is an error, not 11434; "all interfaces" means loopback, as in Ollama's ``ConnectableHost``.
    """
    scheme, separator, rest = text.strip().strip("\"'").strip().rpartition("://")
    if separator and scheme.lower() != "http":
        raise ValueError("must be plain http: name the address Ollama itself listens on")
    place, _, path = rest.partition("/")
    if path:
        raise ValueError("must be an address without a path")
    host, port = _split(place)
    if port == 0:
        raise ValueError("must have a port from 1 to 65535")
    usual = 80 if separator else OLLAMA_PORT
    return Address(connectable_host(host) if host else "127.0.0.1", usual if port is None else port)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean '…'?`` when something known is close, else nothing."""
    near = nearest(word, known)
    return f"; did you mean {near!r}?" if near else ""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like this one, if any does."""
    from difflib import get_close_matches  # a slow import that only a mistake needs

    matches = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return str(matches[0]) if matches else None


def _split(text: str) -> tuple[str, int | None]:
    """Host and port of ``host``, ``host:port``, ``:port``, ``[v6]:port``, ``[v6]`` or a bare IPv6 address."""
    text = text.strip()
    if _ip(text.strip("[]")) is not None:
        return text.strip("[]"), None
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, ""
    host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if host and _ip(host) is None and not _HOST_NAME.fullmatch(host):
        raise ValueError("must be host:port with a host name or an IP address")
    if not colon:
        return host, None
    if not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError("must have a port from 0 to 65535 after the colon")
    return host, int(port)


def _ip(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None
