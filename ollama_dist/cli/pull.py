"""``pull``: get a model onto this node or others; its bytes come from nodes that have them, else upstream."""

import sys

from ollama_dist.cli.answers import OperationStep, RunningOperation
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.moving import INTERRUPTED, client_of, follow
from ollama_dist.cli.progress import Display, display_on
from ollama_dist.cli.terminal import terminal_of


def run(arguments: Arguments) -> int:
    node, model = client_of(arguments), arguments.model
    first, *others = arguments.on or [""]
    headers = {"X-Ollama-Node": first} if first else {}
    display, parts = display_on(terminal_of(sys.stderr)), _Parts(model, first or "this node")
    try:
        for line in node.lines("POST", "/api/pull", {"model": model}, headers):
            parts.hear(line)
            parts.show(display)
    except KeyboardInterrupt:
        print("what has come is kept: the same again goes on from there", file=sys.stderr)
        return INTERRUPTED
    if not parts.is_whole:
        raise Failure("the pull broke off", do=f"ollama-dist pull {model}: it goes on where it stopped")
    print(f"{model} is on {first or 'this node'}, verified")
    if not others:
        return Exit.OK
    wishes = [{"model": model, "to": to, "keep_source": True} for to in others]
    begun = [node.post("/api/distributed/migrate", wish)["operation"]["id"] for wish in wishes]
    return follow(node, begun, as_json=False)


class _Parts:
    """What the lines of a pull say, as one step: the sizes and progress of its blobs together."""

    def __init__(self, model: str, to: str) -> None:
        self._step = OperationStep("copy", model, "", to, "", 0, 0, 0.0, (), "running", "", "")
        self._total: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self.is_whole = False

    def hear(self, line: dict[str, object]) -> None:
        digest, total, done = line.get("digest"), line.get("total"), line.get("completed", 0)
        if isinstance(digest, str) and isinstance(total, int):
            self._total[digest] = total
            if isinstance(done, int):
                self._done[digest] = max(done, self._done.get(digest, 0))
        self.is_whole = line.get("status") == "success"
        note = "" if digest else str(line.get("status", ""))
        self._step = self._step._replace(
            bytes_total=sum(self._total.values()), bytes_done=sum(self._done.values()), note=note
        )

    def show(self, display: Display) -> None:
        state = "succeeded" if self.is_whole else "running"
        step = self._step._replace(state=state, note="" if self.is_whole else self._step.note)
        display.show(RunningOperation("", "pull", state, 0.0, self.is_whole, "", (step,)))
