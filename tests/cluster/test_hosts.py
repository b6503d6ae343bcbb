"""Five machines on a network that fails: each node in a network namespace of its own, with its default ports.

They find each other by mDNS alone. The tests share one cluster, and each leaves it whole.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.hosts import Cable, HostNodes, NoHosts
from tests.support.real_nodes import RealNode, eventually

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("hosts")]

NAMES = ("desk", "laptop", "office", "attic", "garage")
MODELS = dict.fromkeys(NAMES, 1)
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def hosts(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[HostNodes]:
    try:
        async with Cable.laid() as cable:
            nodes = HostNodes(tmp_path_factory.mktemp("hosts"), cable)
            try:
                for name in NAMES:
                    await nodes.add(name, ["tiny"], "--gossip-profile", "lan")
                yield nodes
            finally:
                await nodes.stop()
    except NoHosts as error:
        pytest.skip(f"no hosts of our own here: {error}")


async def until_whole(hosts: HostNodes) -> None:
    for node in hosts:
        await node.until_routable(30, **MODELS)


async def dead_on(node: RealNode) -> int:
    """How often it declared somebody dead."""
    stats = await node.get("/admin/stats", Authorization=f"Bearer {node.admin_token}")
    return int(stats["gossip"]["event_dead"])


async def reach(node: RealNode, other: str) -> dict[str, bool]:
    rows = (await node.get("/api/distributed/nodes"))["nodes"]
    return next(row["reach"] for row in rows if row["name"] == other)


async def until_reach(node: RealNode, other: str, *, reachable: bool) -> None:
    """As soon as it holds that work may go there, or may not."""

    async def ways() -> dict[str, bool]:
        return await reach(node, other)

    await eventually(
        ways, lambda found: all(found.values()) is reachable, 60, f"{node.name} reaches {other}: {reachable}"
    )


async def winners(node: RealNode, times: int = 8) -> set[str]:
    """Which nodes answer requests that come in here."""
    found = set()
    for _ in range(times):
        status, headers, body = await node.post("/api/chat", CHAT)
        assert status == 200, body
        found.add(headers["X-Ollama-Node"])
    return found


async def test_five_machines_find_each_other_by_mdns_alone(hosts: HostNodes) -> None:
    await until_whole(hosts)
    for node in hosts:
        status = await node.get("/api/distributed/status")
        assert status["cluster"]["alive"] == len(NAMES)


async def test_the_halves_of_a_parted_network_serve_on_and_become_one_again(hosts: HostNodes) -> None:
    await until_whole(hosts)
    here, there = NAMES[:2], NAMES[2:]
    await hosts.cable.part(hosts.hosts(*here))
    for name in here:
        await hosts[name].until_states(20, **dict.fromkeys(here, "alive"), **dict.fromkeys(there, "dead"))
        assert await winners(hosts[name]) <= set(here)
    for name in there:
        await hosts[name].until_states(20, **dict.fromkeys(there, "alive"), **dict.fromkeys(here, "dead"))
        assert await winners(hosts[name]) <= set(there)
    deaths = [await dead_on(node) for node in hosts]
    assert min(deaths) >= len(here)
    await hosts.cable.mend()
    await until_whole(hosts)
    assert [await dead_on(node) for node in hosts] == deaths


async def test_a_way_that_is_open_in_one_direction_only_is_known_at_both_ends_and_not_used(
    hosts: HostNodes,
) -> None:
    await until_whole(hosts)
    deaths = [await dead_on(node) for node in hosts]
    desk, laptop = hosts["desk"], hosts["laptop"]
    await hosts.cable.block(*hosts.hosts("desk", "laptop"))
    await until_reach(desk, "laptop", reachable=False)
    await until_reach(laptop, "desk", reachable=False)
    assert "laptop" not in await winners(desk)
    assert "desk" not in await winners(laptop)
    assert (await hosts["office"].states())["laptop"] == "alive"
    await hosts.cable.mend()
    await until_reach(desk, "laptop", reachable=True)
    await until_reach(laptop, "desk", reachable=True)
    assert [await dead_on(node) for node in hosts] == deaths


async def test_two_that_are_blind_to_each_other_live_for_all(hosts: HostNodes) -> None:
    await until_whole(hosts)
    deaths = [await dead_on(node) for node in hosts]
    await hosts.cable.blind(*hosts.hosts("attic", "garage"))
    attic, garage = hosts["attic"], hosts["garage"]
    await until_reach(attic, "garage", reachable=False)
    await until_reach(garage, "attic", reachable=False)
    assert "garage" not in await winners(attic)
    for node in hosts:
        assert set((await node.states()).values()) <= {"alive", "suspect"}
    await hosts.cable.mend()
    await until_reach(attic, "garage", reachable=True)
    await until_reach(garage, "attic", reachable=True)
    assert [await dead_on(node) for node in hosts] == deaths


async def test_a_machine_in_a_black_hole_is_dead_for_the_others_and_back_when_it_is_over(
    hosts: HostNodes,
) -> None:
    await until_whole(hosts)
    others = [node for node in hosts if node.name != "office"]
    await hosts.cable.part(hosts.hosts("office"))
    for node in others:
        await node.until_states(20, office="suspect")
        assert "office" not in await winners(node, 2)
    for node in others:
        await node.until_states(20, office="dead")
    assert await winners(hosts["office"], 2) == {"office"}
    await hosts.cable.mend()
    await until_whole(hosts)
