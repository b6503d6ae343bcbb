from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest

from ollama_dist.core.view import Gpu
from ollama_dist.node.telemetry import Telemetry, own_cgroup


def test_this_machine_has_processors_and_memory() -> None:
    resources = Telemetry().sample()
    assert resources.cpus >= 1
    assert 0 < resources.memory_free_bytes <= resources.memory_bytes


def test_a_containers_limit_counts_where_it_is_lower(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    resources = Telemetry(tmp_path).sample()
    assert (resources.memory_bytes, resources.memory_free_bytes) == (1_000_000, 600_000)


@pytest.mark.parametrize("text", ["max\n", "", "9" * 20])
def test_no_limit_is_no_limit(tmp_path: Path, text: str) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert Telemetry(tmp_path).sample().memory_bytes == psutil.virtual_memory().total


def test_the_control_group_is_the_one_the_process_lives_in(tmp_path: Path) -> None:
    membership = tmp_path / "cgroup"
    membership.write_text("4:memory:/old\n0::/system.slice/node.service\n")
    assert own_cgroup(membership, Path("/root")) == Path("/root/system.slice/node.service")
    assert own_cgroup(tmp_path / "missing", Path("/root")) == Path("/root")


def test_gpus_are_listed_by_name_with_their_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory = SimpleNamespace(total=24 * 2**30, free=8 * 2**30, used=16 * 2**30)
    for name, answer in {
        "nvmlInit": None,
        "nvmlDeviceGetCount": 1,
        "nvmlDeviceGetHandleByIndex": object(),
        "nvmlDeviceGetMemoryInfo": memory,
        "nvmlDeviceGetName": b"NVIDIA H200",
    }.items():
        monkeypatch.setattr(pynvml, name, _answering(answer))
    assert Telemetry(tmp_path).sample().gpus == (Gpu("NVIDIA H200", 24 * 2**30, 8 * 2**30),)


def test_a_driver_that_is_missing_is_asked_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[int] = []

    def missing() -> None:
        asked.append(1)
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", missing)
    telemetry = Telemetry(tmp_path)
    assert telemetry.sample().gpus == telemetry.sample().gpus == ()
    assert len(asked) == 1


def _answering(answer: Any) -> Any:
    return lambda *_: answer
