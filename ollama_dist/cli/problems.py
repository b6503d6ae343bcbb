"""What is wrong, as cause -> effect -> fix: told by the node, or plain from its answers."""

from collections.abc import Sequence

from ollama_dist.cli.answers import Node, Problem, Status


def all_problems(status: Status, nodes: Sequence[Node]) -> list[Problem]:
    """The node's own list, and what its answers show though that list does not name it."""
    told = {problem.code for problem in status.problems}
    found = [_member_problem(node) for node in nodes if node.state in ("suspect", "dead")]
    if status.engine_kind not in ("", "none") and status.engine_state == "unreachable":
        found.append(_engine_problem(status))
    return [*status.problems, *(problem for problem in found if problem.code not in told)]


def is_degraded(problems: Sequence[Problem]) -> bool:
    return any(problem.severity != "info" for problem in problems)


def engine_text(status: Status) -> str:
    if status.engine_kind in ("", "none"):
        return "none on this machine"
    kind = "Ollama" if status.engine_kind == "ollama" else status.engine_kind
    state = "" if status.engine_state == "ready" else f" ({status.engine_state})"
    at = f" at {status.engine_address}" if status.engine_address else ""
    return f"{kind} {status.engine_version}".rstrip() + at + state


def _engine_problem(status: Status) -> Problem:
    cause = status.engine_error or f"{engine_text(status._replace(engine_state='ready'))} does not answer"
    return Problem(
        "error", "engine_unreachable", f"{cause} -> its models are not served from here", "ollama serve"
    )


def _member_problem(node: Node) -> Problem:
    reason = f" ({node.reason})" if node.reason else ""
    if node.state == "suspect":
        return Problem(
            "warning",
            "member_suspect",
            f"{node.name} does not answer{reason} -> it gets no work while others can do it",
            f"see whether {node.name} is up and can be reached at {node.address}",
        )
    return Problem(
        "warning",
        "member_dead",
        f"{node.name} is gone{reason} -> models that only it had cannot be used",
        f"start {node.name} again; it is forgotten 24 h after it was seen last",
    )
