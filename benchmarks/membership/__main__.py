"""``python -m benchmarks.membership``: real nodes on hosts of their own, killed, stopped, parted."""

import argparse
import asyncio
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from benchmarks.membership.machines import Late, Machines
from benchmarks.membership.report import BEGIN, END, as_json, markdown
from benchmarks.membership.trials import Figures, Trial, Trials, plan
from benchmarks.relay.report import put_between_marks
from tests.support.hosts import Cable, NoHosts

ROOT: Final = Path(__file__).parents[2]
DOCUMENT: Final = ROOT / "docs" / "membership.md"
SEED: Final = 11436


def main(words: Sequence[str] | None = None) -> int:
    wish = _arguments().parse_args(words)
    sizes = [int(size) for size in wish.sizes.split(",")]
    found: dict[int, Figures] = {}
    missing: list[str] = []
    loads = [os.getloadavg()[0]]
    for size in sizes:
        try:
            found[size] = asyncio.run(_measure(size, wish, missing))
        except NoHosts as why:
            print(f"cannot measure: {why}", file=sys.stderr)
            return 2
        loads.append(os.getloadavg()[0])
    _write(wish, found, missing, loads)
    return 0


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.membership", description=__doc__)
    parser.add_argument("--sizes", default="5,20", help="how many nodes, separated by commas (5,20)")
    parser.add_argument(
        "--rounds", type=int, default=30, help="of the quick trials; slow ones take part (30)"
    )
    parser.add_argument(
        "--minutes", type=float, default=60, help="for each size; then what is left stays out"
    )
    parser.add_argument("--idle", type=float, default=60, help="seconds of rest that are measured (60)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "membership")
    parser.add_argument("--no-docs", action="store_true", help="leave docs/membership.md as it is")
    return parser


async def _measure(size: int, wish: argparse.Namespace, missing: list[str]) -> Figures:
    rng = random.Random(SEED)
    with tempfile.TemporaryDirectory(prefix="membership-benchmark-") as made:
        async with Cable.laid() as cable:
            machines = Machines(cable, Path(made))
            trials = Trials(machines, rng)
            try:
                await machines.grow(size)
                await _play(trials, plan(wish.rounds, rng, idle_s=wish.idle), 60 * wish.minutes, missing)
            finally:
                await machines.stop()
            return trials.figures


async def _play(trials: Trials, wanted: Sequence[Trial], seconds: float, missing: list[str]) -> None:
    end = time.monotonic() + seconds
    size = len(trials.machines.all)
    for number, trial in enumerate(wanted):
        if time.monotonic() > end:
            missing.append(f"n = {size}: {len(wanted) - number} of {len(wanted)} trials left out, for time")
            break
        print(f"n = {size}: trial {number + 1} of {len(wanted)}", file=sys.stderr)
        try:
            await trial(trials)
        except Late as late:
            missing.append(f"n = {size}: trial {number + 1} {str(late)[:200]}")
            print(missing[-1], file=sys.stderr)
            await trials.recover()


def _write(
    wish: argparse.Namespace, found: Mapping[int, Figures], missing: Sequence[str], loads: Sequence[float]
) -> None:
    about: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="minutes"),
        "cores": os.cpu_count(),
        "loads": [round(load, 2) for load in loads],
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.release().partition('-')[0]} {platform.machine()}",
        "missing": list(missing),
    }
    told = ", ".join(f"{load}" for load in about["loads"])
    notes = [
        f"{about['at']}, {about['machine']}, {about['cores']} cores for all nodes together, Python "
        f"{about['python']}; load before, between and after the sizes: {told}. Seconds unless said.",
        *missing,
    ]
    text = markdown(found, notes)
    wish.out.parent.mkdir(parents=True, exist_ok=True)
    wish.out.with_suffix(".md").write_text(f"# Membership, measured\n\n{text}")
    wish.out.with_suffix(".json").write_text(as_json(found, about))
    if not wish.no_docs:
        put_between_marks(DOCUMENT, text, BEGIN, END)
    print(text)


if __name__ == "__main__":
    raise SystemExit(main())
