import json

import pytest

from ollama_dist.cli.doctor import CHECKS, findings_text
from ollama_dist.cli.examination import Check, Finding, Result, passed, skipped, warned
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.terminal import Terminal
from tests.support.fake_node import FakeNode
from tests.unit.cli.conftest import Command

FINDINGS = [
    Finding("a", "state folder", Result.PASS, "/state, for its owner only", ""),
    Finding(
        "b",
        "open files",
        Result.WARN,
        "256 may be open at once, about 128 clients at one time",
        "ulimit -n 4096",
    ),
    Finding("c", "peers", Result.SKIP, "the node is not running", ""),
]


def test_each_check_has_a_name_of_its_own() -> None:
    codes = [check.code for check in CHECKS]
    assert len(codes) == len(set(codes)) >= 10


def test_findings_are_read_at_a_glance() -> None:
    assert findings_text(FINDINGS, Terminal(80)) == [
        "pass  state folder      /state, for its owner only",
        "warn  open files        256 may be open at once, about 128 clients at one time",
        "                        [b]",
        "      fix: ulimit -n 4096",
        "skip  peers             the node is not running",
        "",
        "1 passed, 1 to look at, 0 failed, 1 skipped",
    ]
    assert max(map(len, findings_text(FINDINGS, Terminal(40)))) <= 40


@pytest.mark.parametrize("words", [(), ("--no-mdns",)])
def test_it_works_with_the_node_down(cli: Command, words: tuple[str, ...]) -> None:
    ended = cli("doctor", "--json", *words)
    found = {check["code"]: check for check in json.loads(ended.out)["checks"]}
    assert set(found) == {check.code for check in CHECKS}
    assert found["node"]["result"] == "warn"
    assert found["peer_unreachable"]["result"] == "skip"
    assert all(check["evidence"] for check in found.values())
    assert all(bool(check["fix"]) == (check["result"] in ("warn", "fail")) for check in found.values())


def test_it_looks_at_a_running_node(cli: Command) -> None:
    with FakeNode() as node:
        ended = cli("doctor", "--json", "--listen", node.address)
    found = {check["code"]: check for check in json.loads(ended.out)["checks"]}
    assert found["node"]["evidence"] == f"desk 0.1.0 answers at {node.address}, distributed"
    assert found["engine_unreachable"]["evidence"] == "ollama 0.33.0 at 127.0.0.1:40111 is ready"
    assert found["listen"]["evidence"] == "127.0.0.1:11434: this machine only"


def test_a_mistake_in_the_settings_is_a_finding_not_the_end(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_DIST_LISSTEN", "x")
    ended = cli("doctor")
    assert ended.code == Exit.FAILED
    assert ended.out.startswith("fail  settings          OLLAMA_DIST_LISSTEN (environment) is not a setting;")


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        ((passed("x"), skipped("x")), Exit.OK),
        ((passed("x"), warned("x", "y")), Exit.DEGRADED),
    ],
)
def test_the_exit_code_is_the_worst_finding(
    cli: Command, monkeypatch: pytest.MonkeyPatch, verdicts: tuple[object, ...], code: Exit
) -> None:
    checks = tuple(
        Check(str(number), "", lambda _, verdict=verdict: verdict) for number, verdict in enumerate(verdicts)
    )
    monkeypatch.setattr("ollama_dist.cli.doctor.CHECKS", checks)
    assert cli("doctor").code == code
