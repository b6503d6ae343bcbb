"""``models``: which node has which model."""

import sys

from ollama_dist.cli.answers import read_models
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, locate
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.output import print_json, print_lines
from ollama_dist.cli.terminal import terminal_of
from ollama_dist.cli.views import models_text


def run(arguments: Arguments) -> int:
    answer = NodeClient(locate(arguments.settings())).get("/api/distributed/models")
    if arguments.json:
        print_json("models", {"models": answer.get("models", [])})
    else:
        print_lines(models_text(read_models(answer), terminal_of(sys.stdout)))
    return Exit.OK
