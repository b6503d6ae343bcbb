import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ollama_dist.cli.children import Children, Program, describe_exit, ended_by_signals, last_line
from ollama_dist.cli.failures import Failure

PATIENT = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {PATIENT}"
PARENT = f"""
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
{PATIENT}
"""


def program(name: str, source: str, folder: Path) -> Program:
    return Program(name, [sys.executable, "-c", source], os.environ, folder / name / "log")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def said(folder: Path, name: str) -> str:
    return (folder / name / "log").read_text()


def is_alive(pid: int) -> bool:
    """Whether the process runs; one that waits to be collected does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return state.stdout.strip()[:1] not in ("", "Z")


def test_all_are_gone_at_the_end(tmp_path: Path) -> None:
    with Children([program("a", PATIENT, tmp_path), program("b", PATIENT, tmp_path)]) as children:
        wait_until(lambda: said(tmp_path, "a") == said(tmp_path, "b") == "up\n")
        pids = [children.pid("a"), children.pid("b")]
        assert children.ended() == {}
        assert all(map(is_alive, pids))
    assert not any(map(is_alive, pids))


def test_one_that_will_not_end_is_killed(tmp_path: Path) -> None:
    with Children([program("a", STUBBORN, tmp_path)], grace_s=0.1) as children:
        wait_until(lambda: said(tmp_path, "a") == "up\n")
        pid = children.pid("a")
    assert not is_alive(pid)
    assert children.ended() == {"a": -signal.SIGKILL}


def test_what_a_killed_child_had_started_goes_with_it(tmp_path: Path) -> None:
    with Children([program("a", PARENT, tmp_path), program("b", PATIENT, tmp_path)]) as children:
        wait_until(lambda: said(tmp_path, "a").endswith("up\n"))
        orphan = int(said(tmp_path, "a").split()[0])
        os.kill(children.pid("a"), signal.SIGKILL)
        wait_until(lambda: children.ended() == {"a": -signal.SIGKILL})
        wait_until(lambda: not is_alive(orphan))
        assert is_alive(children.pid("b")), "the others go on"


def test_an_error_within_leaves_none_behind(tmp_path: Path) -> None:
    children = Children([program("a", PATIENT, tmp_path)])
    with pytest.raises(Failure, match="surprise"), children:
        raise Failure("surprise")
    assert not is_alive(children.pid("a"))


def test_if_one_cannot_be_started_the_others_end(tmp_path: Path) -> None:
    good = program("a", PATIENT, tmp_path)
    bad = Program("b", ["/no/such/program"], os.environ, tmp_path / "b" / "log")
    children = Children([good, bad])
    with pytest.raises(FileNotFoundError), children:
        pass
    assert not is_alive(children.pid("a"))


def test_one_that_ended_is_told_with_its_last_words(tmp_path: Path) -> None:
    failing = program("a", "import sys; print('starting'); sys.exit('port 1 is taken')", tmp_path)
    with Children([failing]) as children:
        wait_until(lambda: bool(children.ended()))
        with pytest.raises(Failure, match="a ended with exit code 1") as caught:
            children.require_all()
    assert caught.value.why == "port 1 is taken"
    assert caught.value.do == f"look at {tmp_path}/a/log"


def test_a_signal_ends_the_program_in_order() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), ended_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_ends_are_told_in_words(tmp_path: Path) -> None:
    assert describe_exit(0) == "exit code 0"
    assert describe_exit(-9) == "SIGKILL"
    assert last_line(tmp_path / "absent") == ""
    (tmp_path / "log").write_bytes(b"one\ntw\xffo\n\n")
    assert last_line(tmp_path / "log") == "tw\N{REPLACEMENT CHARACTER}o"
