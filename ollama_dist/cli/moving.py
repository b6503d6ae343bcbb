"""What the commands that move models have in common: showing a plan, asking, following an operation."""

import sys
from collections.abc import Sequence
from typing import Any, Final

from ollama_dist.cli.answers import RunningOperation, read_nodes, read_operation
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, locate
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.output import print_json
from ollama_dist.cli.progress import display_on, plan_text, trouble
from ollama_dist.cli.terminal import size, terminal_of

PATH: Final = "/api/distributed/operations"
PATIENCE_S: Final = 30.0
"""For a node to begin something: it may have to ask others, and to write it down."""

ASKED_ABOVE: Final = 1_000_000_000
"""Bytes: what copies less is simply done."""

INTERRUPTED: Final = 130


def client_of(arguments: Arguments) -> NodeClient:
    return NodeClient(locate(arguments.settings()), PATIENCE_S)


def planned_first(
    node: NodeClient, wishes: Sequence[dict[str, Any]], *, yes: bool, destructive: bool
) -> None:
    """Show what ``wishes`` (bodies of ``migrate``) come to and ask, where it is much or takes something away.

    Raises `Failure` when the answer is no, or nobody is there to give one.
    """
    plans = [
        read_operation(node.post("/api/distributed/migrate", {**wish, "dry_run": True})) for wish in wishes
    ]
    steps = [step for plan in plans for step in plan.steps]
    total = sum(step.bytes_total for step in steps if step.action == "copy")
    if total <= ASKED_ABOVE and not (destructive and steps):
        return
    room = {each.name: each.disk_free for each in read_nodes(node.get("/api/distributed/nodes"))}
    terminal = terminal_of(sys.stderr)
    for plan in plans:
        print("\n".join(plan_text(plan, room, terminal)), file=sys.stderr)
    what = f"{size(total)} in all" if total else "nothing is copied"
    if not yes:
        confirm(f"{what}. Go on?")


def confirm(question: str) -> None:
    """Raises `Failure` unless a person says yes."""
    if not sys.stdin.isatty():
        raise Failure("this needs a yes", do="the same with --yes", exit_code=Exit.USAGE)
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise Failure("nothing was changed")


def follow(node: NodeClient, operations: Sequence[str], *, as_json: bool) -> int:
    """Show operations until they are over, one after the other; the exit code."""
    ended = []
    try:
        for identifier in operations:
            display = display_on(terminal_of(sys.stderr))
            last = None
            for body in node.lines("GET", f"{PATH}/{identifier}?stream=true"):
                last = body
                display.show(read_operation(body))
            if last is None:
                raise Failure(
                    "the node said nothing of the operation", do=f"ollama-dist operations {identifier}"
                )
            ended.append(last)
    except KeyboardInterrupt:
        for identifier in operations[len(ended) :]:
            print(_goes_on(identifier), file=sys.stderr)
        return INTERRUPTED
    if as_json:
        print_json("operations", {"operations": [each["operation"] for each in ended]})
    return max((_report(read_operation(each), quiet=as_json) for each in ended), default=Exit.OK)


def _goes_on(identifier: str) -> str:
    return (
        f"it goes on without you; see it:  ollama-dist operations {identifier} --watch\n"
        f"                       end it:  ollama-dist operations {identifier} --cancel"
    )


def _report(operation: RunningOperation, *, quiet: bool) -> Exit:
    if operation.state == "succeeded":
        if not quiet:
            print("\n".join(_outcomes(operation)))
        return Exit.OK
    told = next((step for step in operation.steps if trouble(step)), None)
    word = "was cancelled" if operation.state == "cancelled" else operation.state
    do = f"ollama-dist operations {operation.id} --json"
    if told is not None and told.action == "load" and told.state == "failed":
        do = "the same with --no-load, to move it on disk alone; both copies are there"
    raise Failure(f"the {operation.kind} {word}", why=trouble(told) if told is not None else "", do=do)


def _outcomes(operation: RunningOperation) -> list[str]:
    copied = [f"{step.model} is on {step.to}, verified" for step in operation.steps if step.action == "copy"]
    gone = [
        f"{step.model} is no more on {step.origin}" for step in operation.steps if step.action == "delete"
    ]
    if operation.kind == "drain":
        return [
            *copied,
            "drained: the node can be switched off; `ollama-dist undrain` takes it back into use",
        ]
    return [*copied, *gone] or ["nothing was to be done"]
