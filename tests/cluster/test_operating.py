"""What an operator sees of members, what it calls them, and how the dead are got rid of."""

from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.support.real_nodes import RealNode, RealNodes, eventually

CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello"}], "stream": False}


async def _row(node: RealNode, name: str) -> dict[str, Any]:
    rows = (await node.get("/api/distributed/nodes"))["nodes"]
    return next((row for row in rows if row["name"] == name), {})


async def _until_unlisted(node: RealNode, name: str) -> None:
    async def row() -> dict[str, Any]:
        return await _row(node, name)

    await eventually(row, lambda found: not found, 15, f"{name} being listed no more on {node.name}")


async def test_the_dead_stay_listed_over_a_restart_until_they_are_forgotten(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny"], "office": ["tiny"]})
    desk, laptop, office = nodes["desk"], nodes["laptop"], nodes["office"]
    code, printed = await desk.cli("forget", "office")
    assert code != 0
    assert "office is alive: only a node that is dead or has left is forgotten" in printed

    await office.kill()
    for node in (desk, laptop):
        await node.until_states(office="dead")
    before = await _row(desk, "office")
    assert await desk.terminate() == 0
    await desk.start()
    await desk.until_states(office="dead", laptop="alive")
    after = await _row(desk, "office")
    assert (after["reason"], after["since"][:18]) == (before["reason"], before["since"][:18])

    code, printed = await desk.cli("forget", "office")
    assert code == 0, printed
    for node in (desk, laptop):
        await _until_unlisted(node, "office")
    await desk.kill()
    await desk.start()
    await desk.until_routable(desk=1, laptop=1)
    assert await _row(desk, "office") == {}

    await office.start()
    for node in nodes:
        await node.until_routable(desk=1, laptop=1, office=1)


async def test_requests_choose_by_label(nodes: RealNodes) -> None:
    desk = await nodes.add("desk", ["tiny"], "--no-mdns", "--labels", "gpu=no,room=office")
    seeds = ("--no-mdns", "--join", desk.seed)
    await nodes.add("laptop", ["tiny"], *seeds, "--labels", "gpu=yes")
    await nodes.add("office", ["tiny"], *seeds)
    for node in nodes:
        await node.until_routable(desk=1, laptop=1, office=1)
    assert (await _row(desk, "laptop"))["labels"] == {"gpu": "yes"}
    assert (await _row(desk, "office"))["labels"] == {}
    for pin, winners in (
        ("label:gpu=yes", {"laptop"}),
        ("label:gpu", {"desk", "laptop"}),
        ("label:gpu=no,room=office", {"desk"}),
    ):
        status, headers, _ = await nodes["office"].post("/api/chat", CHAT, **{"X-Ollama-Node": pin})
        assert (status, headers["X-Ollama-Node"] in winners) == (200, True)
    status, _, answer = await desk.post("/api/chat", CHAT, **{"X-Ollama-Node": "label:gpu=none"})
    assert status == 503
    assert b"has no label gpu=none" in answer
    assert (await desk.post("/api/chat", CHAT, **{"X-Ollama-Node": "label:"}))[0] == 400


async def test_an_operator_sees_who_reaches_whom_and_what_membership_does(nodes: RealNodes) -> None:
    await nodes.joined({"desk": ["tiny"], "laptop": ["tiny"], "office": ["tiny"]})
    desk = nodes["desk"]
    row = await _row(desk, "laptop")
    assert row["reach"] == {"to": True, "from": True}
    assert (row["accused_by"], row["protocol"]) == (None, {"min": 1, "max": 1})
    assert row["generation"] > 0
    assert (await _row(desk, "desk"))["generation"] > 0
    await nodes["laptop"].kill()
    await desk.until_states(laptop="dead")
    row = await _row(desk, "laptop")
    assert row["accused_by"] in ("desk", "office")
    assert row["reason"]
    stats = await desk.get("/admin/stats", Authorization=f"Bearer {desk.admin_token}")
    gossip = stats["gossip"]
    assert gossip["probes"] > gossip["probes_failed"] > 0
    assert gossip["event_suspect"] >= gossip["event_dead"] == 1
    assert gossip["rumours_in"] > 0 < gossip["rumours_out"]
    assert gossip["sync_bytes_in"] > 0 < gossip["sync_bytes_out"]
    assert {"refuted", "local_health"} <= gossip.keys()
    metrics = await _metrics(desk)
    assert metrics["ollama_dist_gossip_probes_failed_total", ""] > 0
    assert metrics["ollama_dist_gossip_event_dead_total", ""] == 1
    assert 0 <= metrics["ollama_dist_gossip_loop_lag_ms", ""] < 60_000
    assert metrics["ollama_dist_members", "alive"] == 2
    assert metrics["ollama_dist_members", "dead"] == 1
    assert metrics["ollama_dist_problems", "warning"] >= 1


async def _metrics(node: RealNode) -> dict[tuple[str, str], float]:
    """What Prometheus reads there, by name and the value of the last label."""
    async with node.session() as session, session.get(node.url + "/metrics") as answer:
        assert (answer.status, answer.content_type) == (200, "text/plain")
        families = text_string_to_metric_families(await answer.text())
    return {
        (sample.name, next(reversed(sample.labels.values()), "")): sample.value
        for family in families
        for sample in family.samples
    }
