"""``scrub``: read a node's models again and compare them with their digests."""

import sys
import time
from typing import Any, Final
from urllib.parse import quote

from ollama_dist.cli.answers import read_status
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.moving import INTERRUPTED, client_of
from ollama_dist.cli.output import print_json
from ollama_dist.cli.progress import QUIET_S, bar
from ollama_dist.cli.terminal import Terminal, size, terminal_of

PATH: Final = "/api/distributed/scrub"
LOOK_S: Final = 0.5


def run(arguments: Arguments) -> int:
    node = client_of(arguments)
    name = arguments.node or read_status(node.get("/api/distributed/status")).name
    where = f"{PATH}?node={quote(name, safe='')}"
    if arguments.look:
        said = node.get(where)
    else:
        said = node.post(PATH, {"node": name})
        if not arguments.detach:
            try:
                said = _follow(node, where, name, said)
            except KeyboardInterrupt:
                print(f"it goes on; see it:  ollama-dist scrub {name} --look", file=sys.stderr)
                return INTERRUPTED
    if arguments.json:
        print_json("scrub", said)
    else:
        print(_text(name, said, terminal_of(sys.stdout)))
    wrong = said.get("corrupt") or []
    if not wrong:
        return Exit.OK
    models = sorted({str(model) for each in wrong for model in each.get("models", [])})
    raise Failure(
        f"{'a file' if len(wrong) == 1 else f'{len(wrong)} files'} on {name} changed on disk",
        why=f"part of {', '.join(models) or 'no model'}; given to no other node",
        do=f"ollama-dist rm MODEL --node {name}, then ollama-dist pull MODEL --on {name}",
    )


def _follow(node: NodeClient, where: str, name: str, said: Any) -> Any:
    """Until it is over."""
    terminal, redraws = terminal_of(sys.stderr), sys.stderr.isatty()
    told_at = -QUIET_S
    while said.get("state") == "running":
        line = _text(name, said, terminal)
        if redraws:
            print(f"\r\x1b[K{terminal.cut(line, terminal.width - 1)}", end="", file=sys.stderr, flush=True)
        elif time.monotonic() - told_at >= QUIET_S:
            print(line, file=sys.stderr)
            told_at = time.monotonic()
        time.sleep(LOOK_S)
        said = node.get(where)
    if redraws:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return said


def _text(name: str, said: Any, terminal: Terminal) -> str:
    files, total, done = (int(said.get(key) or 0) for key in ("files", "bytes_total", "bytes_done"))
    waiting = int(said.get("waiting") or 0)
    if said.get("state") == "running":
        drawn = bar(done / total if total else 0.0, terminal)
        return f"scrub {name}  {drawn} of {size(total)}, {waiting} files left"
    right = files - waiting - len(said.get("corrupt") or [])
    rest = f", {waiting} not read within the period" if waiting else ""
    return f"{right} of {files} files on {name} are right{rest}"
