import asyncio

from ollama_dist.backends.ollama.engine import OllamaEngine, OllamaSettings
from ollama_dist.core.view import EngineState
from ollama_dist.node.announce import decode_hot
from ollama_dist.node.modes import Switches
from ollama_dist.node.node import Node, NodeOptions
from tests.support.fake_ollama import FakeOllama
from tests.support.ports import free_address
from tests.support.solo_node import Nobody
from tests.support.views import node_id


class Listening(Nobody):
    """A cluster that remembers what it was told before it was started."""

    def __init__(self) -> None:
        self.loads: list[bytes] = []
        self.told_first = b""
        self.started = asyncio.Event()

    def set_load(self, data: bytes) -> None:
        self.loads.append(data)

    async def start(self) -> None:
        self.told_first = self.loads[-1] if self.loads else b""
        self.started.set()


def _node(cluster: Nobody, engine_port: int) -> Node:
    settings = OllamaSettings(node_id(1), address=("127.0.0.1", engine_port))
    return Node(
        NodeOptions(node_id(1), "desk", 8, Switches()), OllamaEngine(settings), cluster, lambda _: None
    )


async def test_the_first_thing_a_node_tells_the_others_is_that_its_engine_is_ready() -> None:
    cluster = Listening()
    async with FakeOllama("0.17.7") as ollama:
        node = _node(cluster, ollama.port)
        await node.start(0)
        try:
            hot = decode_hot(cluster.told_first)
            assert hot is not None
            assert hot.engine_state is EngineState.READY
        finally:
            await node.stop()


async def test_a_node_without_its_engine_takes_part_all_the_same() -> None:
    cluster = Listening()
    node = _node(cluster, int(free_address().rpartition(":")[2]))
    await node.start(0)
    try:
        assert cluster.started.is_set()
        assert not node.view().me.can_serve
    finally:
        await node.stop()
