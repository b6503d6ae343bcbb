"""``nodes``: the members of the cluster."""

import sys

from ollama_dist.cli.answers import read_nodes
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, locate
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.output import print_json, print_lines
from ollama_dist.cli.terminal import terminal_of
from ollama_dist.cli.views import nodes_text


def run(arguments: Arguments) -> int:
    answer = NodeClient(locate(arguments.settings())).get("/api/distributed/nodes")
    if arguments.json:
        print_json("nodes", {"nodes": answer.get("nodes", [])})
    else:
        print_lines(nodes_text(read_nodes(answer), terminal_of(sys.stdout)))
    return Exit.OK
