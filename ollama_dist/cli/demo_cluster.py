"""A small cluster on this machine, from nothing: a folder, a key, a model for each node, and the nodes."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ollama_dist.cli.answers import Model, read_models, read_status
from ollama_dist.cli.checks_network import first_free
from ollama_dist.cli.children import Children, Program, describe_exit
from ollama_dist.cli.client import NodeClient, Whereabouts
from ollama_dist.cli.demo_plan import (
    FIRST_CLIENT_PORT,
    FIRST_NODE_PORT,
    SENTENCES,
    DemoNode,
    Running,
    Secrets,
    cluster_text,
    plan,
)
from ollama_dist.cli.doors import new_cluster_key, write_tiny_model
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.output import print_lines
from ollama_dist.cli.terminal import terminal_of
from ollama_dist.node.config import all_settings
from ollama_dist.node.secret_files import new_admin_token, write_secret
from ollama_dist.node.setting_values import Address, Listen, Secret

SERVE: Final = (sys.executable, "-m", "ollama_dist.cli.main", "serve")

_MEETING_S: Final = 60.0
"""For all nodes to start and see each other; two seconds are usual."""

_STEP_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Parts:
    """What the demonstration is made of."""

    serve: Sequence[str] = SERVE
    new_key: Callable[[], Secret] = new_cluster_key
    write_model: Callable[[Path, str], None] = write_tiny_model


def run_cluster(number: int, ollama: Address | None, parts: Parts | None = None) -> int:
    """Start ``number`` nodes, say how to talk to them, and keep them until Ctrl-C."""
    parts = parts or Parts()
    with _folder() as folder:
        nodes = plan(
            number, folder, _free_ports(FIRST_CLIENT_PORT, 1), _free_ports(FIRST_NODE_PORT, 2), ollama
        )
        secrets = Secrets(folder)
        write_secret(secrets.cluster_key, parts.new_key())
        write_secret(secrets.admin_token, new_admin_token())
        for node, sentence in zip(nodes, SENTENCES, strict=False):
            _prepare(node, sentence, parts)
        programs = [_program(node, nodes, secrets, parts) for node in nodes]
        print(f"starting {number} nodes in {folder}", file=sys.stderr)
        with Children(programs) as children:
            models = _meet(nodes, children)
            print_lines(cluster_text(_running(nodes, models, children), secrets, terminal_of(sys.stdout)))
            sys.stdout.flush()
            return _watch(children, number)


def serve_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment without settings of ours, which would reach every node alike."""
    ours = {setting.env for setting in all_settings()}
    return {name: value for name, value in environ.items() if name not in ours} | {"PYTHONUNBUFFERED": "1"}


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder that is removed at the end, unless something failed: then its logs are needed."""
    folder = Path(tempfile.mkdtemp(prefix="ollama-dist-"))
    try:
        yield folder
    except Failure:
        raise
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(node: DemoNode, sentence: str, parts: Parts) -> None:
    node.models.mkdir(parents=True)
    if node.ollama is None:
        parts.write_model(node.models / f"{node.model_name}.gguf", sentence)


def _program(node: DemoNode, nodes: Sequence[DemoNode], secrets: Secrets, parts: Parts) -> Program:
    command = [*parts.serve, *node.flags(nodes, secrets)]
    return Program(node.name, command, serve_environment(os.environ), node.log)


def _free_ports(first: int, step: int) -> Iterator[int]:
    """Ports that are free now, ``step`` apart at least."""
    port: int | None = first
    while port is not None:
        port, why = first_free(Listen("127.0.0.1", port, search=True))
        if port is None:
            raise Failure(f"no free port from {first} on: {why}")
        yield port
        port += step


def _meet(nodes: Sequence[DemoNode], children: Children) -> tuple[Model, ...]:
    """Wait until every node sees every other, and each has said what it holds."""
    deadline = time.monotonic() + _MEETING_S
    while time.monotonic() < deadline:
        children.require_all()
        models = models_when_met(nodes)
        if models:
            return models
        time.sleep(_STEP_S)
    raise Failure(
        f"the nodes did not find each other within {_MEETING_S:g} s",
        do=f"look at {nodes[0].log} and the others",
    )


def models_when_met(nodes: Sequence[DemoNode]) -> tuple[Model, ...]:
    """All models, once every node sees every other and knows what it holds; () before."""
    names = {node.name for node in nodes}
    models: tuple[Model, ...] = ()
    try:
        for node in nodes:
            client = NodeClient(Whereabouts(node.listen, None, in_use=True, token=None))
            if read_status(client.get("/api/distributed/status")).alive < len(nodes):
                return ()
            models = read_models(client.get("/api/distributed/models"))
            if not names <= {replica.node for model in models for replica in model.replicas}:
                return ()
    except Failure:
        return ()  # not listening yet
    return models


def _running(nodes: Sequence[DemoNode], models: Sequence[Model], children: Children) -> list[Running]:
    return [
        Running(
            name=node.name,
            pid=children.pid(node.name),
            address=node.listen,
            engine="embedded" if node.ollama is None else f"Ollama at {node.ollama}",
            models=tuple(
                model.name for model in models if node.name in {copy.node for copy in model.replicas}
            ),
        )
        for node in nodes
    ]


def _watch(children: Children, number: int) -> int:
    """Say which node ends, until none is left or somebody ends us."""
    told: set[str] = set()
    try:
        while len(told) < number:
            for name, code in children.ended().items():
                if name not in told:
                    told.add(name)
                    print(f"{name} ended ({describe_exit(code)}); {number - len(told)} left", file=sys.stderr)
            time.sleep(_STEP_S)
    except KeyboardInterrupt:
        print("ending the nodes", file=sys.stderr)
        return Exit.OK
    return Exit.FAILED
