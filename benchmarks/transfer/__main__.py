"""``python -m benchmarks.transfer``: models from node to node, beside the machine's limits."""

import argparse
import hashlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from blake3 import blake3

from benchmarks.relay.certificates import write_certificates
from benchmarks.relay.processes import cpu_s, family
from benchmarks.transfer import ollama
from ollama_dist.replication.manifest import MEDIA_TYPE

MIB: Final = 2**20
FAN_OUT: Final = (1, 2, 4, 7)
UPLINK: Final = 20_000_000
"""Bytes a second that each node gives at the most where the lines are the limit and not the cores."""

START_S: Final = 30.0

NODE: Final = "node to node, 16 ranges"
NGINX: Final = "nginx to curl, TLS"
NGINX_PULL: Final = "nginx to an Ollama, its pull"
NODE_PULL: Final = "node to node to an Ollama, its pull"

RATIOS: Final = (
    ("Rate from node to node, of what nginx gives curl", NGINX, NODE),
    ("Time of the Ollama's pull through its node, of what it takes from nginx", NODE_PULL, NGINX_PULL),
)
"""What they are called, and whose seconds are divided by whose."""

Row = dict[str, float]
"""Seconds, CPU seconds per GB on either side, MiB above idle; what a way does not tell is missing."""


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transfer", description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="size of the model (1024)")
    parser.add_argument("--passes", type=int, default=3, help="how often each way is measured, in turns (3)")
    parser.add_argument("--fan-out", action="store_true", help="also from one node to several at once")
    parser.add_argument(
        "--large",
        type=int,
        default=0,
        metavar="GB",
        help="also one of so many GB, for memory; with --fan-out to two, who write it",
    )
    parser.add_argument(
        "--only", default="", metavar="WORDS", help="ways whose names have one of these in them (a,b)"
    )
    parser.add_argument("--out", type=Path, help="write the figures there, as JSON")
    wish = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="transfer-benchmark-") as made, ExitStack() as stack:
        folder = Path(made)
        folder.chmod(0o755)  # nginx's worker looks in here
        write_certificates(folder)
        blob = make_store(folder / "store", os.urandom(wish.mib * MIB))
        (folder / "served").symlink_to(blob)
        ways = _ways(folder, stack)
        ways = {name: way for name, way in ways.items() if any(map(name.__contains__, wish.only.split(",")))}
        load, passes = os.getloadavg()[0], _measure(ways, wish.passes)
        found: dict[str, Any] = {"mib": wish.mib, "load_before": load, "ways": _medians(passes)}
        found["ratios"] = _ratios(passes)
        port = stack.enter_context(giver(folder, "store"))
        if wish.fan_out:
            found["fan_out"] = {
                f"one to {count} at once{', each from the holder' if alone else ''}": _fan_out(
                    folder, port, count, alone=alone
                )
                for count in FAN_OUT
                for alone in ((True, False) if count > 1 else (True,))
            }
            capped = stack.enter_context(giver(folder, "store", UPLINK))
            found["fan_out"] |= {
                f"one to {count} at once, {UPLINK // 10**6} MB/s out of each node": _fan_out(
                    folder, capped, count, alone=False, cap=UPLINK
                )
                for count in (1, 7)
            }
        if wish.large:
            make_holes(folder / "large", wish.large * 10**9)
            large = stack.enter_context(giver(folder, "large"))
            found["large"] = _taken(folder, large, [])
            if wish.fan_out:
                found["fan_out"]["a large one to 2 at once"] = _fan_out(folder, large, 2, alone=False)
    print(markdown(found))
    if wish.out is not None:
        wish.out.parent.mkdir(parents=True, exist_ok=True)
        wish.out.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _ways(folder: Path, stack: ExitStack) -> dict[str, Callable[[], Row]]:
    """How the bytes may travel, by name."""
    size = (folder / "served").stat().st_size
    node, digest = stack.enter_context(giver(folder, "store")), (folder / "served").resolve().name
    ways: dict[str, Callable[[], Row]] = {
        "SHA-256 on one core": lambda: _hashed(hashlib.sha256, folder / "served"),
        "BLAKE3 on one core": lambda: _hashed(blake3, folder / "served"),
        "plain copy of the file": lambda: _copied(folder),
        NODE: lambda: _taken(folder, node, []),
        "node to file, in order, hashed": lambda: _taken(folder, node, ["--into", str(folder / "copy")]),
    }
    ways |= _pulls(folder, stack, node, size)
    if shutil.which("curl") is None:
        return ways
    path = f"/replication/blobs/{digest.replace('sha256-', 'sha256:')}"
    ways["node to curl"] = lambda: _curled(folder, node, path, size)
    program = ollama.nginx_program()
    if program is not None:
        port = stack.enter_context(nginx(folder, program))
        ways[NGINX] = lambda: _curled(folder, port, "/served", size)
    return ways


def _pulls(folder: Path, stack: ExitStack, node: int, size: int) -> dict[str, Callable[[], Row]]:
    """One Ollama's pulls, where there is one."""
    if reason := ollama.missing():
        print(f"left out, an Ollama's pulls: {reason}", file=sys.stderr)
        return {}
    url = stack.enter_context(ollama.ollama(folder))
    plain, before_plain = stack.enter_context(ollama.nginx_registry(folder, folder / "store"))
    ours, before_ours = stack.enter_context(ollama.node_registry(folder, node))
    return {
        NGINX_PULL: lambda: ollama.pulled(url, plain, size, [], before_plain),
        NODE_PULL: lambda: ollama.pulled(url, ours, size, before_ours, GIVERS[node]),
    }


def _measure(ways: dict[str, Callable[[], Row]], passes: int) -> dict[str, list[Row]]:
    """Each way, measured in turns."""
    found: dict[str, list[Row]] = {name: [] for name in ways}
    for _ in range(passes):
        for name, way in ways.items():
            found[name].append(way())
    return found


def _medians(passes: dict[str, list[Row]]) -> dict[str, Row]:
    return {
        name: {figure: statistics.median(row[figure] for row in rows) for figure in rows[0]}
        for name, rows in passes.items()
    }


def _ratios(passes: dict[str, list[Row]]) -> dict[str, list[float]]:
    """What the bars are about, of each pass by itself: these survive other programs' load."""
    found = {}
    for title, over, under in RATIOS:
        if over in passes and under in passes:
            pairs = zip(passes[over], passes[under], strict=True)
            found[title] = [one["seconds"] / other["seconds"] for one, other in pairs]
    return found


# The ways


def _hashed(hasher: Any, path: Path) -> Row:
    began = time.monotonic()
    with path.open("rb", buffering=0) as file:
        hashed = hasher()
        while data := file.read(4 * MIB):
            hashed.update(data)
        hashed.digest()
    return {"seconds": time.monotonic() - began}


def _copied(folder: Path) -> Row:
    began = time.monotonic()
    subprocess.run(["cp", str(folder / "served"), str(folder / "copied")], check=True)
    return {"seconds": time.monotonic() - began}


def _taken(folder: Path, port: int, more: list[str]) -> Row:
    """One taker's."""
    before = cpu_s(GIVERS[port])
    said = json.loads(_taker(folder, port, more).communicate()[0].splitlines()[-1])  # its log is before it
    gigabytes = said["bytes"] / 1e9
    return {
        "seconds": said["seconds"],
        "taking_cpu_s_per_gb": said["cpu_s"] / gigabytes,
        "giving_cpu_s_per_gb": (cpu_s(GIVERS[port]) - before) / gigabytes,
        "taking_mib": said["memory"] / MIB,
    }


def _fan_out(folder: Path, port: int, count: int, *, alone: bool, cap: int = 0) -> Row:
    """From one to so many at once, told to begin when all are there; all are done after ``seconds``.

    ``alone``: each has all of it from the one that holds it, else they pass on what they have, ``cap`` bytes
    a second at the most (0: as fast as may be).
    """
    ports = [_free_port() for _ in range(count)]
    how = ["--wait", "--cap", str(cap)]
    takers = [_taker(folder, port, [*how, *_sharing(folder, each, ports, alone=alone)]) for each in ports]
    for taker in takers:
        _heard(taker, "ready".__eq__)
    before, given, began = cpu_s(GIVERS[port]), _given(port), time.monotonic()
    for taker in takers:
        _tell(taker)
    for taker in takers if not alone else ():
        _heard(taker, "done".__eq__)
    seconds = time.monotonic() - began
    for taker in takers if not alone else ():
        _tell(taker)
    said = [json.loads(taker.communicate()[0].splitlines()[-1]) for taker in takers]
    seconds = seconds if not alone else max(each["seconds"] for each in said)
    for each in ports:
        (folder / f"kept-{each}").unlink()
    size = said[0]["bytes"]
    giving, taking = cpu_s(GIVERS[port]) - before, sum(each["cpu_s"] for each in said)
    return {
        "seconds": seconds,
        "taking_cpu_s_per_gb": taking / (count * size / 1e9),
        "giving_cpu_s_per_gb": giving / (count * size / 1e9),
        "taking_mib": max(each["memory"] for each in said) / MIB,
        "copies": (_given(port) - given) / size,
        "floor_s": (giving + taking) / (os.cpu_count() or 1),
    }


def _sharing(folder: Path, own: int, ports: Sequence[int], *, alone: bool) -> list[str]:
    others = [str(port) for port in ports if port != own]
    keep = ["--keep", str(folder / f"kept-{own}")]
    return keep if alone else [*keep, "--listen", str(own), "--others", *others]


def _heard(process: subprocess.Popen[str], is_it: Callable[[str], bool]) -> str:
    """The next line that is what is waited for, and none of its log."""
    assert process.stdout is not None
    for line in process.stdout:
        if is_it(line.strip()):
            return line.strip()
    raise RuntimeError("it ended without a word")


def _tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def _given(port: int) -> int:
    """Bytes that the one at ``port`` has given by now."""
    process = COUNTED[port]
    _tell(process)
    return int(_heard(process, str.isdecimal))


def _taker(folder: Path, port: int, more: list[str]) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "benchmarks.transfer.taker", str(folder), "tiny", str(port), *more]
    return subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _curled(folder: Path, port: int, path: str, size: int) -> Row:
    secured = ["--cacert", "ca.pem", "--cert", "node.pem", "--key", "node.key"]
    words = ["curl", "-sf", *secured, "-o", os.devnull, f"https://localhost:{port}{path}"]
    giving, taking = cpu_s(GIVERS[port]), resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    subprocess.run(words, check=True, cwd=folder)
    seconds, taken = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = taken.ru_utime + taken.ru_stime - taking.ru_utime - taking.ru_stime
    return {
        "seconds": seconds,
        "taking_cpu_s_per_gb": cpu / size * 1e9,
        "giving_cpu_s_per_gb": (cpu_s(GIVERS[port]) - giving) / size * 1e9,
    }


# Who gives

GIVERS: Final[dict[int, list[int]]] = {}
"""The processes behind each port."""

COUNTED: Final[dict[int, subprocess.Popen[str]]] = {}
"""Those of them that say how much they gave."""


@contextmanager
def giver(folder: Path, store: str, cap: int = 0) -> Iterator[int]:
    """A node's listener before a store, which gives ``cap`` bytes a second at the most; its port."""
    where = ["0", str(folder / store), str(folder), str(cap)]
    words = [sys.executable, "-m", "benchmarks.transfer.giver", *where]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            GIVERS[port], COUNTED[port] = [process.pid], process
            yield port
        finally:
            process.terminate()


@contextmanager
def nginx(folder: Path, program: str) -> Iterator[int]:
    """nginx before the same file, as two nodes secure it; its port."""
    port = _free_port()
    (folder / "nginx.conf").write_text(
        f"{'user root;' if os.geteuid() == 0 else ''} daemon off; worker_processes 1; pid {folder}/pid;"
        f" error_log {folder}/log; events {{}} http {{ access_log off; sendfile on; server {{"
        f" listen 127.0.0.1:{port} ssl; root {folder}; ssl_protocols TLSv1.3;"
        f" ssl_certificate {folder}/node.pem; ssl_certificate_key {folder}/node.key;"
        f" ssl_client_certificate {folder}/ca.pem; ssl_verify_client on; }} }}\n"
    )
    with subprocess.Popen([program, "-p", str(folder), "-c", str(folder / "nginx.conf")]) as process:
        try:
            deadline = time.monotonic() + START_S
            while len(family(process.pid)) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)
            GIVERS[port] = family(process.pid)
            yield port
        finally:
            process.terminate()


def _free_port() -> int:
    from ollama_dist.backends.ollama.process import free_port

    return free_port("127.0.0.1")


# What is given


def make_store(store: Path, weights: bytes) -> Path:
    """A store with one model of these weights, called ``tiny``; the file of the weights."""
    blob = _put(store, weights)
    _install(store, blob.name.removeprefix("sha256-"), len(weights))
    return blob


def make_holes(store: Path, size: int) -> None:
    """The same with a file that takes no room on the disk."""
    (store / "blobs").mkdir(parents=True)
    path = store / "blobs" / f"sha256-{'0' * 64}"
    with path.open("wb") as file:
        file.truncate(size)
    _install(store, "0" * 64, size)


def _install(store: Path, digest: str, size: int) -> None:
    config = _put(store, b"{}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": MEDIA_TYPE,
        "config": {"mediaType": "config", "digest": config.name.replace("-", ":"), "size": 2},
        "layers": [{"mediaType": "model", "digest": f"sha256:{digest}", "size": size}],
    }
    folder = store / "manifests" / "registry.ollama.ai" / "library" / "tiny"
    folder.mkdir(parents=True)
    (folder / "latest").write_text(json.dumps(manifest))


def _put(store: Path, data: bytes) -> Path:
    path = store / "blobs" / f"sha256-{hashlib.sha256(data).hexdigest()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# What is told

_COLUMNS: Final = {
    "seconds": "s",
    "taking_cpu_s_per_gb": "CPU s per GB, taking",
    "giving_cpu_s_per_gb": "CPU s per GB, giving",
    "taking_mib": "MiB above idle, taking",
    "copies": "copies the holder gave",
    "floor_s": "s, all CPU on all cores",
}


def markdown(found: dict[str, Any]) -> str:
    """The figures as a table, a line per way."""
    lines = [f"| {found['mib']} MiB | {' | '.join(_COLUMNS.values())} |", f"|---|{'---:|' * len(_COLUMNS)}"]
    rows = dict(found["ways"])
    if "large" in found:
        rows["a large one, 16 ranges"] = found["large"]
    rows |= found.get("fan_out", {})
    for name, row in rows.items():
        cells = [f"{row[figure]:.2f}" if figure in row else "" for figure in _COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    for title, each in found.get("ratios", {}).items():
        told = ", ".join(f"{ratio:.2f}" for ratio in each)
        lines += ["", f"{title}: {statistics.median(each):.2f} (each pass: {told})."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
