"""``copy`` and ``move``: a model to another node, kept where it was or not."""

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.moving import client_of, follow, planned_first


def run(arguments: Arguments) -> int:
    node = client_of(arguments)
    keeps = arguments.command == "copy"
    start: dict[str, object] = {"from": arguments.source} if arguments.source else {}
    if arguments.no_load and not keeps:
        start["load"] = False
    wishes = [
        {"model": arguments.model, "to": to, "keep_source": keeps, **start} for to in arguments.destinations
    ]
    planned_first(node, wishes, yes=arguments.yes, destructive=not keeps)
    begun = [node.post("/api/distributed/migrate", wish)["operation"]["id"] for wish in wishes]
    if arguments.detach:
        print("\n".join(begun))
        return 0
    return follow(node, begun, as_json=arguments.json)
