"""What ``scripts/run`` starts: from nothing to a real answer, and nothing left behind."""

import asyncio
import re
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

import aiohttp
import ollama
import pytest

from tests.support.ports import free_address, free_ports
from tests.support.real_nodes import environment_of, eventually

pytestmark = [
    pytest.mark.skipif(
        find_spec("xllamacpp") is None,
        reason="the demonstration is tested where the extra `engine` is installed",
    ),
    pytest.mark.xdist_group("demo"),  # clusters of it take the first ports that are free: one at a time
]


class Demo:
    """The demonstration as a process, and all it has printed."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self.process: asyncio.subprocess.Process | None = None

    @property
    def printed(self) -> str:
        return (self._home / "demo.log").read_text()

    async def start(self, *flags: str) -> None:
        nobody = free_address()
        environment = {"OLLAMA_LOCAL_ADDR": nobody} if "--nodes" in flags else {}
        with (self._home / "demo.log").open("wb") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "ollama_dist.cli.demo", *flags),
                env=environment_of(self._home) | environment,
                stdout=log,
                stderr=log,
            )

    async def until_printed(self, pattern: str) -> re.Match[str]:
        async def look() -> re.Match[str] | None:
            assert self.process is not None
            assert self.process.returncode is None, self.printed
            return re.search(pattern, self.printed)

        await eventually(look, bool, 60, pattern)
        found = re.search(pattern, self.printed)
        assert found is not None
        return found

    async def interrupt(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGINT)
        return await asyncio.wait_for(self.process.wait(), 60)


async def _said(port: str, model: str) -> str:
    async with ollama.AsyncClient(f"http://127.0.0.1:{port}") as client:
        return str((await client.generate(model, "hi")).response)


async def _pasted(lines: str) -> int:
    """What a shell makes of them."""
    program = f"{sys.executable} -m ollama_dist.cli.main"
    script = f"set -e\n{lines}".replace(".venv/bin/ollama-dist", program)
    process = await asyncio.create_subprocess_exec("sh", "-c", script)
    return await asyncio.wait_for(process.wait(), 60)


async def _holders(port: str, model: str) -> list[str]:
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}/api/distributed/models") as answer,
    ):
        found = {each["name"]: each["replicas"] for each in (await answer.json())["models"]}
        return [replica["node"] for replica in found[model]]


def _is_gone(folder: Path) -> bool:
    return not folder.exists()


async def _is_there(port: str) -> bool:
    try:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/"):
            return True
    except aiohttp.ClientError:
        return False


async def test_a_cluster_of_three_answers_for_each_other_and_leaves_nothing(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    await demo.start("--nodes", "3")
    try:
        folder = Path((await demo.until_printed(r"starting 3 nodes in (\S+)"))[1])
        await demo.until_printed(r"Ctrl-C ends")
        ports = re.findall(r"http://127\.0\.0\.1:(\d+)  ", demo.printed)
        assert len(ports) == 3
        for number in (1, 2, 3):
            for port in ports:
                assert len((await _said(port, f"tiny-{number}")).split()) > 5
        (copying,) = re.findall(r"  (export OLLAMA_ADMIN_TOKEN=.*\n  .*copy .*)", demo.printed)
        assert await _pasted(copying) == 0
        assert len(await _holders(ports[0], "tiny-3:latest")) == 2
    finally:
        code = await demo.interrupt()
    assert code == 0
    assert _is_gone(folder)
    assert [port for port in ports if await _is_there(port)] == []


async def test_one_node_alone_has_a_tiny_model_to_talk_to(tmp_path: Path) -> None:
    demo = Demo(tmp_path)
    port, node_port = free_ports(2)
    listen = ("--listen", f"127.0.0.1:{port}", "--node-listen", f"127.0.0.1:{node_port}")
    await demo.start(*listen, "--no-mdns", "--ollama-bin", "no-such-program")
    try:
        await demo.until_printed(r"try it:")
        assert (await _said(str(port), "tiny")).split()[0] == "hello"
    finally:
        code = await demo.interrupt()
    assert code == 0
    assert not await _is_there(str(port))
