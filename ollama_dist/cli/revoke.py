"""``revoke``: take a node out of the cluster, whether it likes it or not."""

import sys

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, locate
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.output import print_json
from ollama_dist.cli.terminal import count

_PATIENCE_S = 30.0
"""For every member that stays to take the new key."""


def run(arguments: Arguments) -> int:
    node = NodeClient(locate(arguments.settings()), _PATIENCE_S)
    if not arguments.yes:
        _ask(arguments.node)
    revoked = node.post("/api/distributed/revoke", {"node": arguments.node})
    if arguments.json:
        print_json("revoke", revoked)
        return Exit.OK
    print(
        f"revoked: {revoked['revoked']}; {count(revoked['members'], 'node')} have key {revoked['epoch']} now"
    )
    if revoked["missed"]:
        print(
            f"{count(revoked['missed'], 'member')} did not answer: tried again for a minute, then by a code"
        )
    return Exit.OK


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise Failure("revoking needs a yes", do=f"ollama-dist revoke {name} --yes", exit_code=Exit.USAGE)
    print(f"Revoke {name}? It, and nodes that are away now, can come back only by a code. [y/N] ", end="")
    sys.stdout.flush()
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("nothing was changed")
