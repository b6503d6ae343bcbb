"""``python -m benchmarks.relay``: measure every front there is, in turns, and write down the medians."""

import argparse
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from benchmarks.relay.answers import write_answers
from benchmarks.relay.build import NoCompiler, build
from benchmarks.relay.fronts import (
    NODES,
    STARTERS,
    Front,
    Ground,
    NotHere,
    Starter,
    before,
    foreign,
    started,
)
from benchmarks.relay.passes import KINDS, TINY, Figures, Pass, Sizes
from benchmarks.relay.report import as_json, markdown, put_between_marks
from benchmarks.relay.tools import Pins, Tools, Upstream

ROOT: Final = Path(__file__).parents[2]
DOCUMENT: Final = ROOT / "docs" / "performance.md"
SEED: Final = 11434
SLOW: Final = 20
"""LiteLLM gets so much less to do."""


def main(words: Sequence[str] | None = None) -> int:
    wish = _arguments().parse_args(words)
    with tempfile.TemporaryDirectory(prefix="relay-benchmark-") as made, ExitStack() as stack:
        folder = Path(made)
        folder.chmod(0o755)  # nginx's worker looks in here
        try:
            build(folder)
        except NoCompiler as error:
            print(f"cannot measure: {error}", file=sys.stderr)
            return 2
        write_answers(folder / "answers")
        pins = Pins.of(sorted(os.sched_getaffinity(0)))
        tools = Tools(folder, pins)
        upstream = stack.enter_context(tools.upstream(folder / "answers", wish.upstream_port))
        fronts, missing = _start(wish, folder, upstream, pins, stack)
        load_before = os.getloadavg()[0]
        passes = _measure(wish, fronts, tools, upstream, missing)
        _write(wish, passes, missing, load_before)
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.relay", description=__doc__)
    parser.add_argument("--passes", type=int, default=5, help="how often each front is measured (5)")
    parser.add_argument("--only", default="", help=f"fronts, separated by commas, of: {', '.join(STARTERS)}")
    parser.add_argument("--figures", default="", help=f"which, separated by commas, of: {', '.join(KINDS)}")
    parser.add_argument(
        "--before", type=Path, metavar="FOLDER", help="a checkout, set up, whose nodes take part beside ours"
    )
    parser.add_argument(
        "--also",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="a front you started yourself, before the engine at --upstream-port",
    )
    parser.add_argument("--upstream-port", type=int, default=0, help="the fake engine's port (any)")
    parser.add_argument("--litellm", default="", help="the litellm program, where it is not on the PATH")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "relay")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/performance.md as it is")
    parser.add_argument("--tiny", action="store_true", help="only see that everything works")
    return parser


def _start(
    wish: argparse.Namespace, folder: Path, upstream: Upstream, pins: Pins, stack: ExitStack
) -> tuple[list[Front], list[str]]:
    """The fronts that run now, and why others do not."""
    fronts, missing = [], []
    for name, starter in _wanted(wish).items():
        ground = Ground(folder / name, upstream.port, pins.fronts, {"litellm": wish.litellm})
        try:
            fronts.append(stack.enter_context(started(starter, ground)))
        except NotHere as why:
            print(f"without {name}: {why}", file=sys.stderr)
            missing.append(f"without {name}: {why}")
    return fronts, missing


def _wanted(wish: argparse.Namespace) -> dict[str, Starter]:
    only = _some_of(wish.only, STARTERS, "fronts")
    wanted = {name: starter for name, starter in STARTERS.items() if name in only}
    if wish.before is not None:
        wanted |= {f"{name}, before": before(wish.before, STARTERS[name]) for name in sorted(only & NODES)}
    for said in wish.also:
        name, _, url = said.partition("=")
        wanted[name] = foreign(name, urlsplit(url).port or 80)
    return wanted


def _some_of(said: str, known: Iterable[str], what: str) -> set[str]:
    """Those of ``known`` that a person named, separated by commas; all where none is named."""
    named = set(filter(None, said.split(",")))
    if unknown := named - set(known):
        raise SystemExit(f"no such {what}: {', '.join(sorted(unknown))}")
    return named or set(known)


def _measure(
    wish: argparse.Namespace, fronts: Sequence[Front], tools: Tools, upstream: Upstream, missing: list[str]
) -> dict[str, list[Figures]]:
    """All fronts in turns, in another order each time, so that what disturbs the machine disturbs all."""
    found: dict[str, list[Figures]] = {front.name: [] for front in fronts}
    sizes = TINY if wish.tiny else Sizes()
    kinds = _some_of(wish.figures, KINDS, "figures")
    able = {
        front.name: Pass(front, tools, upstream, sizes.smaller(SLOW) if front.openai_only else sizes, kinds)
        for front in fronts
    }
    memory: dict[str, Figures] = {}
    rng = random.Random(SEED)
    for number in range(wish.passes):
        for name in rng.sample(sorted(able), len(able)):
            print(f"pass {number + 1} of {wish.passes}: {name}", file=sys.stderr)
            if name not in memory:
                memory[name] = able[name].measure_memory() if name != "direct" else {}
            figures, troubles = able[name].measure()
            found[name].append(figures | memory[name])
            for trouble in troubles:
                missing.append(f"{name} failed in pass {number + 1}: {trouble}")
                print(missing[-1], file=sys.stderr)
    return found


def _write(
    wish: argparse.Namespace, passes: dict[str, list[Figures]], missing: Sequence[str], load_before: float
) -> None:
    about: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "cores": os.cpu_count(),
        "load_before": round(load_before, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "compiler": shutil.which("cc"),
        "passes": wish.passes,
        "missing": list(missing),
    }
    notes = [
        f"{about['at']}, {about['machine']}, {about['cores']} cores, Python {about['python']}; load "
        f"{about['load_before']} before, {about['load_after']} after; medians of {wish.passes} passes.",
        *missing,
    ]
    text = markdown(passes, notes)
    wish.out.parent.mkdir(parents=True, exist_ok=True)
    wish.out.with_suffix(".md").write_text(f"# The relay, measured\n\n{text}")
    wish.out.with_suffix(".json").write_text(as_json(passes, about))
    if not wish.no_docs and not wish.tiny:
        put_between_marks(DOCUMENT, text)
    print(text)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # what was started is ended then
    raise SystemExit(main())
