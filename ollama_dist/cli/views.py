"""Status, nodes and models as text: from what a node answers to the lines a person reads."""

from collections.abc import Sequence
from typing import Final

from ollama_dist.cli.answers import Model, Node, Problem, Replica, Status
from ollama_dist.cli.problems import all_problems, engine_text
from ollama_dist.cli.terminal import (
    GAP,
    NOTHING,
    Cell,
    Column,
    Row,
    Terminal,
    Tone,
    ago,
    count,
    milliseconds,
    size,
    table,
)
from ollama_dist.node.reports import REACH_WORDS, Reach
from ollama_dist.node.runtime_file import Runtime

_NODE_COLUMNS: Final = (
    Column("NODE", shortest=8),
    Column("STATE"),
    Column("LOADED", shortest=8),
    Column("RUN/WAIT", keep=8, right=True),
    Column("TOK/S", keep=5, right=True),
    Column("FREE", keep=6, right=True),
    Column("RTT", keep=4, right=True),
    Column("VERSION", keep=2),
    Column("SEEN", keep=3, right=True),
)

_WIDEST_NODE: Final = 12
_SEVERE: Final = {"info": Tone.DIM, "warning": Tone.WARN}


def status_text(status: Status, nodes: Sequence[Node], terminal: Terminal) -> list[str]:
    """The whole of ``ollama-dist status``."""
    lines = [*_headline(status, terminal), *_facts(status, terminal)]
    if nodes:
        lines += ["", *nodes_text(nodes, terminal)]
    for seen in status.seen:
        where = f" at {', '.join(seen.addresses)}" if seen.addresses else ""
        lines += ["", *terminal.wrap(f"seen, not joined: cluster {seen.cluster}{where}", GAP)]
        lines += [f"{GAP}there: ollama-dist invite", f"{GAP}here:  ollama-dist join CODE"]
    problems = all_problems(status, nodes)
    if problems:
        lines += ["", terminal.paint(count(len(problems), "problem"), Tone.STRONG)]
        lines += [line for problem in problems for line in _problem(problem, terminal)]
    return lines


def nodes_text(nodes: Sequence[Node], terminal: Terminal) -> list[str]:
    """One row per member; why it is in its state below those that are not well."""
    return table(_NODE_COLUMNS, [_node_row(node) for node in nodes], terminal)


def models_text(models: Sequence[Model], terminal: Terminal) -> list[str]:
    """Models against nodes where that fits, else each model with the nodes that have it."""
    if not models:
        return ["no model yet; get one: ollama pull llama3.2"]
    nodes = sorted({replica.node for model in models for replica in model.replicas})
    longest = max(len(model.name) for model in models)
    grid_width = longest + 8 + sum(2 + max(len(node), 8) for node in nodes)
    as_grid = max(map(len, nodes), default=0) <= _WIDEST_NODE and grid_width <= terminal.width
    lines = _grid(models, nodes, terminal) if as_grid else _listing(models, terminal)
    conflicts = [model.name for model in models if model.conflict]
    if conflicts:
        lines += ["", *terminal.wrap(f"versions differ between nodes: {', '.join(conflicts)}", GAP)]
    return lines


def not_running_text(what: str, known: Runtime | None, terminal: Terminal) -> list[str]:
    """What can be said of a node that is down."""
    lines = [what]
    if known is not None:
        peers = f" with {', '.join(known.peers)}" if known.peers else ""
        cluster = f", cluster {known.cluster}{peers}" if known.cluster else ""
        when = (
            f"stopped {known.stopped_at}" if known.stopped_at else f"ended abruptly after {known.updated_at}"
        )
        models = count(known.models, "model")
        lines += [f"last known: node {known.name} ({known.version}){cluster}, {models}; it {when}"]
    lines += ["start it:   ollama-dist serve"]
    return [part for line in lines for part in terminal.wrap(line, " " * 12)]


def _headline(status: Status, terminal: Terminal) -> list[str]:
    states = ((status.suspect, "suspect"), (status.dead, "dead"))
    troubled = ", ".join(f"{number} {word}" for number, word in states if number)
    members = count(status.members, "node") + (f" ({troubled})" if troubled else "")
    rest = f"{status.mode}, cluster {status.cluster or NOTHING}, {members}, up {ago(status.uptime_s)}"
    first, *more = terminal.wrap(f"{status.name} {status.version}: {rest}", GAP)
    return [first.replace(status.name, terminal.paint(status.name, Tone.STRONG), 1), *more]


def _reach(reach: str) -> str:
    """Who can connect; nothing where a node of another version does not tell."""
    return f"  (reachable by {REACH_WORDS[Reach(reach)]})" if reach in set(Reach) else ""


def _facts(status: Status, terminal: Terminal) -> list[str]:
    fallback = "" if status.fallback else "; fallback is off"
    copies = f"{status.replicas} {'copy' if status.replicas == 1 else 'copies'}"
    facts = [
        f"clients   http://{status.listen}{_reach(status.reach)}",
        f"engine    {engine_text(status)}",
        f"models    {status.model_names}, in {copies}",
        f"requests  {status.in_flight} running, {status.waiting} waiting, {status.served} served, "
        f"{status.failed} failed, {count(status.fallbacks, 'fallback')}{fallback}",
    ]
    return [line for fact in facts for line in terminal.wrap(fact, " " * 10)]


def state_of(node: Node) -> Cell:
    """The one word for how a node is."""
    if not node.is_alive:
        return Cell(
            node.state or "unknown", {"suspect": Tone.WARN, "dead": Tone.BAD}.get(node.state, Tone.DIM)
        )
    if node.draining:
        return Cell("draining", Tone.WARN)
    match node.engine_kind, node.engine_state:
        case "none" | "", _:
            return Cell("no engine", Tone.DIM)
        case _, "unreachable":
            return Cell("no engine", Tone.BAD)
        case _, "starting":
            return Cell("loading", Tone.WARN)
        case _, "busy":
            return Cell("busy", Tone.WARN)
    return Cell("busy" if node.waiting else "ready", Tone.WARN if node.waiting else Tone.GOOD)


def _node_row(node: Node) -> Row:
    is_gone = node.state in ("dead", "left")
    figures = [NOTHING] * 5 if is_gone else _figures(node)
    texts = [*figures, node.version or NOTHING, ago(node.age_s)]
    name = Cell(node.name + ("*" if node.is_self else ""))
    return Row([name, state_of(node), *map(Cell, texts)], note=_why(node))


def _figures(node: Node) -> list[str]:
    """What it does and has: only worth telling of a node that may still be there."""
    return [
        ", ".join(node.loaded) or NOTHING,
        f"{max(node.in_flight - node.waiting, 0)}/{node.waiting}",
        f"{node.tokens_per_s:.0f}" if node.tokens_per_s else NOTHING,
        size(node.memory_free) if node.has_resources else NOTHING,
        NOTHING if node.rtt_ms is None or node.is_self else milliseconds(node.rtt_ms),
    ]


def _why(node: Node) -> str:
    if not node.is_alive:
        return node.reason
    if node.engine_state == "unreachable" and node.engine_kind not in ("", "none"):
        return "its engine does not answer; requests go to other nodes"
    return "takes no new work" if node.draining else ""


def _grid(models: Sequence[Model], nodes: Sequence[str], terminal: Terminal) -> list[str]:
    columns = [Column("MODEL", shortest=12), Column("SIZE", right=True), *(Column(node) for node in nodes)]
    rows = []
    for model in models:
        at = {replica.node: replica for replica in model.replicas}
        cells = [_replica(at[node]) if node in at else Cell(NOTHING, Tone.DIM) for node in nodes]
        rows.append(Row([Cell(model.name), Cell(size(model.size)), *cells]))
    return table(columns, rows, terminal)


def _listing(models: Sequence[Model], terminal: Terminal) -> list[str]:
    columns = [Column("MODEL", shortest=12), Column("SIZE", right=True), Column("NODES", shortest=12)]
    rows = []
    for model in models:
        where = ", ".join(f"{replica.node} ({_replica(replica).text})" for replica in model.replicas)
        rows.append(Row([Cell(model.name), Cell(size(model.size)), Cell(where or NOTHING)]))
    return table(columns, rows, terminal)


def _replica(replica: Replica) -> Cell:
    if replica.state == "incoming":
        share = "" if replica.progress is None else f" {replica.progress:.0%}"
        return Cell(f"copying{share}", Tone.WARN)
    if replica.state == "leaving":
        return Cell("leaving", Tone.WARN)
    return Cell("loaded", Tone.GOOD) if replica.loaded else Cell("on disk")


def _problem(problem: Problem, terminal: Terminal) -> list[str]:
    severity = problem.severity or "problem"
    first, *more = terminal.wrap(f"{severity}: {problem.message} [{problem.code}]", GAP)
    painted = terminal.paint(severity, _SEVERE.get(severity, Tone.BAD))
    lines = [painted + first.removeprefix(severity), *more]
    return lines + (terminal.wrap(f"{GAP}fix: {problem.fix}", " " * 7) if problem.fix else [])
