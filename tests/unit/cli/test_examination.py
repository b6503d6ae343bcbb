import threading
from pathlib import Path

import pytest

from ollama_dist.cli.client import Whereabouts
from ollama_dist.cli.examination import (
    Check,
    Result,
    Situation,
    Verdict,
    examine_all,
    failed,
    passed,
    skipped,
    warned,
)
from ollama_dist.node.config import NodeSettings, Settings
from ollama_dist.node.setting_values import Address

SITUATION = Situation(
    settings=Settings(node=NodeSettings("desk", Path("/nowhere"))),
    environ={},
    where=Whereabouts(Address("127.0.0.1", 1), None, in_use=False, token=None),
)


def test_findings_come_in_the_order_of_the_checks() -> None:
    gate = threading.Event()

    def slow(_: Situation) -> Verdict:
        gate.wait(10)
        return passed("late")

    def quick(_: Situation) -> Verdict:
        gate.set()
        return warned("early", "hurry less")

    findings = examine_all([Check("a", "A", slow), Check("b", "B", quick)], SITUATION)
    assert [(finding.code, finding.result, finding.evidence) for finding in findings] == [
        ("a", Result.PASS, "late"),
        ("b", Result.WARN, "early"),
    ]
    assert findings[1].fix == "hurry less"


def test_one_that_hangs_is_a_finding_and_holds_up_nobody() -> None:
    gate = threading.Event()

    def hangs(_: Situation) -> Verdict:
        gate.wait(30)
        return passed("never seen")

    findings = examine_all(
        [Check("hangs", "", hangs), Check("ok", "", lambda _: skipped("of no concern"))],
        SITUATION,
        time_limit_s=0.2,
    )
    gate.set()
    assert [finding.result for finding in findings] == [Result.FAIL, Result.SKIP]
    assert findings[0].evidence == "no result within 0.2 s"


def test_one_that_breaks_is_a_finding() -> None:
    def breaks(_: Situation) -> Verdict:
        raise PermissionError("not for you")

    (finding,) = examine_all([Check("breaks", "", breaks)], SITUATION)
    assert finding.result is Result.FAIL
    assert finding.evidence == "could not be examined: PermissionError: not for you"


@pytest.mark.parametrize("verdict", [warned("evidence", "fix"), failed("evidence", "fix")])
def test_what_needs_mending_comes_with_a_fix(verdict: Verdict) -> None:
    assert verdict.fix
