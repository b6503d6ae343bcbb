"""Nodes that invite, join and leave, over real sockets on loopback."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from ollama_dist.core.errors import BadRequest, ConfigError
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.cluster import ClusterOptions, GossipCluster
from ollama_dist.gossip.driver import GossipSettings
from ollama_dist.gossip.invite import CodeUsed
from ollama_dist.gossip.invite_code import CodeMistyped
from ollama_dist.gossip.keys import ClusterKey, load_cluster_key, load_or_make_cluster_key
from ollama_dist.gossip.protocol.config import LAN
from ollama_dist.gossip.store import Store
from tests.support.wait import until


class Clusters:
    """Starts nodes, each in a cluster of its own as after a first start."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: list[GossipCluster] = []

    def key_file(self, name: str) -> Path:
        return self._folder / name / "cluster.key"

    async def start(self, name: str, *, has_key_file: bool = True, port: int = 0) -> GossipCluster:
        key = load_or_make_cluster_key(self.key_file(name))
        gossip = GossipSettings(
            host="127.0.0.1",
            ports=(port,),
            mdns=False,
            memory=self._folder / name / "membership.json",
            config=LAN.scaled(0.25),
        )
        options = ClusterOptions(self._folder / name, gossip, self.key_file(name) if has_key_file else None)
        cluster = GossipCluster(key, options)
        await cluster.start()
        self._running.append(cluster)
        return cluster

    async def stop(self, cluster: GossipCluster) -> None:
        self._running.remove(cluster)
        await cluster.stop()

    async def stop_all(self) -> None:
        for cluster in self._running:
            await cluster.stop(leave=False)


@pytest.fixture
async def clusters(tmp_path: Path) -> AsyncIterator[Clusters]:
    running = Clusters(tmp_path)
    yield running
    await running.stop_all()


def alive(cluster: GossipCluster) -> set[str]:
    return {view.id for view in cluster.members() if view.state is MemberState.ALIVE}


async def test_a_code_brings_a_node_into_the_cluster_at_the_same_port(clusters: Clusters) -> None:
    desk, laptop = await clusters.start("desk"), await clusters.start("laptop")
    listener = laptop.address
    said = await desk.invite()
    assert said["command"] == f"ollama-dist join {said['code']}"
    assert said["expires_at"].endswith("Z")
    assert await laptop.join(said["code"]) == {"cluster": desk.id, "nodes": 2}
    assert laptop.id == desk.id
    assert laptop.address == listener
    assert load_cluster_key(clusters.key_file("laptop")) == load_cluster_key(clusters.key_file("desk"))
    await until(lambda: alive(desk) == alive(laptop) == {desk.node_id, laptop.node_id})


async def test_what_a_node_said_of_itself_goes_with_it(clusters: Clusters) -> None:
    desk, laptop = await clusters.start("desk"), await clusters.start("laptop")
    laptop.set_load(b"idle")
    laptop.set_state("model", b"llama3")
    laptop.set_state("gone", b"x")
    laptop.set_state("gone", None)
    told: list[int] = []
    laptop.subscribe(lambda _: told.append(len(laptop.members())))
    await laptop.join((await desk.invite())["code"])

    def known() -> bool:
        views = {view.id: view for view in desk.members()}
        view = views.get(laptop.node_id)
        return view is not None and (view.hot, view.cold) == (b"idle", {"model": b"llama3"})

    await until(known, what="the desk's knowing what the laptop has")
    assert told[-1] == 2


async def test_what_was_said_before_the_start_is_told_after_it(clusters: Clusters, tmp_path: Path) -> None:
    gossip = GossipSettings(host="127.0.0.1", mdns=False, config=LAN.scaled(0.25))
    cluster = GossipCluster(ClusterKey.make(), ClusterOptions(tmp_path / "desk", gossip))
    cluster.set_load(b"idle")
    cluster.set_state("model", b"llama3")
    assert (cluster.address, cluster.members()) == ("", ())
    await cluster.start()
    (me,) = cluster.members()
    assert me.cold == {"model": b"llama3"}
    await cluster.stop()


async def test_a_third_node_joins_with_a_code_of_the_second(clusters: Clusters) -> None:
    nodes = [await clusters.start(name) for name in ("desk", "laptop", "server")]
    await nodes[1].join((await nodes[0].invite())["code"])
    await nodes[2].join((await nodes[1].invite())["code"])
    everybody = {node.node_id for node in nodes}
    await until(lambda: all(alive(node) == everybody for node in nodes), what="everybody's seeing everybody")


async def test_a_refused_code_changes_nothing(clusters: Clusters) -> None:
    desk, laptop, late = [await clusters.start(name) for name in ("desk", "laptop", "late")]
    code = (await desk.invite())["code"]
    await laptop.join(code)
    before = late.id
    with pytest.raises(CodeUsed):
        await late.join(code)
    with pytest.raises(CodeMistyped):
        await late.join("odi1what")
    assert late.id == before
    assert alive(late) == {late.node_id}


async def test_members_of_a_cluster_are_not_left_behind_unasked(clusters: Clusters) -> None:
    desk, laptop, other = [await clusters.start(name) for name in ("desk", "laptop", "other")]
    await laptop.join((await desk.invite())["code"])
    with pytest.raises(BadRequest, match="leave that first"):
        await laptop.join((await other.invite())["code"])
    with pytest.raises(BadRequest, match="already"):
        await laptop.join((await desk.invite())["code"])
    assert (await laptop.join((await other.invite())["code"], replace=True))["cluster"] == other.id
    await until(lambda: alive(desk) == {desk.node_id}, what="the desk's being told")


async def test_who_leaves_goes_on_alone_and_needs_a_code_to_come_back(clusters: Clusters) -> None:
    desk, laptop = await clusters.start("desk"), await clusters.start("laptop")
    await laptop.join((await desk.invite())["code"])
    said = await laptop.leave()
    assert said == {"left": desk.id, "cluster": laptop.id}
    assert laptop.id != desk.id
    states = {view.id: view.state for view in desk.members()}
    assert states[laptop.node_id] is MemberState.LEFT
    await until(lambda: alive(laptop) == {laptop.node_id})
    assert (await laptop.join((await desk.invite())["code"]))["nodes"] == 2


async def test_after_a_restart_the_cluster_is_found_from_memory(clusters: Clusters) -> None:
    desk, laptop = await clusters.start("desk"), await clusters.start("laptop")
    await laptop.join((await desk.invite())["code"])
    await clusters.stop(laptop)
    again = await clusters.start("laptop")
    assert again.id == desk.id
    await until(lambda: alive(desk) == {desk.node_id, again.node_id} == alive(again))


async def test_nodes_that_all_went_off_together_find_each_other_again(clusters: Clusters) -> None:
    desk, laptop = await clusters.start("desk"), await clusters.start("laptop")
    await laptop.join((await desk.invite())["code"])
    await until(lambda: len(alive(desk)) == 2)
    port = int(desk.address.rpartition(":")[2])
    await asyncio.gather(clusters.stop(desk), clusters.stop(laptop))
    one, other = await clusters.start("desk", port=port), await clusters.start("laptop")
    await until(lambda: alive(one) == alive(other) == {desk.node_id, laptop.node_id})


async def test_a_key_that_was_set_from_outside_is_not_changed(clusters: Clusters) -> None:
    desk, laptop = await clusters.start("desk"), await clusters.start("laptop", has_key_file=False)
    with pytest.raises(ConfigError, match="set from outside"):
        await laptop.join((await desk.invite())["code"])
    with pytest.raises(ConfigError, match="set from outside"):
        await laptop.leave()


async def test_a_node_with_a_copied_folder_gets_an_identity_of_its_own_at_the_next_start(
    clusters: Clusters, tmp_path: Path
) -> None:
    desk, laptop = await clusters.start("desk"), await clusters.start("laptop")
    await laptop.join((await desk.invite())["code"])
    memory = Store(tmp_path / "laptop" / "membership.json")
    await until(lambda: desk.address in memory.load().peers, what="the laptop's remembering the desk")
    (tmp_path / "copy").mkdir(mode=0o700)
    for each in (tmp_path / "laptop").iterdir():
        (tmp_path / "copy" / each.name).write_bytes(each.read_bytes())
        (tmp_path / "copy" / each.name).chmod(0o600)
    copy = await clusters.start("copy")
    await until(lambda: not (tmp_path / "copy" / "node.key").exists(), what="the copy's yielding")
    assert copy.members() == ()
    await clusters.stop(copy)
    again = await clusters.start("copy")
    await until(lambda: alive(desk) == {desk.node_id, laptop.node_id, again.node_id})
