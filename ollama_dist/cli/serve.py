"""``serve``: settings from the command line, then the node itself."""

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.doors import run_node
from ollama_dist.node.logs import configure_logging


def run(arguments: Arguments) -> int:
    settings = arguments.settings()
    secrets = [secret for secret in (settings.cluster.cluster_key, settings.admin.admin_token) if secret]
    configure_logging(settings.log, secrets=secrets)
    return run_node(settings)
