"""``policy``: how many copies of which models there are to be, and where some stay."""

import sys
from urllib.parse import quote

from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.moving import client_of
from ollama_dist.cli.output import print_json, print_lines
from ollama_dist.cli.terminal import NOTHING, Cell, Column, Row, table, terminal_of

PATH = "/api/distributed/policies"

_COLUMNS = (
    Column("MODELS", shortest=12),
    Column("AT LEAST"),
    Column("AT MOST"),
    Column("PINNED ON", shortest=8),
)


def run(arguments: Arguments) -> int:
    node, action = client_of(arguments), arguments.action
    if action == "list":
        answer = node.get(PATH)
        if arguments.json:
            print_json("policies", {"policies": answer.get("policies", [])})
        else:
            print_lines(_listing(answer.get("policies", [])))
        return Exit.OK
    if arguments.pattern is None:
        raise Failure("for which models?", do=f"ollama-dist policy {action} 'llama3*'", exit_code=Exit.USAGE)
    path = f"{PATH}/{quote(arguments.pattern, safe='/:*')}"
    if action == "remove":
        node.send("DELETE", path, {})
        print(f"no policy for {arguments.pattern} any more; nothing is deleted for that")
        return Exit.OK
    wanted = {
        "min": _count(arguments.min, "--min", 1),
        "max": _count(arguments.max, "--max", None),
        "pinned": arguments.pin or [],
    }
    answer = node.send("PUT", path, wanted)
    if arguments.json:
        print_json("policy", answer)
    else:
        print_lines(_listing([answer["policy"]]))
    return Exit.OK


def _count(text: str | None, flag: str, default: int | None) -> int | None:
    if text is None:
        return default
    if not text.isdigit():
        raise Failure(f"{flag} must be a number of copies", exit_code=Exit.USAGE)
    return int(text)


def _listing(policies: list[dict[str, object]]) -> list[str]:
    if not policies:
        return ["no policies: nothing is copied or deleted by itself for the number of copies"]
    rows = [
        Row(
            [
                Cell(str(policy.get("pattern"))),
                Cell(str(policy.get("min"))),
                Cell(NOTHING if policy.get("max") is None else str(policy["max"])),
                Cell(", ".join(map(str, policy.get("pinned") or [])) or NOTHING),  # type: ignore[call-overload]
            ]
        )
        for policy in policies
    ]
    return table(_COLUMNS, rows, terminal_of(sys.stdout))
