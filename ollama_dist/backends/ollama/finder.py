"""Which Ollama a node uses: one it was told of, one that listens already, or one it starts itself."""

import shutil
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

import orjson

from ollama_dist.backends.fetch import get
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import UpstreamFailed, UpstreamRefused
from ollama_dist.core.ids import NodeId

WELL_KNOWN: Final = ("127.0.0.1", 11434)
"""Where an Ollama listens when nobody says otherwise."""

PROBE_TIMEOUT_S: Final = 1.0

_GREETING: Final = b"Ollama is running"


class Listening(Enum):
    """Who answers at an address."""

    NOBODY = auto()
    OLLAMA = auto()
    OUR_NODE = auto()
    """Another node of ours on this machine: it looks like an Ollama, and must not be mistaken for one."""
    SOMEBODY = auto()
    """Something else, or an Ollama too slow to tell."""


@dataclass(frozen=True, slots=True)
class Use:
    """Wait for the Ollama at this address, now and whenever it goes away."""

    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Start:
    """Start this program on a port of its own."""

    program: str


@dataclass(frozen=True, slots=True)
class KeepLooking:
    """There is none yet."""

    reason: str


def choose(
    told: tuple[str, int] | None, well_known: Listening, program: str | None
) -> Use | Start | KeepLooking:
    """What to do, given the address from the settings, who is at the well-known one, and the program."""
    if told is not None:
        return Use(*told)
    if well_known is Listening.OLLAMA:
        return Use(*WELL_KNOWN)
    if program is not None:
        return Start(program)
    host, port = WELL_KNOWN
    return KeepLooking(f"no Ollama listens at {host}:{port} and there is no ollama program to start")


def find_program(name: str) -> str | None:
    """The program's path, or None where it is not installed."""
    return shutil.which(name)


async def who_listens(host: str, port: int) -> Listening:
    """Ask whoever is there for its name."""
    target = Target(NodeId("local"), host, port)
    try:
        status, greeting = await get(target, "/", timeout=PROBE_TIMEOUT_S, limit=1024)
        if status != 200 or greeting != _GREETING:
            return Listening.SOMEBODY
        status, body = await get(target, "/api/version", timeout=PROBE_TIMEOUT_S, limit=4096)
        about = orjson.loads(body)
    except UpstreamRefused:
        return Listening.NOBODY
    except (UpstreamFailed, orjson.JSONDecodeError):
        return Listening.SOMEBODY
    finally:
        target.close()
    if status != 200 or not isinstance(about, dict) or not isinstance(about.get("version"), str):
        return Listening.SOMEBODY
    return Listening.OUR_NODE if "distributed" in about else Listening.OLLAMA
