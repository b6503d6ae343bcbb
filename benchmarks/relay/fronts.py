"""The programs that stand between the clients and the engine, each as its own users would start it."""

import os
import pwd
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from benchmarks.relay.answers import MODEL
from benchmarks.relay.certificates import write_certificates
from benchmarks.relay.processes import family, listening
from benchmarks.relay.tools import pinned
from ollama_dist.gossip.keys import new_cluster_key
from tests.support.ports import free_ports
from tests.support.real_nodes import command, environment_of

START_S: Final = 120.0
"""LiteLLM imports for a while."""

STOP_S: Final = 5.0

_STUMBLE_S: Final = 0.2
"""What cannot start at all, for want of a library or a port, has ended by then."""

SLOTS: Final = 256
"""As many as a node may be told: the engine is never what is waited for."""


class NotHere(Exception):
    """This front cannot be started on this machine; says why."""


@dataclass(frozen=True)
class Front:
    """One that runs. ``pids`` are the processes whose time and memory count."""

    name: str
    port: int
    pids: Sequence[int]
    openai_only: bool = False


@dataclass(frozen=True)
class Ground:
    """What a front is started with."""

    folder: Path
    """Its own, empty."""
    upstream: int
    """The engine's port."""
    cores: frozenset[int]
    options: dict[str, str] = field(default_factory=dict)
    checkout: Path | None = None
    """Of nodes that are not ours."""


Starter = Callable[[Ground, ExitStack], Front]


@contextmanager
def started(starter: Starter, ground: Ground) -> Iterator[Front]:
    """A front until the block ends. Raises `NotHere`."""
    ground.folder.mkdir(parents=True)
    with ExitStack() as stack:
        yield starter(ground, stack)


def direct(ground: Ground, _stack: ExitStack) -> Front:
    """Nobody in between: what the engine and the clients themselves add."""
    return Front("direct", ground.upstream, ())


def nginx(ground: Ground, stack: ExitStack) -> Front:
    (port,) = free_ports(1)
    _write_nginx(ground, [_server(port, "http://engine")])
    return Front("nginx", port, _run_nginx(ground, stack, port))


def nginx_pair(ground: Ground, stack: ExitStack) -> Front:
    """Two of its servers, the second behind mutual TLS, as two nodes are: in one worker process."""
    entry, owner = free_ports(2)
    write_certificates(ground.folder)
    files = {name: ground.folder / name for name in ("ca.pem", "node.pem", "node.key")}
    listen = (
        f"listen 127.0.0.1:{owner} ssl backlog=4096; ssl_certificate {files['node.pem']};"
        f" ssl_certificate_key {files['node.key']}; ssl_client_certificate {files['ca.pem']};"
        " ssl_verify_client on; ssl_protocols TLSv1.3;"
    )
    present = (
        f"proxy_ssl_certificate {files['node.pem']}; proxy_ssl_certificate_key {files['node.key']};"
        f" proxy_ssl_trusted_certificate {files['ca.pem']}; proxy_ssl_verify on; proxy_ssl_name localhost;"
        " proxy_ssl_protocols TLSv1.3;"
    )
    servers = [_server(entry, "https://owner", more=present), _server(owner, "http://engine", listen=listen)]
    _write_nginx(ground, servers, owner=owner)
    return Front("nginx x2", entry, _run_nginx(ground, stack, entry))


def plain(ground: Ground, stack: ExitStack) -> Front:
    (port,) = free_ports(1)
    program = str(Path(__file__).parent / "plain.py")
    pid = _run(ground, stack, [sys.executable, program, str(port), f"http://127.0.0.1:{ground.upstream}"])
    _await(f"http://127.0.0.1:{port}/api/version", ground)
    return Front("plain aiohttp", port, family(pid))


def litellm(ground: Ground, stack: ExitStack) -> Front:
    program = ground.options.get("litellm") or shutil.which("litellm")
    if program is None:
        raise NotHere("litellm is not on the PATH (--litellm names one; it wants litellm[proxy])")
    (port,) = free_ports(1)
    config = ground.folder / "config.yaml"
    config.write_text(
        f"model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n"
        f"      api_base: http://127.0.0.1:{ground.upstream}/v1\n      api_key: none\n"
        "litellm_settings:\n  telemetry: false\n"
        "general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n"  # nobody else reaches it
    )
    words = [program, "--config", str(config), "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR"}
    pid = _run(ground, stack, words, quiet)
    try:
        _await(f"http://127.0.0.1:{port}/health/liveliness", ground)
    except TimeoutError as error:
        raise NotHere(f"litellm did not start: {_last_line(ground)}") from error
    return Front("LiteLLM", port, family(pid), openai_only=True)


def node(ground: Ground, stack: ExitStack) -> Front:
    port, node_port = free_ports(2)
    words = ["--ollama", f"127.0.0.1:{ground.upstream}", "--slots", str(SLOTS)]
    pid = _run_node(ground, stack, "one", port, node_port, words, new_cluster_key())
    _await_model(port, ground)
    return Front("one node", port, [pid])


def node_pair(ground: Ground, stack: ExitStack) -> Front:
    """The entry has no engine: every request goes over mutual TLS to the owner."""
    port, node_port, owner_port, owner_node_port = free_ports(4)
    key = new_cluster_key()
    words = ["--ollama", f"127.0.0.1:{ground.upstream}", "--slots", str(SLOTS)]
    owner = _run_node(ground, stack, "owner", owner_port, owner_node_port, words, key)
    _await_model(owner_port, ground)
    words = ["--engine", "none", "--join", f"127.0.0.1:{owner_node_port}"]
    entry = _run_node(ground, stack, "entry", port, node_port, words, key)
    _await_model(port, ground)
    return Front("two nodes", port, [entry, owner])


STARTERS: Final[dict[str, Starter]] = {
    "direct": direct,
    "nginx": nginx,
    "plain": plain,
    "litellm": litellm,
    "node": node,
    "nginx2": nginx_pair,
    "node2": node_pair,
}
"""By the name that ``--only`` takes."""

NODES: Final = frozenset({"node", "node2"})


def before(checkout: Path, starter: Starter) -> Starter:
    """The same of another checkout, with its own environment."""

    def start(ground: Ground, stack: ExitStack) -> Front:
        front = starter(replace(ground, checkout=checkout.resolve()), stack)
        return replace(front, name=f"{front.name}, before")

    return start


def foreign(name: str, port: int) -> Starter:
    """One that somebody else started in front of the engine's port."""

    def start(_ground: Ground, _stack: ExitStack) -> Front:
        found = listening(port)
        if not found:
            raise NotHere(f"no process of this user listens on port {port}")
        return Front(name, port, sorted({pid for each in found for pid in family(each)}))

    return start


# nginx's configuration


def _server(port: int, to: str, *, listen: str = "", more: str = "") -> str:
    listen = listen or f"listen 127.0.0.1:{port} backlog=4096;"
    return f"server {{ {listen} location / {{ proxy_pass {to}; {more} }} }}"


def _write_nginx(ground: Ground, servers: Sequence[str], owner: int = 0) -> None:
    upstreams = f"upstream engine {{ server 127.0.0.1:{ground.upstream}; keepalive 512; {_FOR_EVER} }}\n"
    if owner:
        upstreams += f"upstream owner {{ server 127.0.0.1:{owner}; keepalive 512; {_FOR_EVER} }}\n"
    places = "\n".join(f"{kind}_temp_path {ground.folder};" for kind in _TEMPORARY)
    user = f"user {pwd.getpwuid(os.geteuid()).pw_name};" if os.geteuid() == 0 else ""
    (ground.folder / "nginx.conf").write_text(
        f"{user} daemon off; worker_processes 1; pid {ground.folder}/pid; error_log {ground.folder}/log;\n"
        "worker_rlimit_nofile 20000; events { worker_connections 16384; }\n"
        f"http {{ access_log off; {_FOR_EVER} keepalive_timeout 75; client_max_body_size 0;\n"
        f"client_body_buffer_size 64k; {places}\n"
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;\n'
        f"proxy_request_buffering off; proxy_read_timeout 1h;\n{upstreams}" + "\n".join(servers) + "\n}\n"
    )


_FOR_EVER: Final = "keepalive_requests 100000000;"
_TEMPORARY: Final = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def _run_nginx(ground: Ground, stack: ExitStack, port: int) -> list[int]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise NotHere("nginx is not installed")
    pid = _run(ground, stack, [program, "-p", str(ground.folder), "-c", str(ground.folder / "nginx.conf")])
    _await(f"http://127.0.0.1:{port}/api/version", ground)
    return family(pid)


# Processes


def _run_node(
    ground: Ground, stack: ExitStack, name: str, port: int, node_port: int, words: list[str], key: str
) -> int:
    home = ground.folder / name
    home.mkdir()
    listen = ["--listen", f"127.0.0.1:{port}", "--node-listen", f"127.0.0.1:{node_port}"]
    where = ["--name", name, "--state-dir", str(home / "state"), "--no-mdns"]
    environment = environment_of(home) | {"OLLAMA_DIST_CLUSTER_KEY": key}
    program, *arguments = command("serve", *where, *listen, *words)
    if ground.checkout is not None:
        program = str(ground.checkout / ".venv" / "bin" / "python")
    return _run(ground, stack, [program, *arguments], environment, only=True)


def _run(
    ground: Ground,
    stack: ExitStack,
    words: Sequence[str],
    environment: dict[str, str] | None = None,
    *,
    only: bool = False,
) -> int:
    """The id of a process that ends with ``stack``; ``only`` is whether it sees no other environment."""
    variables = ({} if only else dict(os.environ)) | (environment or {})
    log = stack.enter_context((ground.folder / "log.txt").open("ab"))
    words = [*pinned(ground.cores), *words]
    process = subprocess.Popen(words, stdout=log, stderr=log, env=variables, cwd=ground.checkout)
    stack.callback(_end, process)
    time.sleep(_STUMBLE_S)
    if process.poll() is not None:
        raise NotHere(f"{Path(words[0]).name} ended at once: {_last_line(ground)}")
    return process.pid


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _await_model(port: int, ground: Ground) -> None:
    _await(f"http://127.0.0.1:{port}/api/tags", ground, MODEL.encode())


def _await(url: str, ground: Ground, wanted: bytes = b"") -> None:
    """Until ``url`` answers with ``wanted`` in it; raises `TimeoutError`."""
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                if wanted in answer.read():
                    return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            pass
        time.sleep(0.1)
    raise TimeoutError(f"{url} does not answer: {_last_line(ground)}")


def _last_line(ground: Ground) -> str:
    lines = (ground.folder / "log.txt").read_text().strip().splitlines()
    return lines[-1] if lines else "it said nothing"
