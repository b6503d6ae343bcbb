"""Several hosts on one machine: a network namespace each, on one cable, with ways to spoil it.

Namespaces need root, `ip` and a kernel that lends them; where one is missing `Cable` says which. Names have
this process's number in them, and nothing else is touched.
"""

import asyncio
import contextlib
import ctypes
import itertools
import os
import shutil
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Final

import aiohttp
from aiohttp.connector import AddrInfoType

from tests.support.fake_ollama import FakeOllama
from tests.support.real_nodes import RealNode, RealNodes

_PORT: Final = 11434
_NODE_PORT: Final = 11436
_OLLAMA_PORT: Final = 11500
_CLONE_NEWNET: Final = 0x40000000
_CABLES: Final = itertools.count()


class NoHosts(Exception):
    """This machine lends no network namespaces."""


class Namespace:
    """One host's network: its loopback, and an `eth0` on the cable."""

    def __init__(self, name: str, veth: str, address: str) -> None:
        self.name = name
        self.veth = veth
        """The cable's end of its `eth0`."""
        self.address = address

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """A socket of this host, for whoever in this process wants to talk from there."""
        libc = ctypes.CDLL(None, use_errno=True)
        with open("/proc/thread-self/ns/net") as here, open(f"/run/netns/{self.name}") as there:
            _enter(libc, there.fileno())
            try:
                return socket.socket(family, kind)
            finally:
                _enter(libc, here.fileno())

    async def ip(self, *words: str) -> None:
        await _ip("-n", self.name, *words)


def _enter(libc: ctypes.CDLL, namespace: int) -> None:
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Cable:
    """Hosts that hear each other; who is `part`ed from them is on another cable."""

    def __init__(self) -> None:
        self._name = f"od{os.getpid() % 10**6}{next(_CABLES)}"
        self._away = f"{self._name}x"
        self.hosts: list[Namespace] = []
        self._blocked: list[tuple[Namespace, Namespace]] = []

    @classmethod
    @contextlib.asynccontextmanager
    async def laid(cls) -> AsyncIterator["Cable"]:
        """Raises `NoHosts`."""
        if os.geteuid() != 0:
            raise NoHosts("network namespaces need root")
        if shutil.which("ip") is None:
            raise NoHosts("there is no `ip` (iproute2)")
        cable = cls()
        try:
            for bridge in (cable._name, cable._away):
                await _ip("link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
                await _ip("link", "set", bridge, "up")
            await cable.host()
        except OSError as error:
            await cable.remove()
            raise NoHosts(str(error)) from error
        try:
            yield cable
        finally:
            await cable.remove()

    async def host(self) -> Namespace:
        number = len(self.hosts)
        host = Namespace(f"{self._name}n{number}", f"{self._name}v{number}", f"10.77.0.{number + 1}")
        await _ip("netns", "add", host.name)
        self.hosts.append(host)
        await _ip("link", "add", host.veth, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        await _ip("link", "set", host.veth, "master", self._name, "up")
        await host.ip("addr", "add", f"{host.address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            await host.ip("link", "set", device, "up")
        return host

    async def remove(self) -> None:
        for host in self.hosts:
            await _ip("netns", "del", host.name, may_fail=True)
        for bridge in (self._name, self._away):
            await _ip("link", "del", bridge, may_fail=True)

    # What can be wrong with it

    async def part(self, hosts: Iterable[Namespace]) -> None:
        """These hear each other and nobody else; what is sent across is lost without a word."""
        await _ip_at_once(f"link set {host.veth} master {self._away}" for host in hosts)

    async def blind(self, *hosts: Namespace) -> None:
        """None of these hears another of them; everybody else hears all."""
        for host in hosts:
            await _ip("link", "set", host.veth, "type", "bridge_slave", "isolated", "on")

    async def block(self, host: Namespace, other: Namespace) -> None:
        """Nothing of ``host`` gets to ``other``; the way back is open."""
        await host.ip("route", "add", "blackhole", f"{other.address}/32")
        self._blocked.append((host, other))

    async def mend(self) -> None:
        """All as new, and at once: who is back first would else lose sight of who is back last."""
        await _ip_at_once(f"link set {host.veth} master {self._name}" for host in self.hosts)
        await _ip_at_once(f"link set {host.veth} type bridge_slave isolated off" for host in self.hosts)
        while self._blocked:
            host, other = self._blocked.pop()
            await host.ip("route", "del", "blackhole", f"{other.address}/32")


async def _ip_at_once(lines: Iterable[str]) -> None:
    """Many commands in one process: a few milliseconds, where a process each takes seconds."""
    process = await asyncio.create_subprocess_exec(
        "ip", "-batch", "-", stdin=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate("\n".join(lines).encode())
    if process.returncode:
        raise OSError(f"ip -batch: {said.decode().strip()}")


async def _ip(*words: str, may_fail: bool = False) -> None:
    process = await asyncio.create_subprocess_exec(
        "ip", *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    if process.returncode and not may_fail:
        raise OSError(f"ip {' '.join(words)}: {said.decode().strip()}")


class HostNode(RealNode):
    """A node on a host of its own, at the ports a node has when nobody says otherwise."""

    def __init__(self, name: str, folder: Path, ollama: FakeOllama, flags: Sequence[str], host: Namespace):
        super().__init__(name, folder, ollama, flags, ports=(_PORT, _NODE_PORT))
        self.host = host

    @property
    def seed(self) -> str:
        return f"{self.host.address}:{_NODE_PORT}"

    def prefix(self) -> tuple[str, ...]:
        return ("ip", "netns", "exec", self.host.name)

    def listeners(self) -> tuple[str, ...]:
        return ()

    def session(self) -> aiohttp.ClientSession:
        def create(address: AddrInfoType) -> socket.socket:
            found = self.host.socket(address[0], address[1])
            found.setblocking(False)
            return found

        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=create))


class HostNodes(RealNodes):
    """Nodes by name, each on its own host of one cable."""

    def __init__(self, folder: Path, cable: Cable) -> None:
        super().__init__(folder)
        self.cable = cable
        self._free = list(cable.hosts)

    async def make(self, name: str, folder: Path, ollama: FakeOllama, flags: Sequence[str]) -> RealNode:
        host = self._free.pop(0) if self._free else await self.cable.host()
        await ollama.start(_OLLAMA_PORT, create=host.socket)
        return HostNode(name, folder, ollama, flags, host)

    def hosts(self, *names: str) -> list[Namespace]:
        found = [self[name] for name in names]
        return [node.host for node in found if isinstance(node, HostNode)]
