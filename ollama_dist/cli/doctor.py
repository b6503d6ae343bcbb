"""``doctor``: look for what could keep this node from working, whether it runs or not."""

import os
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Final

from ollama_dist.cli import checks_engine, checks_machine, checks_network
from ollama_dist.cli.answers import read_nodes, read_status
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.client import NodeClient, locate
from ollama_dist.cli.examination import Finding, Result, Situation, examine_all
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.output import print_json, print_lines
from ollama_dist.cli.terminal import Terminal, Tone, terminal_of
from ollama_dist.core.errors import ConfigError
from ollama_dist.node.config_sources import load_settings

CHECKS: Final = (*checks_machine.CHECKS, *checks_engine.CHECKS, *checks_network.CHECKS)

_TONES: Final = {Result.PASS: Tone.GOOD, Result.WARN: Tone.WARN, Result.FAIL: Tone.BAD, Result.SKIP: Tone.DIM}
_TITLE_WIDTH: Final = 18
_ROOMY: Final = 70


def run(arguments: Arguments) -> int:
    findings = examine_all(CHECKS, _situation(arguments))
    if arguments.json:
        print_json("doctor", {"checks": [asdict(finding) for finding in findings]})
    else:
        print_lines(findings_text(findings, terminal_of(sys.stdout)))
    results = {finding.result for finding in findings}
    if Result.FAIL in results:
        return Exit.FAILED
    return Exit.DEGRADED if Result.WARN in results else Exit.OK


def findings_text(findings: Sequence[Finding], terminal: Terminal) -> list[str]:
    """One line per check, the fix below what needs one, and the sum."""
    indent = " " * (6 + _TITLE_WIDTH if terminal.width >= _ROOMY else 8)
    lines = []
    for finding in findings:
        code = f" [{finding.code}]" if finding.fix else ""
        text = f"{finding.result}  {finding.title:<{_TITLE_WIDTH}}{finding.evidence}{code}"
        first, *more = terminal.wrap(text, indent)
        lines += [
            first.replace(finding.result, terminal.paint(finding.result, _TONES[finding.result]), 1),
            *more,
        ]
        if finding.fix:
            lines += terminal.wrap(f"      fix: {finding.fix}", " " * 11)
    numbers = Counter(finding.result for finding in findings)
    said = (
        (Result.PASS, "passed"),
        (Result.WARN, "to look at"),
        (Result.FAIL, "failed"),
        (Result.SKIP, "skipped"),
    )
    return [*lines, "", *terminal.wrap(", ".join(f"{numbers[result]} {word}" for result, word in said))]


def _situation(arguments: Arguments) -> Situation:
    error = ""
    try:
        settings = arguments.settings()
    except ConfigError as mistake:
        error, settings = str(mistake), load_settings({"config": os.devnull}, {})
    where = locate(settings)
    try:
        node = NodeClient(where)
        status = read_status(node.get("/api/distributed/status"))
        nodes = read_nodes(node.get("/api/distributed/nodes"))
    except Failure as failure:
        said = f"{failure.what}: {failure.why}" if failure.why else failure.what
        return Situation(settings, os.environ, where, config_error=error, node_error=said)
    return Situation(settings, os.environ, where, config_error=error, status=status, nodes=nodes)
