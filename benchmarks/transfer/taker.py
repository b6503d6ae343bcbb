"""``python -m benchmarks.transfer.taker``: read one model from members, and print what it cost as JSON."""

import argparse
import asyncio
import hashlib
import json
import os
import sys
import time
from pathlib import Path

import psutil
import uvloop

from benchmarks.transfer.giver import listening
from benchmarks.transfer.security import security
from ollama_dist.backends.target import Target
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.disk.giving import Giver
from ollama_dist.replication.disk.pieces import PieceLists
from ollama_dist.replication.pace import Pace
from ollama_dist.replication.transfer.fetching import PeerSource, open_peers
from ollama_dist.replication.transfer.sharing import Share

PART: int = 100_000_000
"""Bytes of the ranges that an Ollama asks for."""

RANGES: int = 16
"""So many of them at once."""


async def take(wish: argparse.Namespace) -> dict[str, float]:
    secured = security(wish.certificates)
    ports = (*wish.ports, *wish.others)
    targets = {_node(port): Target(_node(port), "127.0.0.1", port, secured) for port in ports}
    holders = [_node(port) for port in wish.ports]
    giver = Giver(lambda: None, PieceLists(wish.certificates / "no-lists"), Pace(lambda: wish.cap))
    if not wish.listen:
        return await _measured(wish, holders, targets, giver, None)
    share = Share(lambda: _node(wish.listen), giver.offer, lambda _: wish.keep)
    async with listening(giver, wish.listen, wish.certificates):
        return await _measured(wish, holders, targets, giver, share)


async def _measured(
    wish: argparse.Namespace,
    holders: list[NodeId],
    targets: dict[NodeId, Target],
    giver: Giver,
    share: Share | None,
) -> dict[str, float]:
    if wish.wait:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    idle = psutil.Process().memory_info().rss
    began, cpu = time.monotonic(), time.process_time()
    source = await open_peers(parse_model_name(wish.model), None, lambda: holders, targets.get, share=share)
    digest = source.manifest.layers[0].digest
    size = source.manifest.blobs[digest]
    if wish.into is not None:
        await _into_file(source, digest, size, wish.into)
    else:
        await _as_an_ollama(source, digest, size, wish.keep)
    seconds = time.monotonic() - began
    if share is not None:  # those behind may not be through
        print("done", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
    await source.close()
    return {
        "seconds": seconds,
        "given": giver.given,
        "cpu_s": time.process_time() - cpu,
        "bytes": source.fetched,
        "memory": max(0, _peak() - idle),
    }


def _node(port: int) -> NodeId:
    return NodeId(f"{port:016x}")


def _peak() -> int:
    """The most memory this program ever had, bytes; what `getrusage` says is also its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


async def _as_an_ollama(source: PeerSource, digest: Digest, size: int, keep: Path | None) -> None:
    """Several ranges at once, what comes thrown away, or written to where it belongs."""
    starts = iter(range(0, size, PART))
    file = keep.open("wb", buffering=0) if keep is not None else None

    async def reader() -> None:
        for start in starts:
            at = start
            async for part in source.read(digest, start, min(start + PART, size)):
                if file is not None:
                    await asyncio.to_thread(os.pwrite, file.fileno(), part, at)
                at += len(part)
                del part

    await asyncio.gather(*(reader() for _ in range(RANGES)))
    if file is not None:
        file.close()


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
    parser.add_argument("--keep", type=Path, help="write it there as an Ollama would")
    parser.add_argument("--wait", action="store_true", help="say when it could begin, and wait for a line")
    parser.add_argument("--listen", type=int, default=0, metavar="PORT", help="pass it on as it comes")
    parser.add_argument("--others", type=int, nargs="*", default=[], help="ports of those who take it too")
    parser.add_argument("--cap", type=float, default=0.0, help="bytes a second it passes on, at the most")
    wish = parser.parse_args()
    print(json.dumps(uvloop.run(take(wish))))


if __name__ == "__main__":
    main()
