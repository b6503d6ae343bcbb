"""``status``: how the cluster is, whether the node runs or not."""

import sys
from dataclasses import asdict

from ollama_dist.cli.answers import read_nodes, read_status
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, NotRunning, Whereabouts, locate
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.output import print_json, print_lines
from ollama_dist.cli.problems import all_problems, is_degraded
from ollama_dist.cli.terminal import terminal_of
from ollama_dist.cli.views import not_running_text, status_text


def run(arguments: Arguments) -> int:
    where = locate(arguments.settings())
    try:
        node = NodeClient(where)
        answer, listing = node.get("/api/distributed/status"), node.get("/api/distributed/nodes")
    except NotRunning as down:
        return _not_running(arguments, where, down)
    status, nodes = read_status(answer), read_nodes(listing)
    problems = all_problems(status, nodes)
    if arguments.json:
        told = {"problems": [problem._asdict() for problem in problems]}
        print_json("status", {"running": True, **answer, **told, "members": listing.get("nodes", [])})
    else:
        print_lines(status_text(status, nodes, terminal_of(sys.stdout)))
    return Exit.DEGRADED if is_degraded(problems) else Exit.OK


def _not_running(arguments: Arguments, where: Whereabouts, down: NotRunning) -> int:
    if arguments.json:
        known = asdict(where.runtime) if where.runtime else None
        looked = {"looked_at": str(where.address), "reason": down.what, "last_known": known}
        print_json("status", {"running": False, **looked})
    else:
        what = f"{down.what} ({down.why})" if down.why else down.what
        print_lines(not_running_text(what, where.runtime, terminal_of(sys.stdout)))
    return Exit.NOT_RUNNING
