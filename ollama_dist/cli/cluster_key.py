"""``cluster-key``: a key for a new cluster, for machines set up by machines, or another for this one."""

import sys
from typing import Any

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, locate
from ollama_dist.cli.doors import new_cluster_key
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.output import print_json
from ollama_dist.cli.terminal import count

_PATIENCE_S = 30.0
"""For every member to take the key."""


def run(arguments: Arguments) -> int:
    if arguments.action == "rotate":
        _rotate(arguments)
        return Exit.OK
    key = new_cluster_key().reveal()
    if arguments.json:
        print_json("cluster_key", {"key": key})
        return Exit.OK
    print(key)
    if sys.stdout.isatty():
        print("who has this key is a member; keep it in a file that only its owner can read", file=sys.stderr)
    return Exit.OK


def _rotate(arguments: Arguments) -> None:
    body: dict[str, Any] = {} if arguments.overlap is None else {"overlap_s": _seconds(arguments.overlap)}
    node = NodeClient(locate(arguments.settings()), _PATIENCE_S)
    rotated = node.post("/api/distributed/rotate", body)
    if arguments.json:
        print_json("rotate", rotated)
        return
    print(
        f"cluster {rotated['cluster']} has key {rotated['epoch']} now, on {count(rotated['members'], 'node')}"
    )
    print(f"the old one is accepted until all have the new one, at most until {rotated['until']};")
    print("a node that is away for longer joins again by a code, and codes made before are void")


def _seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise Failure("--overlap must be a number of seconds", exit_code=Exit.USAGE) from error
