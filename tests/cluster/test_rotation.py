"""The cluster's key is replaced under real processes, and members are taken out by it."""

import re
from typing import Any

from ollama_dist.gossip.keys import ClusterKey
from tests.support.real_nodes import RealNode, RealNodes, eventually
from tests.support.streaming_load import StreamingLoad

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}
THREE = {"desk": ["tiny-random"], "laptop": ["tiny"], "office": ["tiny"]}
ALL = {"desk": 1, "laptop": 1, "office": 1}


async def _post(node: RealNode, path: str, **body: Any) -> Any:
    status, _, answer = await node.post(
        f"/api/distributed/{path}", body, Authorization=f"Bearer {node.admin_token}"
    )
    assert status == 200, answer
    return answer


async def _problems(node: RealNode) -> dict[str, str]:
    status = await node.get("/api/distributed/status")
    return {problem["code"]: problem["message"] for problem in status["problems"]}


async def _until_problem(node: RealNode, code: str, words: str, seconds: float = 20.0) -> None:
    async def said() -> str:
        return (await _problems(node)).get(code, "")

    await eventually(said, lambda text: words in text, seconds, f"{node.name}'s saying {code}")


async def _until_logged(node: RealNode, event: str, seconds: float = 20.0) -> None:
    async def log() -> str:
        return node.log.read_text()

    await eventually(log, lambda text: event in text, seconds, f"{event} in the log of {node.name}")


async def _invited(node: RealNode) -> str:
    code, printed = await node.cli("invite")
    assert code == 0, printed
    found = re.search(r"ollama-dist join (\S+)", printed)
    assert found is not None, printed
    return found[1]


async def _joined_by_code(nodes: RealNodes, *names: str) -> None:
    """Nodes that keep their own keys, as people set them up."""
    first = await nodes.add("desk", ["tiny-random"], key="")
    for name in names:
        node = await nodes.add(name, ["tiny"], key="")
        code, printed = await node.cli("join", await _invited(first))
        assert code == 0, printed
    for node in nodes:
        await node.until_routable(**dict.fromkeys(("desk", *names), 1))


async def test_the_key_is_replaced_and_no_request_fails(nodes: RealNodes) -> None:
    await nodes.joined(THREE, tokens_per_s=60.0, slots=4)
    async with StreamingLoad(nodes) as load:
        await load.more(12)
        code, printed = await nodes["office"].cli("cluster-key", "rotate", "--overlap", "0")
        assert code == 0, printed
        assert "has key 2 now, on 3 nodes" in printed
        await load.more(12)
        for node in nodes:
            await _until_logged(node, "old_key_ended")
        await load.more(24)
    assert load.failures == []
    assert load.served_by == {"laptop", "office"}
    for node in nodes:
        assert await node.states() == dict.fromkeys(ALL, "alive")
        assert await _problems(node) == {}


async def test_a_second_rotation_waits_for_the_first(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny"]})
    await _post(nodes["desk"], "rotate", overlap_s=600)
    code, printed = await nodes["laptop"].cli("cluster-key", "rotate")
    assert code != 0
    assert "still being handed around" in printed


async def test_one_that_is_started_again_in_the_middle_goes_on(nodes: RealNodes) -> None:
    await nodes.joined(THREE)
    await nodes["laptop"].kill()
    await _post(nodes["desk"], "rotate", overlap_s=0)
    await nodes["desk"].kill()
    await nodes["desk"].start()
    await nodes["laptop"].start()  # with the key before, as it was set from outside
    for node in nodes:
        await node.until_routable(30, **ALL)
        await _until_logged(node, "old_key_ended", 30)
    for node in nodes:
        await node.until_routable(**ALL)
    assert (await nodes["desk"].post("/api/chat", CHAT))[0] == 200


async def test_who_was_away_for_too_long_is_told_and_joins_by_a_code(nodes: RealNodes) -> None:
    await _joined_by_code(nodes, "laptop")
    desk, laptop = nodes["desk"], nodes["laptop"]
    await laptop.kill()
    await desk.until_states(laptop="dead")
    await _post(desk, "rotate", overlap_s=0)
    await _until_logged(desk, "old_key_ended")
    await laptop.start()
    await _until_problem(laptop, "seed_refused", "was rotated (epoch 2")
    assert "was revoked" in (await _problems(laptop))["seed_refused"]
    assert await laptop.states() == {"laptop": "alive"}
    code, printed = await laptop.cli("join", await _invited(desk))
    assert code == 0, printed
    for node in nodes:
        await node.until_routable(desk=1, laptop=1)
    assert "seed_refused" not in await _problems(laptop)


async def test_the_new_key_is_in_the_file_and_in_later_codes(nodes: RealNodes) -> None:
    await _joined_by_code(nodes, "laptop")
    before = await _invited(nodes["desk"])
    await _post(nodes["laptop"], "rotate", overlap_s=0)
    keys = [ClusterKey.parse((node.state_dir / "cluster.key").read_text()) for node in nodes]
    assert keys[0] == keys[1]
    assert keys[0].epoch == 2
    office = await nodes.add("office", ["tiny"], key="")
    code, printed = await office.cli("join", before)
    assert code != 0
    assert "was rotated since this invitation was made" in printed
    code, printed = await office.cli("join", await _invited(nodes["desk"]))
    assert code == 0, printed
    for node in nodes:
        await node.until_routable(**ALL)


# Revoking


async def test_a_revoked_node_is_out_and_no_request_of_those_who_stay_fails(nodes: RealNodes) -> None:
    await nodes.joined({**THREE, "rogue": ["tiny", "tiny-embed"]}, tokens_per_s=60.0, slots=4)
    rogue = nodes["rogue"]
    staying = [nodes[name] for name in THREE]
    async with StreamingLoad(staying) as load:
        await load.more(12)
        code, printed = await nodes["laptop"].cli("revoke", "rogue", "--yes")
        assert code == 0, printed
        assert "revoked: rogue; 3 nodes have key 2 now" in printed
        load.served_by.clear()
        for node in staying:
            assert (await node.states())["rogue"] == "dead"
        await load.more(24)
        served_by = set(load.served_by)
        for node in staying:
            await _until_logged(node, "old_key_ended")
        await load.more(24)
    assert load.failures == []
    assert served_by <= {"laptop", "office", "rogue"}
    for node in staying:
        assert await node.routable() == ALL
    await _until_problem(rogue, "revoked", "revoked by laptop")
    await _until_logged(rogue, "by=laptop")
    assert (await rogue.post("/api/chat", {**CHAT, "model": "tiny-random"}))[0] == 503
    for node in staying:
        reasons = {row["name"]: row["reason"] for row in (await node.get("/api/distributed/nodes"))["nodes"]}
        assert reasons["rogue"] == "revoked by laptop"


async def test_a_revoked_node_stays_out_when_started_again_and_joins_by_a_code(nodes: RealNodes) -> None:
    await _joined_by_code(nodes, "laptop", "office")
    desk, laptop = nodes["desk"], nodes["laptop"]
    assert (await desk.cli("revoke", "laptop", "--yes"))[0] == 0
    await laptop.kill()
    await laptop.start()
    await _until_problem(laptop, "revoked", "revoked by desk")
    await _until_logged(desk, "old_key_ended")
    await laptop.kill()
    await laptop.start()
    await _until_problem(laptop, "seed_refused", "was rotated")
    assert (await desk.states())["laptop"] == "dead"
    code, printed = await laptop.cli("join", await _invited(nodes["office"]))
    assert code == 0, printed
    for node in nodes:
        await node.until_routable(**ALL)
    assert "revoked" not in await _problems(laptop)


async def test_nobody_revokes_itself_or_a_stranger(nodes: RealNodes) -> None:
    desk = await nodes.add("desk", ["tiny"])
    code, printed = await desk.cli("revoke", "desk", "--yes")
    assert code != 0
    assert "ollama-dist leave" in printed
    code, printed = await desk.cli("revoke", "nobody", "--yes")
    assert code != 0
    assert "no node is called 'nobody'" in printed
