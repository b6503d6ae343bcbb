"""``scripts/run``: from nothing to a real answer, by one node in the foreground or a small cluster."""

import json
import os
import sys
import time
from argparse import ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ollama_dist.cli.arguments import Arguments, Parser
from ollama_dist.cli.children import Children, Program, describe_exit, ended_by_signals
from ollama_dist.cli.demo_cluster import Parts, run_cluster
from ollama_dist.cli.demo_plan import MOST_NODES, SENTENCES, talk_text
from ollama_dist.cli.exchange import BadAnswer, ask
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.main import guarded
from ollama_dist.cli.output import print_lines
from ollama_dist.node.config import Settings
from ollama_dist.node.paths import StatePaths, make_state_dir
from ollama_dist.node.runtime_file import read_runtime
from ollama_dist.node.setting_values import OLLAMA_PORT, Address, EngineChoice, parse_ollama_address

_EXAMPLES: Final = (
    ("scripts/run", "one node on this machine, with its Ollama or else a tiny model"),
    ("scripts/run --nodes 3", "a cluster of three on this machine, each with another model"),
    ("scripts/run --listen 0.0.0.0", "flags of `ollama-dist serve` are passed on"),
)
_PATIENCE_S: Final = 2.0
_READY_S: Final = 60.0
_STEP_S: Final = 0.2
_GRACE_S: Final = 40.0
"""Longer than a node takes to end the requests that run."""


def main(words: Sequence[str] | None = None) -> int:
    with ended_by_signals():
        return guarded(list(sys.argv[1:] if words is None else words), _run)


def _run(words: list[str]) -> int:
    parser = Parser("scripts/run", "set everything up and serve", _EXAMPLES)
    parser.add_argument("--nodes", type=_node_count, metavar="N", help="start N nodes that form a cluster")
    parser.add_settings(None)
    arguments = parser.read(words)
    if arguments.nodes:
        address = parse_ollama_address(os.environ.get("OLLAMA_LOCAL_ADDR", ""))
        return run_cluster(arguments.nodes, address if models_at(address) else None)
    return run_one(words, arguments, Parts())


def run_one(words: Sequence[str], arguments: Arguments, parts: Parts) -> int:
    """One node in the foreground, with a tiny model where this machine has none."""
    settings = arguments.settings()
    command = [*parts.serve, *words, *_engine_flags(settings, parts)]
    program = Program("the node", command, {**os.environ, "PYTHONUNBUFFERED": "1"}, log=None)
    try:
        with Children([program], _GRACE_S) as children:
            _say_how_to_talk(settings, children)
            while not children.ended():
                time.sleep(_STEP_S)
            code = children.ended()["the node"]
    except KeyboardInterrupt:
        return Exit.OK
    if code < 0:
        print(f"the node was ended by {describe_exit(code)}", file=sys.stderr)
    return code if code >= 0 else Exit.FAILED


def models_at(address: Address) -> list[str]:
    """The models that an Ollama or a node lists there; none where nobody answers."""
    try:
        listed = json.loads(ask(address, "GET", "/api/tags", patience_s=_PATIENCE_S).content)
        return [str(row["name"]) for row in listed["models"]]
    except (OSError, BadAnswer, ValueError, KeyError, TypeError):
        return []


def _engine_flags(settings: Settings, parts: Parts) -> list[str]:
    """A tiny model and the embedded engine, where nothing else on this machine could answer."""
    engine = settings.engine
    if engine.engine is not EngineChoice.AUTO or engine.engine_models or engine.ollama:
        return []
    if models_at(Address("127.0.0.1", OLLAMA_PORT)) or _has_stored_models():
        return []
    folder = make_state_dir(settings.node.state_dir).root / "demo-models"
    folder.mkdir(exist_ok=True)
    parts.write_model(folder / "tiny.gguf", SENTENCES[0])
    print(
        "no Ollama with a model was found: a tiny model is served, which says one sentence", file=sys.stderr
    )
    return ["--engine", EngineChoice.LLAMACPP.value, "--engine-models", str(folder)]


def _has_stored_models() -> bool:
    """Whether an Ollama that is not running would find models on this disk."""
    folder = Path(os.environ.get("OLLAMA_MODELS") or Path.home() / ".ollama" / "models") / "manifests"
    return any(path.is_file() for path in folder.rglob("*")) if folder.is_dir() else False


def _say_how_to_talk(settings: Settings, children: Children) -> None:
    """As soon as the node lists a model. Silent when it does not: the node says itself what is wrong."""
    runtime_file = StatePaths(settings.node.state_dir).runtime
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline and not children.ended():
        runtime = read_runtime(runtime_file)
        if runtime is not None and runtime.pid == children.pid("the node"):
            models = models_at(runtime.address)
            if models:
                print_lines(["", "try it:", "", *talk_text(runtime.address, models[0])])
                sys.stdout.flush()
                return
        time.sleep(_STEP_S)


def _node_count(text: str) -> int:
    if not text.isdigit() or not 2 <= int(text) <= MOST_NODES:
        raise ArgumentTypeError(f"must be from 2 to {MOST_NODES}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
