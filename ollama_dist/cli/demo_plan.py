"""A small cluster on one machine, as data: who listens where, with which engine, and how to talk to it."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ollama_dist.cli.terminal import Cell, Column, Row, Terminal, table
from ollama_dist.node.setting_values import Address

FIRST_CLIENT_PORT: Final = 11501
FIRST_NODE_PORT: Final = 11601
MOST_NODES: Final = 9

PROMPT: Final = "Hello"

SENTENCES: Final = (
    "hello from the first node of this little cluster",
    "greetings by the second one where another model lives",
    "here speaks number three and nobody knows which machine",
    "four of us share what each alone could not hold",
    "five machines behave like a single large computer",
    "six answers arrive wherever you ask",
    "seven nodes gossip quietly about their models",
    "eight engines hum together tonight",
    "nine lives has this cluster so kill some freely",
)
"""What the tiny model of each node says; no word twice in one sentence."""


class Secrets:
    """The files of what all nodes of the demonstration share."""

    def __init__(self, folder: Path) -> None:
        self.cluster_key = folder / "cluster.key"
        self.admin_token = folder / "admin.token"


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One node of the demonstration."""

    name: str
    folder: Path
    listen: Address
    node_listen: Address
    ollama: Address | None = None
    """The Ollama it uses; None: the embedded engine with a tiny model of its own."""

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def model_name(self) -> str:
        return f"tiny-{self.name.rpartition('-')[2]}"

    def flags(self, others: Sequence["DemoNode"], secrets: Secrets) -> list[str]:
        """What ``ollama-dist serve`` is told."""
        engine = ["--engine", "llama.cpp", "--engine-models", str(self.models)]
        if self.ollama is not None:
            engine = ["--engine", "ollama", "--ollama", str(self.ollama)]
        join = ",".join(str(other.node_listen) for other in others if other is not self)
        return [
            *("--name", self.name),
            *("--state-dir", str(self.folder / "state")),
            *("--listen", str(self.listen)),
            *("--node-listen", str(self.node_listen)),
            *("--cluster-key-file", str(secrets.cluster_key)),
            *("--admin-token-file", str(secrets.admin_token)),
            *("--join", join),
            "--no-mdns",
            *engine,
        ]


def plan(
    number: int, folder: Path, ports: Iterator[int], node_ports: Iterator[int], ollama: Address | None
) -> list[DemoNode]:
    """The nodes; the first uses the Ollama that was found, if one was."""
    return [
        DemoNode(
            name=f"node-{index}",
            folder=folder / f"node-{index}",
            listen=Address("127.0.0.1", next(ports)),
            node_listen=Address("127.0.0.1", next(node_ports)),
            ollama=ollama if index == 1 else None,
        )
        for index in range(1, number + 1)
    ]


@dataclass(frozen=True, slots=True)
class Running:
    """A node of the demonstration that is up."""

    name: str
    pid: int
    address: Address
    engine: str
    models: tuple[str, ...]


def cluster_text(nodes: Sequence[Running], secrets: Secrets, terminal: Terminal) -> list[str]:
    """The cluster as a table, and how to talk to it."""
    columns = (
        Column("NODE"),
        Column("CLIENTS"),
        Column("PID"),
        Column("ENGINE"),
        Column("MODELS", shortest=10),
    )
    rows = [
        Row(
            [
                Cell(text)
                for text in (
                    node.name,
                    f"http://{node.address}",
                    str(node.pid),
                    node.engine,
                    ", ".join(node.models),
                )
            ]
        )
        for node in nodes
    ]
    asked = nodes[0]
    holder = next((node for node in reversed(nodes) if node.models), asked)
    model = holder.models[0] if holder.models else "MODEL"
    return [
        *table(columns, rows, terminal),
        "",
        f"Ask {asked.name} for {model}, which {holder.name} has:",
        "",
        *talk_text(asked.address, model),
        "",
        "Have a model copied, as the operator that you are here:",
        "",
        f"  export OLLAMA_ADMIN_TOKEN=$(cat {secrets.admin_token})",
        f"  .venv/bin/ollama-dist copy {model} {asked.name} --listen {asked.address}",
        "",
        f"End a node (kill -9 {holder.pid}) and see: .venv/bin/ollama-dist status --listen {asked.address}",
        "Ctrl-C ends the cluster and removes what it made.",
    ]


def talk_text(address: Address, model: str) -> list[str]:
    """The same question by curl and by the two client libraries."""
    body = json.dumps({"model": model, "prompt": PROMPT})
    return [
        f"  curl http://{address}/api/generate -d '{body}'",
        "",
        "  from ollama import Client",
        f'  print(Client("http://{address}").generate("{model}", "{PROMPT}").response)',
        "",
        "  from openai import OpenAI",
        f'  client = OpenAI(base_url="http://{address}/v1", api_key="none")',
        f'  messages = [{{"role": "user", "content": "{PROMPT}"}}]',
        f'  answer = client.chat.completions.create(model="{model}", messages=messages)',
        "  print(answer.choices[0].message.content)",
    ]
