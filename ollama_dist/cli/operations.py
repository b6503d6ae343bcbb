"""``operations``: what is under way, one of them in full, watched or cancelled."""

import sys
import time

from ollama_dist.cli.answers import read_operation, read_operations
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.moving import PATH, client_of, follow
from ollama_dist.cli.output import print_json, print_lines
from ollama_dist.cli.progress import operations_text, step_line
from ollama_dist.cli.terminal import GAP, terminal_of


def run(arguments: Arguments) -> int:
    node, terminal = client_of(arguments), terminal_of(sys.stdout)
    identifier = arguments.operation
    if identifier is None:
        if arguments.watch or arguments.cancel:
            raise Failure("which one?", do="ollama-dist operations", exit_code=Exit.USAGE)
        answer = node.get(PATH)
        if arguments.json:
            print_json("operations", {"operations": answer.get("operations", [])})
        else:
            print_lines(operations_text(read_operations(answer), time.time(), terminal))
        return Exit.OK
    if arguments.cancel:
        answer = node.post(f"{PATH}/{identifier}/cancel", {})
    elif arguments.watch:
        return follow(node, [identifier], as_json=arguments.json)
    else:
        answer = node.get(f"{PATH}/{identifier}")
    if arguments.json:
        print_json("operation", answer)
        return Exit.OK
    found = read_operation(answer)
    print_lines([f"{found.kind} {found.id}: {found.state}, asked for by {found.requested_by}"])
    for step in found.steps:
        print_lines(terminal.wrap(GAP + step_line(step, terminal), GAP * 2))
    return Exit.OK
