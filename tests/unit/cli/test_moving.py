"""`pull`, `copy`, `move`, `rm`, `operations`, `policy`, `rebalance`, `drain` and `undrain`."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ollama_dist.cli.answers import OperationStep, RunningOperation, read_operation
from ollama_dist.cli.failures import Exit
from ollama_dist.cli.moving import INTERRUPTED
from ollama_dist.cli.progress import Display, step_line
from ollama_dist.cli.terminal import Terminal
from ollama_dist.node.paths import StateLock, make_state_dir
from ollama_dist.node.runtime_file import write_runtime
from tests.support.fake_node import FakeNode
from tests.unit.cli.conftest import Command
from tests.unit.cli.test_views import KNOWN

ID = "00112233445566aa-0123456789ab"
GB = 10**9


def operation(state: str = "succeeded", size: int = 5 * GB, **step: Any) -> dict[str, Any]:
    first = {
        "action": "copy",
        "model": "llama3:8b",
        "from": "desk",
        "to": "laptop",
        "reason": "asked for",
        "bytes_total": size,
        "bytes_done": size if state == "succeeded" else 0,
        "bytes_per_s": 0,
        "sources": [],
        "stalled_s": 0,
        "state": state,
        "note": None,
        "error": None,
    }
    return {
        "operation": {
            "id": ID,
            "kind": "migrate",
            "state": state,
            "created_at": "2026-11-20T10:00:00.000Z",
            "finished_at": None if state in ("running", "planned") else "2026-11-20T10:01:00.000Z",
            "requested_by": "admin",
            "owner": "desk",
            "steps": [{**first, **step}],
        }
    }


def lines(*bodies: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(body).encode() + b"\n" for body in bodies)


@pytest.fixture
def node(bare_machine: Path) -> Iterator[FakeNode]:
    paths = make_state_dir(bare_machine)
    paths.admin_token.write_text("sesame\n")
    lock = StateLock(paths)
    lock.take()
    path = "/api/distributed"
    answers: dict[str, tuple[int, Any]] = {
        f"POST {path}/migrate": (202, operation("running", GB // 2)),
        f"GET {path}/operations/{ID}?stream=true": (200, lines(operation("running"), operation())),
        f"GET {path}/operations/{ID}": (200, operation("running")),
        f"POST {path}/operations/{ID}/cancel": (200, operation("cancelled")),
        f"GET {path}/operations": (200, {"operations": [operation("running")["operation"]]}),
        f"POST {path}/drain": (200, {"operation": None}),
        f"POST {path}/undrain": (200, {"operation": None}),
        f"POST {path}/rebalance": (202, operation("running", GB // 2)),
        f"GET {path}/policies": (200, {"policies": []}),
        f"PUT {path}/policies/llama3*": (
            200,
            {"policy": {"pattern": "llama3*", "min": 2, "max": None, "pinned": ["desk"]}},
        ),
        f"DELETE {path}/policies/llama3*": (200, {"removed": "llama3*"}),
        "DELETE /api/delete": (200, b""),
        "POST /api/pull": (
            200,
            lines(
                {"status": "pulling manifest"},
                {"status": "pulling aa", "digest": "aa", "total": 100, "completed": 60},
                {"status": "success"},
            ),
        ),
    }
    with FakeNode(answers) as fake:
        write_runtime(paths.runtime, replace(KNOWN, listen=fake.address))
        yield fake
    lock.release()


def bodies(node: FakeNode, path: str) -> list[Any]:
    return [request.body for request in node.requests if request.path.startswith(path)]


MIGRATE = "/api/distributed/migrate"


def test_a_small_copy_is_simply_done(cli: Command, node: FakeNode) -> None:
    ended = cli("copy", "llama3:8b", "laptop")
    assert (ended.code, ended.out) == (Exit.OK, "llama3:8b is on laptop, verified\n")
    wish = {"model": "llama3:8b", "to": "laptop", "keep_source": True}
    assert bodies(node, MIGRATE) == [{**wish, "dry_run": True}, wish]
    assert node.requests[-1].headers["Authorization"] == "Bearer sesame"


def test_a_large_one_and_every_move_show_their_plan_and_want_a_yes(cli: Command, node: FakeNode) -> None:
    node.answers[f"POST {MIGRATE}"] = (202, operation("running", 5 * GB))
    for words in (("copy", "llama3:8b", "laptop"), ("move", "llama3:8b", "laptop", "--from", "desk")):
        node.requests.clear()
        ended = cli(*words)
        assert ended.code == Exit.USAGE
        assert "copy llama3:8b from desk to laptop: 5.0 GB, asked for" in ended.err
        assert [body["dry_run"] for body in bodies(node, MIGRATE)] == [True]
        assert cli(*words, "--yes").code == Exit.OK
        assert bodies(node, MIGRATE)[-1]["keep_source"] is (words[0] == "copy")
    assert bodies(node, MIGRATE)[-1]["from"] == "desk"


def test_what_failed_says_why(cli: Command, node: FakeNode) -> None:
    failed = operation("failed", error="the disk is full")
    node.answers[f"GET /api/distributed/operations/{ID}?stream=true"] = (200, lines(failed))
    ended = cli("copy", "llama3:8b", "laptop")
    assert ended.code == Exit.FAILED
    assert "the migrate failed" in ended.err
    assert "the disk is full" in ended.err


def test_interrupted_it_goes_on_and_says_how_to_come_back(
    cli: Command, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: Display, operation: RunningOperation) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Display, "show", interrupt)
    ended = cli("copy", "llama3:8b", "laptop")
    assert ended.code == INTERRUPTED
    assert f"ollama-dist operations {ID} --watch" in ended.err
    assert f"ollama-dist operations {ID} --cancel" in ended.err
    ended = cli("pull", "llama3:8b")
    assert ended.code == INTERRUPTED
    assert "goes on from there" in ended.err


def test_detached_only_the_id_is_printed(cli: Command, node: FakeNode) -> None:
    assert cli("copy", "llama3:8b", "laptop", "attic", "--detach").out == f"{ID}\n{ID}\n"


def test_operations_are_listed_shown_watched_and_cancelled(cli: Command, node: FakeNode) -> None:
    assert ID in cli("operations").out
    assert json.loads(cli("operations", "--json").out)["operations"][0]["id"] == ID
    assert "copy llama3:8b from desk to laptop" in cli("operations", ID).out
    assert cli("operations", ID, "--watch").out == "llama3:8b is on laptop, verified\n"
    assert "cancelled" in cli("operations", ID, "--cancel").out
    assert cli("operations", "--cancel").code == Exit.USAGE


def test_a_drain_of_this_node_needs_no_name(cli: Command, node: FakeNode) -> None:
    ended = cli("drain")
    assert ended.out == "desk is drained: it can be switched off\n"
    assert bodies(node, "/api/distributed/drain") == [{"node": "desk"}]
    assert cli("undrain", "laptop").out == "laptop takes requests again\n"
    assert bodies(node, "/api/distributed/undrain") == [{"node": "laptop"}]


def test_policies_are_listed_set_and_removed(cli: Command, node: FakeNode) -> None:
    assert cli("policy", "list").out.startswith("no policies")
    ended = cli("policy", "set", "llama3*", "--min", "2", "--pin", "desk")
    assert ended.code == Exit.OK
    assert ended.out.splitlines()[1].split() == ["llama3*", "2", "-", "desk"]
    assert node.requests[-1].body == {"min": 2, "max": None, "pinned": ["desk"]}
    assert cli("policy", "remove", "llama3*").code == Exit.OK
    assert cli("policy", "set").code == Exit.USAGE
    assert cli("policy", "set", "x", "--min", "many").code == Exit.USAGE


def test_a_rebalance_shows_what_it_will_do(cli: Command, node: FakeNode) -> None:
    ended = cli("rebalance", "--dry-run")
    assert "copy llama3:8b from desk to laptop" in ended.out
    assert cli("rebalance").code == Exit.USAGE
    assert cli("rebalance", "--yes").code == Exit.OK
    assert bodies(node, "/api/distributed/rebalance")[-1] == {"models": []}


def test_rm_names_the_nodes_and_wants_a_yes(cli: Command, node: FakeNode) -> None:
    ended = cli("rm", "llama3:8b")
    assert ended.code == Exit.USAGE
    assert "delete llama3:8b on desk, laptop: 4.7 GB each" in ended.err
    assert bodies(node, "/api/delete") == []
    assert cli("rm", "llama3:8b", "--yes").out == "deleted llama3:8b\n"
    assert bodies(node, "/api/delete") == [{"model": "llama3:8b"}]
    node.answers["DELETE /api/delete"] = (404, {"error": "model 'nosuch' not found"})
    ended = cli("rm", "nosuch", "--yes")
    assert ended.code == Exit.FAILED
    assert "no node that can be reached has it" in ended.err
    assert "model 'nosuch' not found" in ended.err


def test_rm_on_one_node_is_planned_and_followed(cli: Command, node: FakeNode) -> None:
    gone = operation("succeeded", 0, action="delete", to=None, reason="asked for; also on laptop")
    node.answers[f"POST {MIGRATE}"] = (202, gone)
    node.answers[f"GET /api/distributed/operations/{ID}?stream=true"] = (200, lines(gone))
    ended = cli("rm", "llama3:8b", "--node", "desk")
    assert ended.code == Exit.USAGE
    assert "delete llama3:8b on desk: asked for; also on laptop" in ended.err
    wish = {"model": "llama3:8b", "from": "desk"}
    assert bodies(node, MIGRATE) == [{**wish, "dry_run": True}]
    ended = cli("rm", "llama3:8b", "--node", "desk", "--force", "--yes")
    assert ended.out == "llama3:8b is no more on desk\n"
    assert bodies(node, MIGRATE)[-1] == {**wish, "force": True}
    assert bodies(node, "/api/delete") == []
    assert cli("rm", "llama3:8b", "--force", "--yes").code == Exit.USAGE


def test_rm_says_what_is_deleted_later(cli: Command, node: FakeNode) -> None:
    later = "none of those that have it can be reached; it is deleted when they are back: desk"
    node.answers["DELETE /api/delete"] = (202, {"status": later})
    assert cli("rm", "llama3:8b", "--yes").out == f"llama3:8b: {later}\n"
    assert json.loads(cli("rm", "llama3:8b", "--yes", "--json").out)["models"] == {"llama3:8b": later}


def test_steps_in_memory_name_the_node_they_are_done_on() -> None:
    [step] = read_operation(operation("running", 0, action="load")).steps
    assert step_line(step, Terminal(120)) == "load llama3:8b on laptop: running"
    assert step_line(step._replace(action="unload"), Terminal(120)) == "unload llama3:8b on desk: running"


SCRUB = "/api/distributed/scrub"


def scrub(state: str, **more: Any) -> dict[str, Any]:
    figures = {"files": 3, "waiting": 0, "bytes_total": 4 * GB, "bytes_done": GB, "corrupt": []}
    return {"node": "laptop", "state": state, **figures, **more}


def test_a_scrub_is_followed_to_its_end(cli: Command, node: FakeNode) -> None:
    node.answers[f"POST {SCRUB}"] = (200, scrub("running", waiting=2))
    node.answers[f"GET {SCRUB}?node=laptop"] = (200, scrub("idle"))
    ended = cli("scrub", "laptop")
    assert (ended.code, ended.out) == (Exit.OK, "3 of 3 files on laptop are right\n")
    assert " 25% of 4.0 GB, 2 files left" in ended.err
    assert bodies(node, SCRUB)[0] == {"node": "laptop"}
    node.requests.clear()
    assert "2 files left" in cli("scrub", "laptop", "--detach").out
    assert json.loads(cli("scrub", "laptop", "--look", "--json").out)["state"] == "idle"
    assert [request.method for request in node.requests] == ["POST", "GET"]


def test_a_scrub_that_finds_something_fails_and_says_what_to_do(cli: Command, node: FakeNode) -> None:
    rotten = {"digest": "a" * 64, "models": ["llama3:8b"]}
    node.answers[f"GET {SCRUB}?node=desk"] = (200, scrub("idle", corrupt=[rotten]))
    ended = cli("scrub", "--look")
    assert ended.code == Exit.FAILED
    assert ended.out == "2 of 3 files on desk are right\n"
    assert "a file on desk changed on disk\n  part of llama3:8b" in ended.err
    assert "ollama-dist rm MODEL --node desk" in ended.err


def test_a_pull_may_be_onto_several_nodes(cli: Command, node: FakeNode) -> None:
    ended = cli("pull", "llama3:8b")
    assert (ended.code, ended.out) == (Exit.OK, "llama3:8b is on this node, verified\n")
    ended = cli("pull", "llama3:8b", "--on", "attic", "--on", "laptop")
    assert ended.out == "llama3:8b is on attic, verified\nllama3:8b is on laptop, verified\n"
    pulls = [request for request in node.requests if request.path == "/api/pull"]
    assert pulls[-1].headers["X-Ollama-Node"] == "attic"
    node.answers["POST /api/pull"] = (200, lines({"status": "pulling manifest"}, {"error": "no such model"}))
    assert "no such model" in cli("pull", "llama3:8b").err
    node.answers["POST /api/pull"] = (200, lines({"status": "pulling manifest"}))
    assert "broke off" in cli("pull", "llama3:8b").err


class Screen:
    """A stream that is no terminal."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        """Nothing is held."""

    def isatty(self) -> bool:
        return True


def test_a_bar_never_goes_backwards() -> None:
    screen = Screen()
    display = Display(screen, Terminal(120))  # type: ignore[arg-type]
    for done in (GB, 2 * GB, GB):
        display.show(read_operation(operation("running", 4 * GB, bytes_done=done)))
    assert screen.text.count(" 50%") == 2
    assert screen.text.count(" 25%") == 1


def test_a_step_tells_its_pace_its_source_and_what_it_waits_for() -> None:
    body = operation("running", 4 * GB, bytes_done=GB, bytes_per_s=100_000_000, sources=["desk", "attic"])
    [step] = read_operation(body).steps
    assert isinstance(step, OperationStep)
    line = step_line(step, Terminal(120, unicode=False))
    assert " 25% of 4.0 GB  100 MB/s  30 s left  from desk, attic" in line
    assert "#####..............." in line
    stalled = step_line(step._replace(note="nothing has come for 12 s"), Terminal(120))
    assert "nothing has come for 12 s" in stalled
