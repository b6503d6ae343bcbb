"""Models on their way between real nodes, any of which is killed meanwhile."""

import asyncio
from pathlib import Path

from ollama_dist.backends.llamacpp.tiny import write_tiny_model
from ollama_dist.replication.disk.pieces import PIECE
from ollama_dist.replication.intake.gguf_copying import PARTIAL
from ollama_dist.replication.transfer.fetching import AHEAD, HELD_PIECES
from tests.support.model_store import noise
from tests.support.real_nodes import RealNode, RealNodes, eventually

SIZE = 128 * PIECE
RATE = 40_000_000
"""Bytes a second: slow enough to be killed midway."""

PARTS = 16
"""Of a blob that an Ollama fetches at once."""


class Copying:
    """One model on its way from some nodes to one with the embedded engine."""

    def __init__(self, nodes: RealNodes, folder: Path, *holders: str) -> None:
        self.nodes = nodes
        self.models = folder / "attic-models"
        self._folder = folder
        self._holders = holders

    @property
    def target(self) -> RealNode:
        return self.nodes["attic"]

    async def begin(self) -> None:
        write_tiny_model(self._folder / "made.gguf", "it was copied whole")
        self.weights = (self._folder / "made.gguf").read_bytes()
        self.weights += noise(SIZE - len(self.weights))
        self.models.mkdir()
        await self.nodes.joined({name: [] for name in self._holders})
        for name in self._holders:
            self.nodes[name].ollama.catalogue.install("big", "tiny", self.weights)
        engine = ("--engine", "llama.cpp", "--engine-models", str(self.models))
        seeds = ("--no-mdns", "--join", self.nodes[self._holders[0]].seed)
        await self.nodes.add("attic", [], *seeds, *engine, "--transfer-rate", str(RATE))
        asked = self.nodes[self._holders[-1]]
        for node in (self.target, asked):
            await node.until_routable(**dict.fromkeys(self._holders, 1), attic=0)
        token = {"Authorization": f"Bearer {asked.admin_token}"}
        wish = {"model": "big", "to": "attic", "keep_source": True}
        status, _, said = await asked.post("/api/distributed/migrate", wish, **token)
        assert status == 202, said

    def written(self) -> int:
        return sum(path.stat().st_size for path in (self.models / PARTIAL).glob("*"))

    async def until_written(self, share: float) -> None:
        async def written() -> int:
            return self.written()

        await eventually(written, lambda size: size >= share * SIZE, 30, f"{share:.0%} being written")

    async def until_whole(self) -> None:
        async def found() -> bool:
            return (self.models / "big.gguf").exists()

        await eventually(found, bool, 60, "the model being whole")
        await self.target.until_routable(30, **{**await self.target.routable(), "attic": 1})
        assert await asyncio.to_thread((self.models / "big.gguf").read_bytes) == self.weights

    async def given(self, name: str) -> int:
        """Bytes of blobs that a node has given since its start."""
        node = self.nodes[name]
        stats = await node.get("/admin/stats", Authorization=f"Bearer {node.admin_token}")
        return int(stats["replication"]["given_bytes"])


async def test_a_target_that_is_killed_goes_on_where_it_was(nodes: RealNodes, tmp_path: Path) -> None:
    copying = Copying(nodes, tmp_path, "desk")
    await copying.begin()
    await copying.until_written(0.5)

    await copying.target.kill()
    written = copying.written()
    await copying.target.start()
    await copying.until_whole()

    assert SIZE / 2 <= written < SIZE
    # What was under way, which is the most there can be of any model, and less than 5 % of one of 400 MB.
    assert await copying.given("desk") <= SIZE + (AHEAD + 1) * PIECE


async def test_a_giver_that_is_killed_is_replaced_by_another(nodes: RealNodes, tmp_path: Path) -> None:
    copying = Copying(nodes, tmp_path, "desk", "laptop")
    await copying.begin()
    await copying.until_written(0.4)
    given = await copying.given("desk")

    await nodes["desk"].kill()
    await copying.until_whole()

    # What it gave after it was asked is unknown, but for a time in which little can have come.
    assert 0 < await copying.given("laptop") <= SIZE - given + PIECE


async def test_the_only_giver_may_be_killed_and_come_back(nodes: RealNodes, tmp_path: Path) -> None:
    copying = Copying(nodes, tmp_path, "desk")
    await copying.begin()
    await copying.until_written(0.4)

    await nodes["desk"].kill()
    written = copying.written()
    await nodes["desk"].start()
    await copying.until_whole()

    assert await copying.given("desk") <= SIZE - written + (AHEAD + 1) * PIECE


async def test_a_target_that_is_killed_before_its_ollama_goes_on_where_it_was(nodes: RealNodes) -> None:
    """The Ollama behind it keeps the parts it has; its connections to the node that died are gone."""
    weights = noise(SIZE)
    await nodes.joined({"desk": []})
    desk = nodes["desk"]
    desk.ollama.catalogue.install("big", "tiny", weights)
    await desk.until_routable(desk=1)
    attic = await nodes.add("attic", [], "--no-mdns", "--join", desk.seed, "--transfer-rate", str(RATE))
    puller = attic.ollama.catalogue.puller
    assert puller is not None
    puller.timing.part_bytes = 4 * PIECE
    for node in nodes:
        await node.until_routable(desk=1, attic=0)
    token = {"Authorization": f"Bearer {desk.admin_token}"}
    wish = {"model": "big", "to": "attic", "keep_source": True}
    assert (await desk.post("/api/distributed/migrate", wish, **token))[0] == 202

    async def given() -> int:
        return int((await desk.get("/admin/stats", **token))["replication"]["given_bytes"])

    await eventually(given, lambda size: size >= 0.7 * SIZE, 30, "most of it being given")
    await attic.kill()
    before = await given()
    await attic.start()
    for node in nodes:
        await node.until_routable(30, desk=1, attic=1)

    assert attic.ollama.store is not None
    [blob] = [path for path in attic.ollama.store.folder.glob("blobs/*") if path.stat().st_size == SIZE]
    assert await asyncio.to_thread(blob.read_bytes) == weights
    # Again comes what was on its way, and a piece for each of the parts that an Ollama fetches at once.
    assert before < SIZE < await given() <= SIZE + (HELD_PIECES + PARTS) * PIECE
