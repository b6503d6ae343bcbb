from typing import Any

import pytest

from ollama_dist.cli.answers import Model, Node, Status, read_models, read_nodes, read_status
from ollama_dist.cli.terminal import Terminal, Tone
from ollama_dist.cli.views import models_text, nodes_text, not_running_text, state_of, status_text
from ollama_dist.node.runtime_file import Runtime
from tests.support.fake_node import MODELS, STATUS, node_row


def nodes_of(*rows: dict[str, Any]) -> tuple[Node, ...]:
    return read_nodes({"nodes": list(rows)})


def status_with(**changes: Any) -> Status:
    return read_status(STATUS | changes)


SUSPECT = node_row("laptop", state="suspect", reason="no answer to 3 probes", age_s=4.2)
DEAD = node_row("attic", state="dead", reason="no answer", age_s=400)


def test_a_healthy_cluster_on_one_screen() -> None:
    assert status_text(status_with(), nodes_of(node_row("desk"), node_row("laptop")), Terminal(80)) == [
        "desk 0.1.0: distributed, cluster 9f2c41d0, 2 nodes, up 14 min",
        "clients   http://127.0.0.1:11434  (reachable by this machine only)",
        "engine    Ollama 0.33.0 at 127.0.0.1:40111",
        "models    2, in 3 copies",
        "requests  2 running, 0 waiting, 1841 served, 3 failed, 7 fallbacks",
        "",
        "NODE    STATE  LOADED     RUN/WAIT  TOK/S   FREE     RTT  VERSION  SEEN",
        "desk*   ready  llama3:8b       1/0     71  41 GB       -  0.1.0     now",
        "laptop  ready  llama3:8b       1/0     71  41 GB  0.4 ms  0.1.0     now",
    ]


def test_a_bad_day_says_cause_effect_and_fix() -> None:
    cluster = {"id": "9f2c41d0", "nodes": 3, "alive": 1, "suspect": 1, "dead": 1}
    lines = status_text(status_with(cluster=cluster), nodes_of(node_row("desk"), SUSPECT, DEAD), Terminal(80))
    assert lines[0].startswith("desk 0.1.0: distributed, cluster 9f2c41d0, 3 nodes (1 suspect, 1 dead)")
    assert lines[lines.index("2 problems") :] == [
        "2 problems",
        "warning: laptop does not answer (no answer to 3 probes) -> it gets no work while",
        "  others can do it [member_suspect]",
        "  fix: see whether laptop is up and can be reached at 192.168.1.20:11436",
        "warning: attic is gone (no answer) -> models that only it had cannot be used",
        "  [member_dead]",
        "  fix: start attic again; it is forgotten 24 h after it was seen last",
    ]


def test_why_a_node_is_not_well_stands_below_it() -> None:
    lines = nodes_text(nodes_of(node_row("desk"), SUSPECT, DEAD), Terminal(80))
    assert lines[2].startswith("laptop  suspect")
    assert lines[3] == "  no answer to 3 probes"
    assert lines[4] == "attic   dead     -                 -      -      -       -  0.1.0    7 min"
    assert lines[5] == "  no answer"


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_everything_fits_the_terminal(width: int) -> None:
    seen = [{"cluster": "aa11", "addresses": ["10.0.0.3:11436", "10.0.0.4:11436"]}]
    problems = [{"severity": "error", "code": "x", "message": "a long story " * 20, "fix": "do this " * 20}]
    loaded = {"installed": 9, "loaded": ["llama3:8b", "qwen3:4b", "gemma3:27b-it-q4_K_M"]}
    nodes = nodes_of(node_row("desk", models=loaded), SUSPECT, DEAD, node_row("a" * 63))
    lines = status_text(status_with(seen=seen, problems=problems), nodes, Terminal(width))
    lines += models_text(read_models(MODELS), Terminal(width))
    assert max(map(len, lines)) <= width


def test_a_cluster_nearby_comes_with_the_commands_that_join_it() -> None:
    lines = status_text(
        status_with(seen=[{"cluster": "aa11", "addresses": ["10.0.0.3:11436"]}]), (), Terminal(80)
    )
    assert lines[-3:] == [
        "seen, not joined: cluster aa11 at 10.0.0.3:11436",
        "  there: ollama-dist invite",
        "  here:  ollama-dist join CODE",
    ]


@pytest.mark.parametrize(
    ("changes", "word", "tone"),
    [
        ({}, "ready", Tone.GOOD),
        ({"load": {"in_flight": 6, "waiting": 2}}, "busy", Tone.WARN),
        ({"draining": True}, "draining", Tone.WARN),
        ({"engine": {"kind": "ollama", "state": "busy"}}, "busy", Tone.WARN),
        ({"engine": {"kind": "ollama", "state": "starting"}}, "loading", Tone.WARN),
        ({"engine": {"kind": "ollama", "state": "unreachable"}}, "no engine", Tone.BAD),
        ({"engine": {"kind": "none", "state": "unreachable"}}, "no engine", Tone.DIM),
        ({"state": "suspect"}, "suspect", Tone.WARN),
        ({"state": "dead"}, "dead", Tone.BAD),
        ({"state": "left"}, "left", Tone.DIM),
        ({"state": None}, "unknown", Tone.DIM),
    ],
)
def test_one_word_says_how_a_node_is(changes: dict[str, Any], word: str, tone: Tone) -> None:
    (node,) = nodes_of(node_row("desk", **changes))
    assert (state_of(node).text, state_of(node).tone) == (word, tone)


def test_running_and_waiting_are_told_apart() -> None:
    lines = nodes_text(nodes_of(node_row("desk", load={"in_flight": 6, "waiting": 2})), Terminal(80))
    assert "4/2" in lines[1]


def models_of(*rows: dict[str, Any]) -> tuple[Model, ...]:
    return read_models({"models": list(rows)})


def copy(node: str, **changes: Any) -> dict[str, Any]:
    return {"node": node, "state": "ready", "loaded": False, "progress": None} | changes


def test_models_stand_against_nodes() -> None:
    models = models_of(
        {
            "name": "llama3:8b",
            "size": 4.7e9,
            "replicas": [copy("desk", loaded=True), copy("laptop", state="incoming", progress=0.42)],
        },
        {
            "name": "qwen3:4b",
            "size": 2.6e9,
            "conflict": True,
            "replicas": [copy("laptop"), copy("attic", state="leaving")],
        },
    )
    assert models_text(models, Terminal(80)) == [
        "MODEL        SIZE  attic    desk    laptop",
        "llama3:8b  4.7 GB  -        loaded  copying 42%",
        "qwen3:4b   2.6 GB  leaving  -       on disk",
        "",
        "versions differ between nodes: qwen3:4b",
    ]


def test_with_many_nodes_each_model_lists_its_own() -> None:
    models = models_of(
        {"name": "llama3:8b", "size": 4.7e9, "replicas": [copy(f"node-{index}") for index in range(9)]}
    )
    lines = models_text(models, Terminal(80))
    assert lines[0] == "MODEL        SIZE  NODES"
    assert lines[1].startswith("llama3:8b  4.7 GB  node-0 (on disk), node-1 (on disk)")


def test_no_model_at_all_says_how_to_get_one() -> None:
    assert models_text((), Terminal(80)) == ["no model yet; get one: ollama pull llama3.2"]


KNOWN = Runtime(
    pid=1,
    name="desk",
    node_id="00112233445566aa",
    version="0.1.0",
    listen="127.0.0.1:11434",
    node_listen="0.0.0.0:11436",
    admin_token_file="/state/admin.token",
    started_at="2026-11-20T10:00:00Z",
    updated_at="2026-11-20T10:30:00Z",
    cluster="9f2c41d0",
    peers=("laptop",),
    models=12,
)


def test_a_node_that_is_down_is_told_by_what_is_last_known() -> None:
    assert not_running_text("no node is running at 127.0.0.1:11434", KNOWN, Terminal(80)) == [
        "no node is running at 127.0.0.1:11434",
        "last known: node desk (0.1.0), cluster 9f2c41d0 with laptop, 12 models; it ended",
        "            abruptly after 2026-11-20T10:30:00Z",
        "start it:   ollama-dist serve",
    ]
    assert not_running_text("none", None, Terminal(80)) == ["none", "start it:   ollama-dist serve"]
