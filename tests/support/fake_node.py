"""A node that says what a test wants: a real HTTP server with scripted answers; also run like `serve`."""

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ollama_dist.cli.commands import BY_NAME
from ollama_dist.node.paths import StateLock, make_state_dir
from ollama_dist.node.runtime_file import Runtime, write_runtime
from ollama_dist.node.secret_files import make_admin_token

STATUS: dict[str, Any] = {
    "cluster": {"id": "9f2c41d0", "nodes": 2, "alive": 2, "suspect": 0, "dead": 0},
    "node": {
        "id": "00112233445566aa",
        "name": "desk",
        "version": "0.1.0",
        "mode": "distributed",
        "fallback": True,
        "uptime_s": 812.4,
        "listen": "127.0.0.1:11434",
        "reach": "machine",
        "node_listen": "0.0.0.0:11436",
    },
    "engine": {
        "kind": "ollama",
        "address": "127.0.0.1:40111",
        "version": "0.33.0",
        "state": "ready",
        "error": None,
    },
    "models": {"names": 2, "replicas": 3},
    "requests": {"in_flight": 2, "waiting": 0, "served": 1841, "failed": 3, "fallbacks": 7},
    "problems": [],
}


def node_row(name: str, **changes: Any) -> dict[str, Any]:
    """One member as ``/api/distributed/nodes`` lists it."""
    row = {
        "id": f"{abs(hash(name)) % 16**16:016x}",
        "name": name,
        "self": name == "desk",
        "state": "alive",
        "since": "2026-11-20T10:00:00Z",
        "reason": "joined",
        "address": "192.168.1.20:11436",
        "version": "0.1.0",
        "engine": {"kind": "ollama", "version": "0.33.0", "state": "ready"},
        "rtt_ms": 0.4,
        "age_s": 0.2,
        "draining": False,
        "load": {"in_flight": 1, "waiting": 0, "slots": 4, "tokens_per_s": 71.3},
        "resources": {
            "cpus": 16,
            "memory_bytes": 67_108_864_000,
            "memory_free_bytes": 41_231_686_041,
            "gpus": [],
        },
        "models": {"installed": 9, "loaded": ["llama3:8b"]},
    }
    return row | changes


NODES: dict[str, Any] = {"nodes": [node_row("desk"), node_row("laptop")]}

MODELS: dict[str, Any] = {
    "models": [
        {
            "name": "llama3:8b",
            "digest": "a" * 64,
            "identity": "b" * 64,
            "size": 4_661_224_676,
            "conflict": False,
            "policy": {"min": 1, "max": 3, "pinned": []},
            "replicas": [
                {"node": "desk", "digest": "a" * 64, "state": "ready", "loaded": True, "progress": None},
                {
                    "node": "laptop",
                    "digest": "a" * 64,
                    "state": "incoming",
                    "loaded": False,
                    "progress": 0.42,
                },
            ],
        }
    ]
}


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class FakeNode:
    """Serves on a free port within its context. ``answers``: status and body by method and path."""

    answers: dict[str, tuple[int, Any]] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    port: int = 0

    def __enter__(self) -> "FakeNode":
        self.answers = {
            "GET /api/distributed/status": (200, STATUS),
            "GET /api/distributed/nodes": (200, NODES),
            "GET /api/distributed/models": (200, MODELS),
        } | self.answers
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler())
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                content = self.rfile.read(length)
                body = json.loads(content) if content else None
                fake.requests.append(Request(self.command, self.path, dict(self.headers), body))
                status, answer = fake.answers.get(f"{self.command} {self.path}", (404, b"404 page not found"))
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815 - the base class's names

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
                pass

        return Handler


def serve(words: Sequence[str]) -> int:
    """What ``ollama-dist serve`` does as far as a supervisor can see, and it has the models in its folder."""
    settings = BY_NAME["serve"].parser().read(words).settings()
    paths = make_state_dir(settings.node.state_dir)
    StateLock(paths).take()
    make_admin_token(settings)
    folder = settings.engine.engine_models
    names = sorted(path.stem for path in folder.glob("*.gguf")) if folder else []
    members = 1 + len(settings.cluster.join)
    cluster = {"id": "9f2c41d0", "nodes": members, "alive": members, "suspect": 0, "dead": 0}
    models = {
        "models": [
            {
                "name": name,
                "size": 1,
                "replicas": [{"node": f"node-{index}", "state": "ready", "loaded": False}],
            }
            for index in range(1, members + 1)
            for name in [f"tiny-{index}"]
        ]
    }
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    answers: dict[str, tuple[int, Any]] = {
        "GET /api/distributed/status": (200, STATUS | {"cluster": cluster}),
        "GET /api/distributed/models": (200, models),
        "GET /api/tags": (200, {"models": [{"name": name} for name in names]}),
    }
    with FakeNode(answers, port=settings.node.listen.port) as node:
        now = "2026-11-20T10:00:00Z"
        write_runtime(
            paths.runtime,
            Runtime(
                pid=os.getpid(),
                name=settings.node.name,
                node_id="00112233445566aa",
                version="0.1.0",
                listen=node.address,
                node_listen=str(settings.cluster.node_listen),
                admin_token_file=str(paths.admin_token),
                started_at=now,
                updated_at=now,
            ),
        )
        print(f"serving {settings.node.name}", flush=True)
        stopped.wait()
    return 0


if __name__ == "__main__":
    sys.exit(serve(sys.argv[1:]))
