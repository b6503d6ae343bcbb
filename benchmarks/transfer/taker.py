"""``python -m benchmarks.transfer.taker``: read one model from members, and print what it cost as JSON."""

import argparse
import asyncio
import hashlib
import json
import sys
import time
from pathlib import Path

import psutil
import uvloop

from benchmarks.transfer.security import security
from ollama_dist.backends.target import Target
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.transfer.fetching import PeerSource, open_peers

PART: int = 100_000_000
"""Bytes of the ranges that an Ollama asks for."""

RANGES: int = 16
"""So many of them at once."""


async def take(wish: argparse.Namespace) -> dict[str, float]:
    secured = security(wish.certificates)
    targets = {NodeId(f"{port:016x}"): Target(NodeId("x"), "127.0.0.1", port, secured) for port in wish.ports}
    idle = psutil.Process().memory_info().rss
    began, cpu = time.monotonic(), time.process_time()
    source = await open_peers(parse_model_name(wish.model), None, lambda: list(targets), targets.get)
    digest = source.manifest.layers[0].digest
    size = source.manifest.blobs[digest]
    if wish.into is not None:
        await _into_file(source, digest, size, wish.into)
    else:
        await _as_an_ollama(source, digest, size)
    await source.close()
    return {
        "seconds": time.monotonic() - began,
        "cpu_s": time.process_time() - cpu,
        "bytes": source.fetched,
        "memory": max(0, _peak() - idle),
    }


def _peak() -> int:
    """The most memory this program ever had, bytes; what `getrusage` says is also its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def _as_an_ollama(source: PeerSource, digest: Digest, size: int) -> None:
    """Several ranges at once, what comes thrown away."""
    starts = iter(range(0, size, PART))

    async def reader() -> None:
        for start in starts:
            async for _ in source.read(digest, start, min(start + PART, size)):
                pass

    await asyncio.gather(*(reader() for _ in range(RANGES)))


async def _into_file(source: PeerSource, digest: Digest, size: int, path: Path) -> None:
    """In order, hashed as a whole and written, as for the embedded engine."""
    hashed = hashlib.sha256()
    with path.open("wb", buffering=0) as file:

        def keep(part: memoryview) -> None:
            file.write(part)
            hashed.update(part)

        async for part in source.read(digest, 0, size):
            await asyncio.to_thread(keep, part)
    assert hashed.hexdigest() == digest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("certificates", type=Path)
    parser.add_argument("model")
    parser.add_argument("ports", type=int, nargs="+")
    parser.add_argument("--into", type=Path)
    parser.add_argument("--wait", action="store_true", help="say when it could begin, and wait for a line")
    wish = parser.parse_args()
    if wish.wait:
        print("ready", flush=True)
        sys.stdin.readline()
    print(json.dumps(uvloop.run(take(wish))))


if __name__ == "__main__":
    main()
