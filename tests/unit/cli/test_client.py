import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_dist.cli.client import NodeClient, NotRunning, Whereabouts, locate
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.node.config import Settings
from ollama_dist.node.config_sources import Machine, load_settings
from ollama_dist.node.paths import StateLock, StatePaths, make_state_dir
from ollama_dist.node.runtime_file import write_runtime
from ollama_dist.node.setting_values import Address, Secret
from tests.support.fake_node import STATUS, FakeNode
from tests.unit.cli.test_views import KNOWN

STATUS_PATH = "/api/distributed/status"


def settings_in(folder: Path, **environ: str) -> Settings:
    return load_settings({}, environ, Machine("desk", folder, folder / "absent.yaml", folder))


def at(port: int, *, token: str = "", in_use: bool = True) -> Whereabouts:
    return Whereabouts(Address("127.0.0.1", port), None, in_use, Secret(token) if token else None)


def ask(port: int, patience_s: float = 3.0) -> Any:
    return NodeClient(at(port), patience_s).get(STATUS_PATH)


def tell(port: int) -> Any:
    return NodeClient(at(port, token="sesame")).post("/x", {"a": 1})


@pytest.fixture
def running(tmp_path: Path) -> StatePaths:
    """The state folder of a node that runs at port 9."""
    paths = make_state_dir(tmp_path)
    write_runtime(paths.runtime, replace(KNOWN, listen="127.0.0.1:9"))
    paths.admin_token.write_text("sesame\n")
    return paths


def test_the_usual_address_is_looked_at_where_nothing_is_known(tmp_path: Path) -> None:
    where = locate(settings_in(tmp_path))
    assert where == Whereabouts(Address("127.0.0.1", 11434), None, in_use=False, token=None)


def test_a_token_from_a_file_goes_only_to_the_node_that_runs_from_that_folder(
    running: StatePaths, tmp_path: Path
) -> None:
    assert locate(settings_in(tmp_path)).token is None, "the node is down: who knows who has its port now"
    lock = StateLock(running)
    lock.take()
    assert locate(settings_in(tmp_path)).token == Secret("sesame")
    assert locate(settings_in(tmp_path, OLLAMA_DIST_LISTEN="127.0.0.1:10")).token is None
    lock.release()


def test_a_token_that_was_set_goes_where_it_was_told_to(running: StatePaths, tmp_path: Path) -> None:
    environ = {"OLLAMA_ADMIN_TOKEN": "open", "OLLAMA_DIST_LISTEN": "10.0.0.1:10"}
    where = locate(settings_in(tmp_path, **environ))
    assert (where.token, where.address) == (Secret("open"), Address("10.0.0.1", 10))


def test_the_token_is_shown_as_bearer() -> None:
    with FakeNode({"POST /x": (200, {})}) as node:
        tell(node.port)
    (post,) = node.requests
    assert post.headers["Authorization"] == "Bearer sesame"
    assert post.body == {"a": 1}


def test_a_client_key_is_shown_where_there_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", "odc1-key")
    with FakeNode({f"GET {STATUS_PATH}": (200, STATUS)}) as node:
        ask(node.port)
    (get,) = node.requests
    assert get.headers["Authorization"] == "Bearer odc1-key"


def test_without_a_token_nothing_is_asked_of_a_running_node() -> None:
    with FakeNode() as node, pytest.raises(Failure) as caught:
        NodeClient(at(node.port)).post("/x", {})
    assert caught.value.exit_code is Exit.NOT_ALLOWED
    assert node.requests == []


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_told_apart(status: int) -> None:
    answer = {"error": "wrong token", "code": "unauthorized"}
    with FakeNode({f"GET {STATUS_PATH}": (status, answer)}) as node, pytest.raises(Failure) as caught:
        ask(node.port)
    assert caught.value.exit_code is Exit.NOT_ALLOWED
    assert caught.value.why == "wrong token"


def test_the_nodes_own_words_are_passed_on() -> None:
    answer = {"error": "the code was used already", "code": "invite_used"}
    with FakeNode({"POST /x": (409, answer)}) as node, pytest.raises(Failure) as caught:
        tell(node.port)
    assert caught.value.what == "the code was used already"
    assert caught.value.exit_code is Exit.FAILED


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, b"404 page not found"), "an Ollama answers at"),
        ((404, b"<html>"), "is not a node"),
        ((200, b"Ollama is running"), "is not a node"),
        ((200, []), "is not a node"),
        ((500, b""), "is not a node"),
    ],
)
def test_somebody_else_on_the_port_is_no_node(answer: tuple[int, object], said: str) -> None:
    with FakeNode({f"GET {STATUS_PATH}": answer}) as node, pytest.raises(NotRunning, match=said):
        ask(node.port)


def test_nobody_on_the_port_is_a_node_that_is_down_or_one_that_is_starting() -> None:
    with FakeNode() as node:
        port = node.port
    with pytest.raises(NotRunning, match="no node is running"):
        NodeClient(at(port, in_use=False)).get(STATUS_PATH)
    with pytest.raises(Failure, match="does not listen") as caught:
        ask(port)
    assert caught.value.exit_code is Exit.FAILED


def test_a_node_that_hangs_is_not_waited_for_long() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(Failure) as caught:
        ask(deaf.getsockname()[1], patience_s=0.1)
    assert caught.value.why == "no answer within 0.1 s"


def test_an_unknown_host_is_named() -> None:
    where = Whereabouts(Address("no-such-host.invalid", 1), None, in_use=False, token=None)
    with pytest.raises(NotRunning, match=r"no-such-host\.invalid"):
        NodeClient(where).get(STATUS_PATH)
