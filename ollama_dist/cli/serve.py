"""``serve``: settings from the command line, then the node itself."""

from importlib import import_module
from typing import Protocol, cast

from ollama_dist.cli.arguments import Arguments
from ollama_dist.node.config import Settings
from ollama_dist.node.logs import configure_logging


class NodeProgram(Protocol):
    """The node's own entry: `ollama_dist.node.main`."""

    def run(self, settings: Settings) -> int:
        """Serve until told to stop; the exit code. Raises `DistError` for what kept it from starting."""
        ...


def run(arguments: Arguments) -> int:
    settings = arguments.settings()
    secrets = [secret for secret in (settings.cluster.cluster_key, settings.admin.admin_token) if secret]
    configure_logging(settings.log, secrets=secrets)
    node = cast(NodeProgram, import_module("ollama_dist.node.main"))
    return node.run(settings)
