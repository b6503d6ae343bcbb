"""The same Ollama pulling the same model from nginx, and from a node's own registry that a peer feeds."""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.relay.processes import cpu_s, family
from ollama_dist.backends.ollama.process import free_port

PROGRAM: Final = os.environ.get("OLLAMA_BIN", "")
START_S: Final = 30.0
PULL_S: Final = 600.0


def missing() -> str:
    """Why this cannot be measured here; empty where it can."""
    if not shutil.which(PROGRAM):
        return "OLLAMA_BIN names no Ollama"
    return "" if nginx_program() else "nginx is not installed"


def nginx_program() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


@contextmanager
def ollama(folder: Path) -> Iterator[str]:
    """An Ollama with a folder of its own, started; its URL."""
    home, port = folder / "ollama", free_port("127.0.0.1")
    home.mkdir()
    environment = os.environ | {
        "HOME": str(home),
        "OLLAMA_HOST": f"127.0.0.1:{port}",
        "OLLAMA_MODELS": str(home / "models"),
    }
    with (
        (home / "log").open("wb") as log,
        subprocess.Popen([PROGRAM, "serve"], env=environment, stdout=log, stderr=log) as process,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            _until_answers(url)
            yield url
        finally:
            process.terminate()


def _until_answers(url: str) -> None:
    deadline = time.monotonic() + START_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=START_S).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return


def pulled(url: str, name: str, size: int, taking: list[int], giving: list[int]) -> dict[str, float]:
    """One pull of ``name``, which is deleted again; what it cost the processes before the Ollama."""
    took, gave = cpu_s(taking), cpu_s(giving)
    began = time.monotonic()
    said = _ask(url, "POST", "/api/pull", {"model": name, "insecure": True, "stream": False})
    row = {"seconds": time.monotonic() - began}
    if said.get("status") != "success":
        raise RuntimeError(f"the Ollama could not pull {name}: {said}")
    if taking:
        row["taking_cpu_s_per_gb"] = (cpu_s(taking) - took) / size * 1e9
    row["giving_cpu_s_per_gb"] = (cpu_s(giving) - gave) / size * 1e9
    _ask(url, "DELETE", "/api/delete", {"model": name})
    return row


def _ask(url: str, method: str, path: str, document: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url + path, json.dumps(document).encode(), method=method)
    with urllib.request.urlopen(request, timeout=PULL_S) as answer:
        found: dict[str, Any] = json.loads(answer.read() or b"{}")
        return found


@contextmanager
def node_registry(folder: Path, port: int) -> Iterator[tuple[str, list[int]]]:
    """The registry of a node that has the model from the peer at ``port``: its name there, its process."""
    words = [sys.executable, "-m", "benchmarks.transfer.registry", str(folder), str(port)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip(), [process.pid]
        finally:
            process.terminate()


@contextmanager
def nginx_registry(folder: Path, store: Path) -> Iterator[tuple[str, list[int]]]:
    """nginx as a registry of the model in ``store``: its name there, and the processes."""
    program, port = nginx_program(), free_port("127.0.0.1")
    assert program is not None
    manifest = store / "manifests/registry.ollama.ai/library/tiny/latest"
    (folder / "registry.conf").write_text(
        f"{'user root;' if os.geteuid() == 0 else ''} daemon off; worker_processes 1;"
        f" pid {folder}/registry.pid; error_log {folder}/log; events {{}}"
        f" http {{ access_log off; sendfile on; server {{ listen 127.0.0.1:{port};"
        f" location = /v2/library/tiny/manifests/latest {{ alias {manifest}; }}"
        " location ~ ^/v2/library/tiny/blobs/sha256:(.*)$ {"
        f" return 307 http://localhost:{port}/blobs/sha256-$1; }}"
        f" location /blobs/ {{ root {store}; }} }} }}\n"
    )
    with subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "registry.conf")]) as process:
        try:
            deadline = time.monotonic() + START_S
            while len(family(process.pid)) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            yield f"127.0.0.1:{port}/library/tiny:latest", family(process.pid)
        finally:
            process.terminate()
