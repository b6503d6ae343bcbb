"""Ports for programs that tests start."""

import subprocess
import sys

from tests.support.ports import free_ports

ASKING = """
import sys
from tests.support.ports import free_ports
print(*free_ports(90), flush=True)
sys.stdin.read()
"""


def test_processes_side_by_side_get_different_ports() -> None:
    given = [free_ports(90)]
    others = [
        subprocess.Popen(
            [sys.executable, "-c", ASKING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    for other in others:
        assert other.stdout is not None
        given.append([int(port) for port in other.stdout.readline().split()])
    for other in others:
        other.communicate()
    assert len({port for ports in given for port in ports}) == 5 * 90
