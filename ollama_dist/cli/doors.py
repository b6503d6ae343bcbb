"""The doors to other rooms, each opened only when a command goes through it: their imports are slow."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from ollama_dist.node.config import Settings
from ollama_dist.node.setting_values import Secret


class _Node(Protocol):
    def run(self, settings: Settings) -> int: ...


class Joined(Protocol):
    """What a code was good for."""

    @property
    def cluster_key(self) -> str: ...

    @property
    def addresses(self) -> Sequence[str]:
        """Members' listeners, ``host:port``."""
        ...


class _Invitations(Protocol):
    def redeem(self, code: str) -> Joined: ...


class _Keys(Protocol):
    def new_cluster_key(self) -> str: ...


class _Tiny(Protocol):
    def write_tiny_model(self, path: Path, sentence: str) -> None: ...


def run_node(settings: Settings) -> int:
    """Serve until told to stop; the exit code. Raises `DistError` for what kept the node from starting."""
    return cast(_Node, import_module("ollama_dist.cli.serving")).run(settings)


def redeem_invitation(code: str) -> Joined:
    """Trade a code for the cluster's key. Raises `DistError`: used, expired, or of another cluster."""
    return cast(_Invitations, import_module("ollama_dist.gossip.invite")).redeem(code)


def new_cluster_key() -> Secret:
    """A key for a new cluster."""
    return Secret(cast(_Keys, import_module("ollama_dist.gossip.keys")).new_cluster_key())


def write_tiny_model(path: Path, sentence: str) -> None:
    """Write a GGUF file of a few hundred kilobytes whose model says one sentence."""
    cast(_Tiny, import_module("ollama_dist.backends.llamacpp.tiny")).write_tiny_model(path, sentence)
