"""``invite``: a code with which one machine can join this cluster."""

import sys

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, locate
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.output import print_json


def run(arguments: Arguments) -> int:
    invite = NodeClient(locate(arguments.settings())).post("/api/distributed/invite", {})
    if arguments.json:
        print_json("invite", invite)
        return Exit.OK
    print(f"on the other machine, before {invite['expires_at']}:", file=sys.stderr)
    print(invite.get("command") or f"ollama-dist join {invite['code']}")
    print("the code works once; who has it can join and then reads and answers requests", file=sys.stderr)
    return Exit.OK
