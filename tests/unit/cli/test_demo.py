import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from ollama_dist.cli import demo
from ollama_dist.cli.arguments import Arguments
from ollama_dist.cli.commands import BY_NAME
from ollama_dist.cli.demo import models_at, run_one
from ollama_dist.cli.demo_cluster import Parts, models_when_met, run_cluster, serve_environment
from ollama_dist.cli.demo_plan import MOST_NODES, SENTENCES, DemoNode, Running, Secrets, cluster_text, plan
from ollama_dist.cli.failures import Exit, Failure
from ollama_dist.cli.terminal import Terminal
from ollama_dist.node.setting_values import Address, Secret
from tests.support.fake_node import MODELS, FakeNode

FAKE = (sys.executable, "-m", "tests.support.fake_node")
ROOT = Path(__file__).parents[3]


def write_model(path: Path, sentence: str) -> None:
    path.write_text(sentence)


PARTS = Parts(serve=FAKE, new_key=lambda: Secret("odk1-demo"), write_model=write_model)


def plan_of(number: int, ollama: Address | None = None) -> list[DemoNode]:
    return plan(number, Path("/demo"), count(11501), count(11601, 2), ollama)


def test_each_node_has_its_own_folder_ports_and_model() -> None:
    nodes = plan_of(3)
    assert len({node.folder for node in nodes}) == 3
    assert [str(node.listen) for node in nodes] == ["127.0.0.1:11501", "127.0.0.1:11502", "127.0.0.1:11503"]
    assert [node.node_listen.port for node in nodes] == [11601, 11603, 11605]
    assert [node.model_name for node in nodes] == ["tiny-1", "tiny-2", "tiny-3"]


def test_the_nodes_find_each_other_without_multicast_and_share_a_key() -> None:
    nodes = plan_of(3)
    settings = BY_NAME["serve"].parser().read(nodes[1].flags(nodes, Secrets(Path("/demo")))).settings()
    assert settings.cluster.join == (Address("127.0.0.1", 11601), Address("127.0.0.1", 11605))
    assert not settings.cluster.mdns
    assert settings.cluster.cluster_key_file == Path("/demo/cluster.key")
    assert settings.admin.admin_token_file == Path("/demo/admin.token")
    assert settings.engine.engine_models == Path("/demo/node-2/models")
    assert str(settings.engine.engine) == "llama.cpp"


def test_an_ollama_that_was_found_serves_the_first_node_only() -> None:
    nodes = plan_of(2, Address("127.0.0.1", 11434))
    assert [node.ollama is not None for node in nodes] == [True, False]
    assert "--ollama" in nodes[0].flags(nodes, Secrets(Path("k")))
    assert "--engine-models" not in nodes[0].flags(nodes, Secrets(Path("k")))


def test_there_is_a_sentence_for_each_node_in_which_no_word_comes_twice() -> None:
    assert len(SENTENCES) == MOST_NODES
    assert all(len(set(sentence.split())) == len(sentence.split()) for sentence in SENTENCES)


def test_the_cluster_is_told_with_ways_to_talk_to_it() -> None:
    nodes = [
        Running(f"node-{n}", 4000 + n, Address("127.0.0.1", 11500 + n), "embedded", (f"tiny-{n}:latest",))
        for n in (1, 2)
    ]
    lines = cluster_text(nodes, Secrets(Path("/demo")), Terminal(80))
    assert lines[1].split() == ["node-1", "http://127.0.0.1:11501", "4001", "embedded", "tiny-1:latest"]
    assert "Ask node-1 for tiny-2:latest, which node-2 has:" in lines
    (curl,) = [line for line in lines if "curl" in line]
    assert (
        curl
        == """  curl http://127.0.0.1:11501/api/generate -d '{"model": "tiny-2:latest", "prompt": "Hello"}'"""
    )
    text = "\n".join(lines)
    assert 'Client("http://127.0.0.1:11501")' in text
    assert 'OpenAI(base_url="http://127.0.0.1:11501/v1"' in text
    assert "kill -9 4002" in text
    assert "OLLAMA_ADMIN_TOKEN=$(cat /demo/admin.token)" in text
    assert "ollama-dist copy tiny-2:latest node-1 --listen 127.0.0.1:11501" in text


def test_settings_of_ours_reach_no_node_of_the_demonstration() -> None:
    environ = {"OLLAMA_DIST_LISTEN": "x", "OLLAMA_ADMIN_TOKEN": "x", "OLLAMA_MODELS": "/m", "PATH": "/bin"}
    assert serve_environment(environ) == {"OLLAMA_MODELS": "/m", "PATH": "/bin", "PYTHONUNBUFFERED": "1"}


def test_a_plain_no_is_no_list_of_models() -> None:
    with FakeNode({"GET /api/tags": (200, {"models": [{"name": "llama3:8b"}]})}) as ollama:
        assert models_at(Address("127.0.0.1", ollama.port)) == ["llama3:8b"]
        ollama.answers["GET /api/tags"] = (200, b"Ollama is running")
        assert models_at(Address("127.0.0.1", ollama.port)) == []
    assert models_at(Address("127.0.0.1", 1)) == []


@pytest.mark.parametrize("number", ["1", "10", "three"])
def test_a_cluster_has_two_to_nine_nodes(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo.main(["--nodes", number]) == Exit.USAGE
    assert "must be from 2 to 9" in capsys.readouterr().err


def test_the_nodes_have_met_when_each_knows_what_all_hold() -> None:
    def holding(*names: str) -> tuple[int, Any]:
        row = MODELS["models"][0]
        return 200, {"models": [row | {"replicas": [row["replicas"][0] | {"node": name} for name in names]}]}

    with FakeNode() as one, FakeNode() as other:
        nodes = [
            replace(node, listen=Address("127.0.0.1", fake.port))
            for node, fake in zip(plan_of(2), (one, other), strict=True)
        ]
        for fake in (one, other):
            fake.answers["GET /api/distributed/models"] = holding("node-1", "node-2")
        assert [model.name for model in models_when_met(nodes)] == ["llama3:8b"]
        one.answers["GET /api/distributed/models"] = holding("node-1")
        assert models_when_met(nodes) == ()


CLUSTER = """
import sys
from tests.support.ports import free_port
from tests.unit.cli.test_demo import PARTS
from ollama_dist.cli import demo_cluster
from ollama_dist.cli.children import ended_by_signals
from ollama_dist.cli.demo_cluster import run_cluster
from ollama_dist.cli.main import guarded
demo_cluster.FIRST_CLIENT_PORT = free_port()  # where nobody else looks
with ended_by_signals():
    sys.exit(guarded([], lambda _: run_cluster(3, None, PARTS)))
"""


def processes_of(folder: str) -> list[str]:
    listed = subprocess.run(["ps", "-ewwo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if folder in line]


@pytest.mark.cluster
@pytest.mark.xdist_group("demo")
@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_cluster_starts_is_told_and_is_gone_even_if_one_node_died(end: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CLUSTER], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as cluster:
        try:
            folder = watch_a_cluster(cluster)
            cluster.send_signal(end)
            assert cluster.wait(timeout=30) == Exit.OK
        finally:
            cluster.terminate()
    assert processes_of(folder) == []
    assert not Path(folder).exists()


def watch_a_cluster(cluster: subprocess.Popen[str]) -> str:
    """See three nodes come up, kill one, see that told; the cluster's folder."""
    assert cluster.stdout is not None
    assert cluster.stderr is not None
    folder = re.search(r"in (\S+)", cluster.stderr.readline())
    assert folder is not None
    told = []
    for line in cluster.stdout:
        told.append(line)
        if line.startswith("Ctrl-C"):
            break
    assert told, cluster.stderr.read() + Path("/proc/net/tcp").read_text()
    rows = [line.split() for line in told[1:4]]
    assert [row[0] for row in rows] == ["node-1", "node-2", "node-3"]
    assert [row[-1] for row in rows] == ["tiny-1", "tiny-2", "tiny-3"]
    assert len(processes_of(folder[1])) == 3
    os.kill(int(rows[1][2]), signal.SIGKILL)
    assert cluster.stderr.readline() == "node-2 ended (SIGKILL); 2 left\n"
    return folder[1]


@pytest.mark.cluster
@pytest.mark.xdist_group("demo")
def test_a_node_that_does_not_start_ends_the_cluster_and_keeps_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    broken = Parts((sys.executable, "-c", "raise SystemExit('no engine')"), PARTS.new_key, write_model)
    with pytest.raises(Failure, match="node-1 ended with exit code 1") as caught:
        run_cluster(2, None, broken)
    assert caught.value.why == "no engine"
    log = Path(caught.value.do.removeprefix("look at "))
    assert log.read_text() == "no engine\n"


def arguments(*words: str) -> Arguments:
    return BY_NAME["serve"].parser().read(words)


@pytest.mark.cluster
@pytest.mark.xdist_group("demo")
def test_one_node_without_an_ollama_serves_a_tiny_model(
    bare_machine: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("ollama_dist.cli.demo.OLLAMA_PORT", 1)
    monkeypatch.chdir(ROOT)
    words = ["--listen", "127.0.0.1:0"]
    said = io.StringIO()
    monkeypatch.setattr("sys.stdout", said)

    def stop_when_told() -> None:
        while "curl" not in said.getvalue():
            told.wait(0.02)
        signal.raise_signal(signal.SIGINT)

    told = threading.Event()
    threading.Thread(target=stop_when_told, daemon=True).start()
    assert run_one(words, arguments(*words), PARTS) == Exit.OK
    model = bare_machine / "demo-models" / "tiny.gguf"
    assert model.read_text() == SENTENCES[0]
    (curl,) = [line for line in said.getvalue().splitlines() if "curl" in line]
    runtime = json.loads((bare_machine / "runtime.json").read_text())
    assert f"http://{runtime['listen']}/api/generate" in curl
    assert '"model": "tiny"' in curl
