"""``rebalance``: bring all copies to where policies and demand want them, now."""

import sys

from ollama_dist.cli.answers import read_nodes, read_operation
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.moving import client_of, confirm, follow
from ollama_dist.cli.output import print_json, print_lines
from ollama_dist.cli.progress import plan_text
from ollama_dist.cli.terminal import terminal_of

PATH = "/api/distributed/rebalance"


def run(arguments: Arguments) -> int:
    node = client_of(arguments)
    wish = {"models": arguments.models}
    answer = node.post(PATH, {**wish, "dry_run": True})
    plan = read_operation(answer)
    if arguments.json and (arguments.dry_run or not plan.steps):
        print_json("rebalance", answer)
        return Exit.OK
    room = {each.name: each.disk_free for each in read_nodes(node.get("/api/distributed/nodes"))}
    text = plan_text(plan, room, terminal_of(sys.stdout))
    if arguments.dry_run or not plan.steps:
        print_lines(text)
        return Exit.OK
    print("\n".join(text), file=sys.stderr)
    if not arguments.yes:
        confirm("Go on?")
    begun = node.post(PATH, wish)["operation"]["id"]
    if arguments.detach:
        print(begun)
        return Exit.OK
    return follow(node, [begun], as_json=arguments.json)
