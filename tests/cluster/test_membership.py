"""Real processes find each other, lose each other, and keep strangers out."""

import json
import re

from ollama_dist.gossip.keys import new_cluster_key
from tests.support.real_nodes import RealNode, RealNodes, eventually

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}


async def test_three_nodes_find_each_other_through_one_seed(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny-embed"], "office": ["tiny-random"]})
    for node in nodes:
        assert await node.states() == dict.fromkeys(("desk", "laptop", "office"), "alive")
        status = await node.get("/api/distributed/status")
        assert status["node"]["mode"] == "distributed"
        assert status["problems"] == []


async def test_three_nodes_find_each_other_without_being_told(nodes: RealNodes) -> None:
    for name in ("desk", "laptop", "office"):
        await nodes.add(name, ["tiny"], "--mdns-interfaces", "127.0.0.1")
    for node in nodes:
        await node.until_routable(30, desk=1, laptop=1, office=1)


async def test_a_node_with_another_key_stays_outside_and_says_why(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny"]})
    flags = ("--no-mdns", "--join", nodes["desk"].seed)
    stranger = await nodes.add("stranger", ["tiny-random"], *flags, key=new_cluster_key())

    async def codes() -> list[str]:
        return [problem["code"] for problem in (await stranger.get("/api/distributed/status"))["problems"]]

    await eventually(codes, lambda found: found == ["seed_refused"], 10, "the stranger's saying so")
    assert await stranger.states() == {"stranger": "alive"}
    assert set(await nodes["desk"].states()) == {"desk", "laptop"}
    assert (await stranger.post("/api/chat", CHAT))[0] == 404


async def test_a_cluster_that_is_seen_is_named_and_not_joined(nodes: RealNodes) -> None:
    mdns = ("--mdns-interfaces", "127.0.0.1")
    desk = await nodes.add("desk", ["tiny"], *mdns)
    stranger = await nodes.add("stranger", ["tiny-random"], *mdns, key="")
    cluster = (await desk.get("/api/distributed/status"))["cluster"]["id"]

    async def printed() -> str:
        return (await stranger.cli("status"))[1]

    found = ""

    def names_it(text: str) -> bool:
        nonlocal found
        found = text
        return cluster in text

    await eventually(printed, names_it, 20, "the cluster's being seen")
    assert "ollama-dist join" in found
    assert await stranger.states() == {"stranger": "alive"}


async def test_one_that_is_killed_is_suspect_then_dead_and_back_when_started_again(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny"], "office": ["tiny"]})
    await nodes["office"].kill()
    await nodes["desk"].until_states(office="suspect")
    await nodes["desk"].until_states(office="dead")
    await nodes["laptop"].until_states(office="dead")
    assert (await nodes["desk"].post("/api/chat", CHAT))[0] == 200

    await nodes["office"].start()
    for node in nodes:
        await node.until_routable(desk=1, laptop=1, office=1)


async def test_one_that_is_told_to_stop_leaves_and_is_not_mourned(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny"]})
    assert await nodes["laptop"].terminate() == 0
    await nodes["desk"].until_states(laptop="left")
    status = await nodes["desk"].get("/api/distributed/status")
    assert status["problems"] == []
    code, printed = await nodes["laptop"].cli("status")
    assert code != 0
    assert "laptop" in printed


async def test_a_code_brings_a_machine_in_and_leave_takes_it_out(nodes: RealNodes) -> None:
    desk = await nodes.add("desk", ["tiny"])
    laptop = await nodes.add("laptop", ["tiny-random"], key="")
    invitation = await _invited(desk)
    code, printed = await laptop.cli("join", invitation)
    assert code == 0, printed
    for node in (desk, laptop):
        await node.until_routable(desk=1, laptop=1)
    assert (await laptop.post("/api/chat", CHAT))[0] == 200

    code, printed = await laptop.cli("join", invitation)
    assert code != 0
    code, printed = await laptop.cli("leave", "--yes")
    assert code == 0, printed
    await desk.until_states(laptop="left")
    assert (await laptop.post("/api/chat", CHAT))[0] == 404


async def test_a_code_is_good_once(nodes: RealNodes) -> None:
    desk = await nodes.add("desk", ["tiny"])
    laptop, office = await nodes.add("laptop", [], key=""), await nodes.add("office", [], key="")
    invitation = await _invited(desk)
    assert (await laptop.cli("join", invitation))[0] == 0
    code, printed = await office.cli("join", invitation)
    assert code != 0
    assert "used" in printed


async def test_the_commands_show_the_cluster_on_eighty_columns(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny", "tiny-random"]})
    code, printed = await nodes["desk"].cli("doctor")
    assert code == 0, printed
    for words in (["status"], ["nodes"], ["models"]):
        code, printed = await nodes["desk"].cli(*words)
        assert code == 0, printed
        assert "laptop" in printed
        assert [line for line in printed.splitlines() if len(line) > 80] == []
    code, printed = await nodes["desk"].cli("models", "--json")
    by_name = {row["name"]: row for row in json.loads(printed)["models"]}
    assert sorted(replica["node"] for replica in by_name["tiny:latest"]["replicas"]) == ["desk", "laptop"]


async def _invited(node: RealNode) -> str:
    code, printed = await node.cli("invite")
    assert code == 0, printed
    found = re.search(r"ollama-dist join (\S+)", printed)
    assert found is not None, printed
    return found[1]
