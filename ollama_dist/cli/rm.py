"""``rm``: delete models on every node that has them."""

import sys

from ollama_dist.cli.answers import read_models
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.failures import Failure
from ollama_dist.cli.moving import client_of, confirm
from ollama_dist.cli.terminal import size
from ollama_dist.core.names import parse_model_name


def run(arguments: Arguments) -> int:
    node = client_of(arguments)
    listed = {
        parse_model_name(each.name).key: each for each in read_models(node.get("/api/distributed/models"))
    }
    found = []
    for name in arguments.models:
        model = listed.get(parse_model_name(name).key)
        if model is None:
            raise Failure(f"no node has {name}", do="ollama-dist models")
        found.append(model)
    for model in found:
        nodes = ", ".join(replica.node for replica in model.replicas)
        print(f"delete {model.name} on {nodes}: {size(model.size)} each", file=sys.stderr)
    if not arguments.yes:
        confirm("It is gone then. Go on?")
    for model in found:
        node.send("DELETE", "/api/delete", {"model": model.name})
        print(f"deleted {model.name}")
    return 0
