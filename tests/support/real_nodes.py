"""Nodes as processes of their own, each with its state folder and a scripted Ollama in this process."""

import asyncio
import contextlib
import getpass
import json
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp

from ollama_dist.gossip.keys import new_cluster_key
from tests.support.fake_ollama import FakeOllama
from tests.support.ports import free_ports

PROGRAM: Final = "ollama_dist.cli.main"
START_S: Final = 30.0
STOP_S: Final = 15.0
STEP_S: Final = 0.02

_Found = TypeVar("_Found")


class RealNode:
    """One node. Its ports stay the same however often it is started."""

    def __init__(
        self,
        name: str,
        folder: Path,
        ollama: FakeOllama,
        flags: Sequence[str],
        ports: tuple[int, int] | None = None,
    ) -> None:
        self.name = name
        self.folder = folder
        self.ollama = ollama
        self.port, self.node_port = ports or free_ports(2)
        self.log = folder / "node.log"
        self.program = PROGRAM
        """The module that is run; another one from the next start on."""
        self._flags = flags
        self._environment: dict[str, str] = {}
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def seed(self) -> str:
        return f"127.0.0.1:{self.node_port}"

    @property
    def state_dir(self) -> Path:
        return self.folder / "state"

    @property
    def admin_token(self) -> str:
        return (self.state_dir / "admin.token").read_text().strip()

    def prefix(self) -> tuple[str, ...]:
        """What its command is started by."""
        return ()

    def listeners(self) -> tuple[str, ...]:
        """Where it is told to listen."""
        return ("--listen", f"127.0.0.1:{self.port}", "--node-listen", f"127.0.0.1:{self.node_port}")

    def session(self) -> aiohttp.ClientSession:
        """For requests from its own machine."""
        return aiohttp.ClientSession()

    async def start(self, *flags: str, environment: Mapping[str, str] | None = None) -> None:
        """``flags`` and ``environment`` are kept for the next start. Returns when it answers."""
        if flags:
            self._flags = flags
        if environment is not None:
            self._environment = dict(environment)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.prefix(),
                *(sys.executable, "-m", self.program),
                *("serve", "--name", self.name, "--state-dir", str(self.state_dir)),
                *self.listeners(),
                *("--ollama", f"127.0.0.1:{self.ollama.port}", *self._flags),
                env=environment_of(self.folder) | self._environment,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(START_S):
            while not await self._answers():
                assert self._process.returncode is None, self.log.read_text()
                await asyncio.sleep(STEP_S)

    async def kill(self) -> None:
        """SIGKILL: it says goodbye to nobody."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """SIGSTOP: it answers nothing, and its connections stay open."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def terminate(self) -> int:
        """SIGTERM; the exit code once it has ended."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(STOP_S):
            code = await self._process.wait()
        self._process = None
        return code

    async def stop(self) -> None:
        if self._process is not None and self._process.returncode is None:
            await self.kill()

    async def cli(self, *words: str) -> tuple[int, str]:
        """Run a command beside this node: its exit code, and all it printed."""
        process = await asyncio.create_subprocess_exec(
            *command(*words, "--state-dir", str(self.state_dir)),
            env=environment_of(self.folder) | {"COLUMNS": "80"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(START_S):
            printed, _ = await process.communicate()
        return process.returncode or 0, printed.decode()

    async def get(self, path: str, **headers: str) -> Any:
        async with (
            self.session() as session,
            session.get(self.url + path, headers=headers) as answer,
        ):
            assert answer.status == 200, await answer.text()
            return await answer.json()

    async def post(
        self, path: str, body: Mapping[str, Any], **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body; a body that was cut short raises `aiohttp.ClientPayloadError`."""
        async with (
            self.session() as session,
            session.post(self.url + path, json=body, headers=headers) as answer,
        ):
            return answer.status, answer.headers, await answer.read()

    async def states(self) -> dict[str, str]:
        """What it believes of each member, by name."""
        return {node["name"]: node["state"] for node in (await self.get("/api/distributed/nodes"))["nodes"]}

    async def routable(self) -> dict[str, int]:
        """The nodes it would send a request to, with the number of models each has."""
        nodes = (await self.get("/api/distributed/nodes"))["nodes"]
        return {
            node["name"]: node["models"]["installed"]
            for node in nodes
            if node["state"] == "alive" and node["engine"]["state"] == "ready"
        }

    async def until_states(self, seconds: float = 15.0, /, **wanted: str) -> float:
        """Seconds until it believes what is ``wanted``; fails the test when it does not."""
        return await eventually(
            self.states,
            lambda found: {**found, **wanted} == found,
            seconds,
            f"{self.name}: {wanted}",
        )

    async def until_routable(self, seconds: float = 15.0, /, **models: int) -> float:
        """Seconds until exactly these nodes get requests from here, with so many models each."""
        what = f"{self.name}: {models} routable"
        try:
            return await eventually(self.routable, lambda found: found == models, seconds, what)
        except AssertionError as late:
            rows = (await self.get("/api/distributed/nodes"))["nodes"]
            seen = [(row["name"], row["state"], row["reason"], row["engine"], row["models"]) for row in rows]
            raise AssertionError(f"{late}; it sees {seen}") from late

    async def _answers(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError, OSError):
            async with self.session() as session, session.get(self.url + "/") as answer:
                return answer.status == 200
        return False


class RealNodes:
    """Nodes by name in a folder; with one cluster key unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.key = new_cluster_key()
        self._nodes: dict[str, RealNode] = {}

    def __getitem__(self, name: str) -> RealNode:
        return self._nodes[name]

    def __iter__(self) -> Any:
        return iter(self._nodes.values())

    async def add(
        self,
        name: str,
        models: Sequence[str] | Mapping[str, str],
        *flags: str,
        key: str | None = None,
        **fake_options: Any,
    ) -> RealNode:
        """Start a node with a scripted Ollama that has ``models``. Without ``flags`` it looks for nobody."""
        home = self._folder / name
        fake_options.setdefault("folder", home / ".ollama" / "models")  # where the node looks for it
        ollama = FakeOllama(models=models if isinstance(models, Mapping) else tuple(models), **fake_options)
        node = await self.make(name, home, ollama, flags or ("--no-mdns",))
        self._nodes[name] = node
        given = self.key if key is None else key
        await node.start(environment={"OLLAMA_DIST_CLUSTER_KEY": given} if given else {})
        return node

    async def make(self, name: str, folder: Path, ollama: FakeOllama, flags: Sequence[str]) -> RealNode:
        """The node and its Ollama, which runs then."""
        await ollama.start()
        return RealNode(name, folder, ollama, flags)

    async def joined(self, models: Mapping[str, Sequence[str]], **fake_options: Any) -> None:
        """Nodes that found each other through the first, once each would send requests to all."""
        for name, held in models.items():
            seeds = [node.seed for node in self]
            flags = ("--no-mdns", "--join", seeds[0]) if seeds else ("--no-mdns",)
            await self.add(name, held, *flags, **fake_options)
        for node in self:
            await node.until_routable(**{name: len(held) for name, held in models.items()})

    async def stop(self) -> None:
        for node in self:
            await node.stop()
            await node.ollama.stop()


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", PROGRAM, *words]


_COMPILED: Final = Path(tempfile.gettempdir()) / f"ollama-dist-compiled-{getpass.getuser()}"
"""Kept from test to test: to compile all that a node imports takes longer than its whole start."""


def environment_of(home: Path) -> dict[str, str]:
    """Nothing of the machine's own settings, no proxy, and a home that is empty."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "LANG") if name in os.environ}
    return kept | {"HOME": str(home), "PYTHONPYCACHEPREFIX": str(_COMPILED), "NO_COLOR": "1"}


async def eventually(
    ask: Callable[[], Awaitable[_Found]], holds: Callable[[_Found], bool], seconds: float, what: str
) -> float:
    """Seconds until ``holds`` of what ``ask`` returns; fails the test after ``seconds``."""
    clock = asyncio.get_running_loop().time
    began = clock()
    while True:
        found = await ask()
        if holds(found):
            return clock() - began
        assert clock() - began < seconds, f"{what}: not within {seconds} s; last: {found}"
        await asyncio.sleep(STEP_S)


def records(body: bytes) -> list[dict[str, Any]]:
    """The lines of a native stream."""
    return [json.loads(line) for line in body.splitlines()]
