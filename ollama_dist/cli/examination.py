"""An examination: checks side by side, each ending in time, in a finding with evidence and a fix."""

import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from ollama_dist.cli.answers import Node, Status
from ollama_dist.cli.client import Whereabouts
from ollama_dist.node.config import Settings

TIME_LIMIT_S: Final = 8.0
"""For all checks together: they run side by side."""


class Result(StrEnum):
    PASS = "pass"  # noqa: S105 - a verdict, not a password
    WARN = "warn"
    FAIL = "fail"
    SKIP = "skip"
    """Not to be told here and now, or of no concern."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a check came to, by what evidence, and the one line that would mend it."""

    result: Result
    evidence: str
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict with the check it is from."""

    code: str
    title: str
    result: Result
    evidence: str
    fix: str


@dataclass(frozen=True, slots=True)
class Situation:
    """What is examined: the settings, the environment, and what the running node said, if one runs."""

    settings: Settings
    environ: Mapping[str, str]
    where: Whereabouts
    config_error: str = ""
    """Why the settings could not be read; `settings` are the defaults then."""
    node_error: str = ""
    """Why the node gave no answer; empty when it did."""
    status: Status | None = None
    nodes: tuple[Node, ...] = ()

    @property
    def is_running(self) -> bool:
        return self.status is not None


class Examine(Protocol):
    def __call__(self, situation: Situation, /) -> Verdict: ...


@dataclass(frozen=True, slots=True)
class Check:
    """One question. ``code`` is its name in JSON, status and documentation."""

    code: str
    title: str
    examine: Examine


def passed(evidence: str) -> Verdict:
    return Verdict(Result.PASS, evidence)


def warned(evidence: str, fix: str) -> Verdict:
    return Verdict(Result.WARN, evidence, fix)


def failed(evidence: str, fix: str) -> Verdict:
    return Verdict(Result.FAIL, evidence, fix)


def skipped(evidence: str) -> Verdict:
    return Verdict(Result.SKIP, evidence)


def examine_all(
    checks: Sequence[Check], situation: Situation, time_limit_s: float = TIME_LIMIT_S
) -> list[Finding]:
    """The findings in the order of the checks; one that does not end in time is a finding as well."""
    verdicts: queue.Queue[tuple[str, Verdict]] = queue.Queue()
    for check in checks:
        # A daemon, since a hung disk or resolver must not keep the command from ending.
        threading.Thread(
            target=_examine, args=(check, situation, verdicts), daemon=True, name=check.code
        ).start()
    deadline = time.monotonic() + time_limit_s
    found: dict[str, Verdict] = {}
    while len(found) < len(checks) and (remaining := deadline - time.monotonic()) > 0:
        try:
            code, verdict = verdicts.get(timeout=remaining)
        except queue.Empty:
            break
        found[code] = verdict
    late = failed(f"no result within {time_limit_s:g} s", "look at what it examines: it hangs")
    return [_finding(check, found.get(check.code, late)) for check in checks]


def _examine(check: Check, situation: Situation, verdicts: "queue.Queue[tuple[str, Verdict]]") -> None:
    try:
        verdict = check.examine(situation)
    except Exception as error:
        verdict = failed(
            f"could not be examined: {type(error).__name__}: {error}", "see whether this user may look"
        )
    verdicts.put((check.code, verdict))


def _finding(check: Check, verdict: Verdict) -> Finding:
    return Finding(check.code, check.title, verdict.result, verdict.evidence, verdict.fix)
