"""``cluster-key new``: a key for a new cluster, for machines that are set up by machines."""

import sys

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.doors import new_cluster_key
from ollama_dist.cli.failures import Exit


def run(_: Arguments) -> int:
    print(new_cluster_key().reveal())
    if sys.stdout.isatty():
        print("who has this key is a member; keep it in a file that only its owner can read", file=sys.stderr)
    return Exit.OK
