"""What processes cost: their time on the cores and the memory that is their own."""

import time
from collections.abc import Iterable
from pathlib import Path

import psutil


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    return [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]


def listening(port: int) -> list[int]:
    """The processes that listen on a port of this machine, as far as they can be seen."""
    found = psutil.net_connections("tcp")
    return sorted(
        {
            each.pid
            for each in found
            if each.pid is not None
            and each.status == psutil.CONN_LISTEN
            and each.laddr
            and each.laddr.port == port
        }
    )


def cpu_s(pids: Iterable[int]) -> float:
    """Seconds that all threads of these processes were on a core, user and system."""
    return sum(map(_cpu_s, pids))


def _cpu_s(pid: int) -> float:
    try:
        return time.clock_gettime(
            ~pid << 3 | 2
        )  # clock_getcpuclockid(3): as /proc/PID/stat, not in hundredths
    except OSError:
        times = psutil.Process(pid).cpu_times()
        return times.user + times.system


def own_kib(pids: Iterable[int]) -> int:
    """KiB of anonymous memory these processes have resident: buffers and objects, not the program's text."""
    return sum(map(_own_kib, pids))


def _own_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "RssAnon":
            return int(value.split()[0])
    return 0
