"""`invite`, `join`, `leave` and `cluster-key`."""

import json
import stat
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from ollama_dist.cli.failures import Exit
from ollama_dist.core.errors import BadRequest
from ollama_dist.node.paths import StateLock, make_state_dir
from ollama_dist.node.runtime_file import write_runtime
from ollama_dist.node.seeds import read_seeds
from ollama_dist.node.setting_values import Address, Secret
from tests.support.fake_node import FakeNode
from tests.unit.cli.conftest import Command
from tests.unit.cli.test_views import KNOWN

INVITE = {"code": "odj1-abc", "expires_at": "2026-11-20T10:10:00Z", "command": "ollama-dist join odj1-abc"}


@dataclass(frozen=True)
class Joined:
    cluster_key: str = "odk1-joined"
    addresses: tuple[str, ...] = ("desk:11436", "10.0.0.2:11436")


@pytest.fixture
def node(bare_machine: Path) -> Iterator[FakeNode]:
    """A node that runs from the state folder."""
    paths = make_state_dir(bare_machine)
    paths.admin_token.write_text("sesame\n")
    lock = StateLock(paths)
    lock.take()
    answers: dict[str, tuple[int, object]] = {
        "POST /api/distributed/invite": (200, INVITE),
        "POST /api/distributed/join": (200, {"cluster": "9f2c41d0", "nodes": 3}),
        "POST /api/distributed/leave": (200, {"left": True}),
    }
    with FakeNode(answers) as fake:
        write_runtime(paths.runtime, replace(KNOWN, listen=fake.address))
        yield fake
    lock.release()


def test_an_invitation_is_the_command_for_the_other_machine(cli: Command, node: FakeNode) -> None:
    ended = cli("invite")
    assert ended.code == Exit.OK
    assert ended.out == "ollama-dist join odj1-abc\n"
    assert "before 2026-11-20T10:10:00Z" in ended.err
    assert node.requests[-1].headers["Authorization"] == "Bearer sesame"
    assert json.loads(cli("invite", "--json").out) == {"schema": "ollama-dist.invite/1", **INVITE}


def test_a_running_node_joins_at_once(cli: Command, node: FakeNode) -> None:
    ended = cli("join", "odj1-abc")
    assert (ended.code, ended.out) == (
        0,
        "joined cluster 9f2c41d0, 3 nodes with this one; see: ollama-dist status\n",
    )
    assert node.requests[-1].body == {"code": "odj1-abc"}
    cli("join", "odj1-abc", "--replace")
    assert node.requests[-1].body == {"code": "odj1-abc", "replace": True}


def test_leaving_needs_a_yes(cli: Command, node: FakeNode, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = cli("leave")
    assert ended.code == Exit.USAGE
    assert ended.err.endswith("try: ollama-dist leave --yes\n")
    assert node.requests == []
    ended = cli("leave", "--yes")
    assert ended.code == Exit.OK
    assert [request.path for request in node.requests] == ["/api/distributed/leave"]


@pytest.mark.parametrize(("said", "code", "asked"), [("y\n", Exit.OK, 1), ("\n", Exit.FAILED, 0)])
def test_a_person_is_asked_before_leaving(
    cli: Command, node: FakeNode, monkeypatch: pytest.MonkeyPatch, said: str, code: Exit, asked: int
) -> None:
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin.readline", lambda: said, raising=False)
    assert cli("leave").code == code
    assert len(node.requests) == asked


@pytest.mark.parametrize("words", [("invite",), ("leave", "--yes")])
def test_both_need_a_running_node(cli: Command, words: tuple[str, ...]) -> None:
    ended = cli(*words, "--listen", "127.0.0.1:1")
    assert ended.code == Exit.NOT_RUNNING


def test_a_node_that_is_down_keeps_the_key_and_the_members(
    cli: Command, bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traded: list[str] = []

    def redeem(code: str) -> Joined:
        traded.append(code)
        return Joined()

    monkeypatch.setattr("ollama_dist.cli.join.redeem_invitation", redeem)
    ended = cli("join", "odj1-abc")
    paths = make_state_dir(bare_machine)
    assert ended.code == Exit.OK
    assert traded == ["odj1-abc"]
    assert paths.cluster_key.read_text() == "odk1-joined\n"
    assert stat.S_IMODE(paths.cluster_key.stat().st_mode) == 0o600
    assert read_seeds(paths) == (Address("desk", 11436), Address("10.0.0.2", 11436))
    assert "odk1" not in ended.out + ended.err


def test_a_code_that_is_refused_changes_nothing(
    cli: Command, bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(code: str) -> Joined:
        raise BadRequest("the code has expired")

    monkeypatch.setattr("ollama_dist.cli.join.redeem_invitation", refuse)
    ended = cli("join", "odj1-abc")
    assert ended.code == Exit.FAILED
    assert ended.err.startswith("ollama-dist: the code has expired\n")
    assert not bare_machine.exists()


def test_another_cluster_is_not_left_by_accident(
    cli: Command, bare_machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ollama_dist.cli.join.redeem_invitation", lambda code: Joined())
    paths = make_state_dir(bare_machine)
    write_runtime(paths.runtime, KNOWN)
    ended = cli("join", "odj1-abc")
    assert ended.code == Exit.FAILED
    assert "belongs to cluster 9f2c41d0 already" in ended.err
    assert not paths.cluster_key.exists()
    assert cli("join", "odj1-abc", "--replace").code == Exit.OK
    assert paths.cluster_key.exists()


def test_a_key_in_the_environment_would_win_so_it_is_named(
    cli: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_DIST_CLUSTER_KEY", "odk1-other")
    ended = cli("join", "odj1-abc")
    assert ended.code == Exit.FAILED
    assert "unset OLLAMA_DIST_CLUSTER_KEY" in ended.err


def test_a_new_key_is_all_that_goes_to_standard_output(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_dist.cli.cluster_key.new_cluster_key", lambda: Secret("odk1-new"))
    ended = cli("cluster-key", "new")
    assert (ended.code, ended.out, ended.err) == (0, "odk1-new\n", "")
    assert cli("cluster-key", "old").code == Exit.USAGE
