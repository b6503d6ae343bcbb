"""``version``: which version this is, and what it runs on."""

import platform

from ollama_dist import __version__
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.output import print_json


def run(arguments: Arguments) -> int:
    if arguments.json:
        print_json("version", {"version": __version__, "python": platform.python_version()})
    else:
        print(f"ollama-dist {__version__} (Python {platform.python_version()}, {platform.system()})")
    return Exit.OK
