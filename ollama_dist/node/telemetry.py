"""What this machine has: processors, memory, GPUs. Read in a thread: a driver call can take a second."""

import contextlib
import threading
from pathlib import Path
from typing import Final

import psutil
import pynvml
import structlog

from ollama_dist.core.view import Gpu, Resources

log = structlog.get_logger()

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUP: Final = Path("/proc/self/cgroup")


def own_cgroup(membership: Path = OWN_CGROUP, root: Path = CGROUPS) -> Path:
    """The folder of the control group this process lives in (version 2); the root's where there is none."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return root
    unified = next((line.removeprefix("0::") for line in lines if line.startswith("0::")), "/")
    return root / unified.lstrip("/")


class Telemetry:
    """Samples the machine. `sample` blocks: call it in a thread, one at a time."""

    def __init__(self, cgroup: Path | None = None) -> None:
        self._cgroup = own_cgroup() if cgroup is None else cgroup
        self._lock = threading.Lock()
        self._has_nvml: bool | None = None

    def sample(self, models: Path | None = None) -> Resources:
        """Memory is what this process may use: a container's limit counts where it is lower.

        ``models`` is the folder where the engine has its models, where that is known.
        """
        with self._lock:
            memory = psutil.virtual_memory()
            total, free = memory.total, memory.available
            if (limit := self._number("memory.max")) is not None and limit < total:
                total, free = limit, max(0, min(free, limit - (self._number("memory.current") or 0)))
            return Resources(psutil.cpu_count() or 1, total, free, self._gpus(), _disk_free(models))

    def close(self) -> None:
        with self._lock:
            if self._has_nvml:
                with contextlib.suppress(pynvml.NVMLError):
                    pynvml.nvmlShutdown()
            self._has_nvml = False

    def _number(self, name: str) -> int | None:
        """A figure of the control group this process lives in; None where there is none or no limit."""
        try:
            text = (self._cgroup / name).read_text().strip()
        except OSError:
            return None
        return int(text) if text.isdigit() else None

    def _gpus(self) -> tuple[Gpu, ...]:
        if self._has_nvml is None:
            self._has_nvml = _start_nvml()
        if not self._has_nvml:
            return ()
        try:
            return tuple(_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
        except pynvml.NVMLError as error:
            log.warning("gpu_unreadable", error=str(error))
            return ()


def _disk_free(folder: Path | None) -> int | None:
    """Bytes this user may still write there."""
    try:
        return psutil.disk_usage(str(folder)).free if folder is not None else None
    except OSError as error:
        log.debug("disk_unreadable", folder=str(folder), error=str(error))
        return None


def _start_nvml() -> bool:
    """Whether there is a driver to ask. Asked once: a machine does not grow a GPU while we run."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("no_gpu", reason=str(error))
        return False
    return True


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
    name = pynvml.nvmlDeviceGetName(handle)
    return Gpu(
        name if isinstance(name, str) else name.decode(errors="replace"), int(memory.total), int(memory.free)
    )
