"""``drain`` and ``undrain``: empty a node so that it can be switched off, and take it back into use."""

import sys

from ollama_dist.cli.answers import read_status
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.moving import client_of, follow
from ollama_dist.cli.output import print_json


def run(arguments: Arguments) -> int:
    node = client_of(arguments)
    name = arguments.node or read_status(node.get("/api/distributed/status")).name
    is_drain = arguments.command == "drain"
    answer = node.post(f"/api/distributed/{arguments.command}", {"node": name})
    operation = answer["operation"]
    if is_drain:
        print(f"{name} takes no new requests; those that run end by themselves", file=sys.stderr)
    if operation is not None and is_drain and not arguments.detach:
        return follow(node, [operation["id"]], as_json=arguments.json)
    if arguments.json:
        print_json(arguments.command, answer)
    elif is_drain:
        print(operation["id"] if operation else f"{name} is drained: it can be switched off")
    else:
        print(f"{name} takes requests again")
    return Exit.OK
