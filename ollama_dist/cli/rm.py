"""``rm``: delete models on every node that has them, or on one."""

import sys

from ollama_dist.cli.answers import read_models
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.moving import client_of, confirm, follow, planned_first
from ollama_dist.cli.output import print_json
from ollama_dist.cli.terminal import size
from ollama_dist.core.names import parse_model_name


def run(arguments: Arguments) -> int:
    if arguments.force and not arguments.node:
        raise Failure("--force goes with --node", do="ollama-dist rm --help", exit_code=Exit.USAGE)
    node = client_of(arguments)
    return _on_one(node, arguments) if arguments.node else _everywhere(node, arguments)


def _on_one(node: NodeClient, arguments: Arguments) -> int:
    force = {"force": True} if arguments.force else {}
    wishes = [{"model": model, "from": arguments.node, **force} for model in arguments.models]
    planned_first(node, wishes, yes=arguments.yes, destructive=True)
    begun = [node.post("/api/distributed/migrate", wish)["operation"]["id"] for wish in wishes]
    if arguments.detach:
        print("\n".join(begun))
        return Exit.OK
    return follow(node, begun, as_json=arguments.json)


def _everywhere(node: NodeClient, arguments: Arguments) -> int:
    listed = {
        parse_model_name(each.name).key: each for each in read_models(node.get("/api/distributed/models"))
    }
    names = []
    for asked in arguments.models:
        model = listed.get(parse_model_name(asked).key)
        names.append(model.name if model is not None else asked)
        if model is not None:
            nodes = ", ".join(replica.node for replica in model.replicas)
            print(f"delete {model.name} on {nodes}: {size(model.size)} each", file=sys.stderr)
        else:
            print(f"delete {asked}: no node that can be reached has it", file=sys.stderr)
    if not arguments.yes:
        confirm("It is gone then. Go on?")
    said: dict[str, str] = {}
    for name in names:
        said[name] = node.send("DELETE", "/api/delete", {"model": name}).get("status", "deleted")
        if not arguments.json:
            print(f"deleted {name}" if said[name] == "deleted" else f"{name}: {said[name]}")
    if arguments.json:
        print_json("deleted", {"models": said})
    return Exit.OK
