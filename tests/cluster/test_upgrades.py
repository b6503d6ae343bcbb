"""Nodes are stopped, replaced by a later version and started again, one by one, while clients ask."""

from collections.abc import Mapping
from typing import Any

from tests.support.newer_node import VERSION, VERSIONS
from tests.support.real_nodes import PROGRAM, RealNode, RealNodes
from tests.support.streaming_load import StreamingLoad

NEWER = "tests.support.newer_node"
ALL = {"desk": 1, "laptop": 1, "office": 1}


async def protocols(node: RealNode) -> Mapping[str, tuple[str, int]]:
    """By node, its version and the newest protocol it speaks, as this one knows."""
    rows: list[dict[str, Any]] = (await node.get("/api/distributed/nodes"))["nodes"]
    return {row["name"]: (row["version"], row["protocol"]["max"]) for row in rows}


async def replace(nodes: RealNodes, name: str, program: str) -> None:
    """Stop one, and start it as another program."""
    assert await nodes[name].terminate() == 0
    nodes[name].program = program
    await nodes[name].start()
    for node in nodes:
        await node.until_routable(30, **ALL)


async def test_a_cluster_is_upgraded_node_by_node_and_back_and_no_request_fails(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny"], "office": ["tiny"]}, slots=4)
    old = (await protocols(nodes["desk"]))["desk"]
    async with StreamingLoad([nodes["desk"]]) as load:
        for name in ("laptop", "office"):
            await replace(nodes, name, NEWER)
            await load.more(10)
        found = await protocols(nodes["desk"])
        assert found == {"desk": old, **dict.fromkeys(("laptop", "office"), (VERSION, VERSIONS[1]))}
        await replace(nodes, "laptop", PROGRAM)
        await load.more(10)
    assert load.failures == []
    for node in nodes:
        await node.until_states(**dict.fromkeys(ALL, "alive"))


async def test_one_that_stood_still_is_blamed_for_it_and_blames_nobody(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny"], "office": ["tiny"]})
    desk, laptop, office = nodes["desk"], nodes["laptop"], nodes["office"]
    began = office.pid
    office.freeze()
    for node in (desk, laptop):
        await node.until_states(office="dead")
    office.thaw()
    for node in nodes:
        await node.until_routable(**ALL)
    assert office.pid == began
    stats = await office.get("/admin/stats", Authorization=f"Bearer {office.admin_token}")
    assert stats["gossip"]["event_dead"] == 0
    assert stats["gossip"]["stalls"] >= 1
