"""Programs started by a process whose members talk."""

import subprocess
import sys

STARTED = 100

PROGRAM = """
import asyncio, sys
import uvloop
import ollama_dist.gossip
import grpc.aio

async def main():
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")

    async def talk():
        while True:
            try:
                await channel.unary_unary("/nobody/answers")(b"")
            except grpc.aio.AioRpcError:
                pass

    talking = asyncio.create_task(talk())
    for _ in range(int(sys.argv[1])):
        child = await asyncio.create_subprocess_exec("true", stdin=asyncio.subprocess.PIPE)
        print(await child.wait())
    talking.cancel()

uvloop.run(main())
"""


def test_none_dies_of_what_grpc_does_after_a_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(STARTED)], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout.split() == ["0"] * STARTED
