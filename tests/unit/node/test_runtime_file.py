import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from ollama_dist.node.runtime_file import Runtime, read_runtime, write_runtime
from ollama_dist.node.setting_values import Address

RUNTIME = Runtime(
    pid=4711,
    name="desk",
    node_id="00112233445566aa",
    version="0.1.0",
    listen="127.0.0.1:11434",
    node_listen="0.0.0.0:11436",
    admin_token_file="/state/admin.token",
    started_at="2026-11-20T10:00:00Z",
    updated_at="2026-11-20T10:00:05Z",
    cluster="9f2c41d0",
    peers=("laptop", "attic"),
    models=12,
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "runtime.json"
    for runtime in (RUNTIME, replace(RUNTIME, stopped_at="2026-11-20T11:00:00Z", peers=())):
        write_runtime(path, runtime)
        assert read_runtime(path) == runtime
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_commands_on_this_machine_reach_every_interface_over_loopback() -> None:
    assert RUNTIME.address == Address("127.0.0.1", 11434)
    assert replace(RUNTIME, listen="0.0.0.0:80").address == Address("127.0.0.1", 80)
    assert replace(RUNTIME, listen="[::]:80").address == Address("::1", 80)


def test_a_later_version_may_add_to_it(tmp_path: Path) -> None:
    path = tmp_path / "runtime.json"
    write_runtime(path, RUNTIME)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"gpu": "many"}))
    assert read_runtime(path) == RUNTIME


@pytest.mark.parametrize("change", [{"schema": 2}, {"listen": "nowhere"}, {"pid": "x"}, {"peers": 7}])
def test_what_is_not_understood_counts_as_absent(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "runtime.json"
    write_runtime(path, RUNTIME)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_runtime(path) is None


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", '{"schema": 1}', "\x00"])
def test_garbage_counts_as_absent(tmp_path: Path, content: str) -> None:
    (tmp_path / "runtime.json").write_text(content)
    assert read_runtime(tmp_path / "runtime.json") is None


def test_no_file_counts_as_absent(tmp_path: Path) -> None:
    assert read_runtime(tmp_path / "runtime.json") is None
