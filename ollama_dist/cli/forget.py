"""``forget``: list a dead node no more."""

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, locate
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.output import print_json


def run(arguments: Arguments) -> int:
    forgotten = NodeClient(locate(arguments.settings())).post(
        "/api/distributed/forget", {"node": arguments.node}
    )
    if arguments.json:
        print_json("forget", forgotten)
    else:
        print(f"forgotten: {forgotten['forgotten']}; should it come back, it is listed again")
    return Exit.OK
