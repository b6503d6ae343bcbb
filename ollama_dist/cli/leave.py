"""``leave``: take this machine out of the cluster."""

import sys

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, locate
from ollama_dist.cli.failures import Exit, Failure

_PATIENCE_S = 60.0
"""Requests that run end first."""


def run(arguments: Arguments) -> int:
    node = NodeClient(locate(arguments.settings()), _PATIENCE_S)
    if not arguments.yes:
        _ask()
    node.post("/api/distributed/leave", {})
    print("left the cluster; requests that were running have ended, and the node goes on alone")
    return Exit.OK


def _ask() -> None:
    if not sys.stdin.isatty():
        raise Failure("leaving needs a yes", do="ollama-dist leave --yes", exit_code=Exit.USAGE)
    print(
        "Leave the cluster? Its other nodes stop using this machine; joining again needs a code. [y/N] ",
        end="",
    )
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("nothing was changed")
