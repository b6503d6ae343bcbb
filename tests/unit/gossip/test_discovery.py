import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip import discovery
from ollama_dist.gossip.discovery import MAX_CLUSTERS, Discovery, Sighting, join_host_port, read_record
from tests.support.wait import until

RECORD: dict[bytes, bytes | None] = {b"v": b"1", b"c": b"9f2c41d0", b"i": b"0123456789abcdef", b"p": b"11436"}


def node(number: int, cluster: str = "9f2c41d0") -> Sighting:
    return Sighting(cluster, NodeId(f"{number:016x}"), ("127.0.0.1",), 20000 + number)


@pytest.fixture(autouse=True)
def a_service_type_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests that run beside each other, and nodes that run beside the tests, do not see each other."""
    monkeypatch.setattr(discovery, "SERVICE_TYPE", f"_od-{secrets.token_hex(4)}._tcp.local.")


@asynccontextmanager
async def discovering(me: Sighting) -> AsyncIterator[tuple[Discovery, list[Sighting]]]:
    found: list[Sighting] = []
    running = Discovery(me, found.append, interfaces=["127.0.0.1"])
    await running.start()
    try:
        yield running, found
    finally:
        await running.stop()


def test_a_record_as_ours_is_read() -> None:
    assert read_record(RECORD, ["192.168.1.20", "fd00::2"], 11436) == Sighting(
        "9f2c41d0", NodeId("0123456789abcdef"), ("192.168.1.20", "fd00::2"), 11436
    )


@pytest.mark.parametrize(
    "change",
    [
        {b"v": b"2"},
        {b"v": None},
        {b"c": b"9f2c"},
        {b"c": b"\xff" * 8},
        {b"i": b"0123456789ABCDEF"},
        {b"p": b"11437"},
    ],
)
def test_a_record_that_is_not_as_ours_is_left_out(change: dict[bytes, bytes | None]) -> None:
    assert read_record({**RECORD, **change}, ["192.168.1.20"], 11436) is None


def test_addresses_nobody_can_connect_to_are_left_out() -> None:
    said = ["0.0.0.0", "224.0.0.251", "fe80::1", "no address", "10.0.0.1"]
    sighting = read_record(RECORD, said, 11436)
    assert sighting is not None
    assert sighting.addresses == ("10.0.0.1",)
    assert read_record(RECORD, said[:-1], 11436) is None


@given(
    properties=st.dictionaries(
        st.sampled_from([b"v", b"c", b"i", b"p", b"x"]), st.one_of(st.none(), st.binary(max_size=20))
    ),
    addresses=st.lists(st.one_of(st.text(max_size=20), st.ip_addresses().map(str)), max_size=20),
    port=st.one_of(st.none(), st.integers()),
)
def test_whatever_is_said_is_read_or_left_out(
    properties: dict[bytes, bytes | None], addresses: list[str], port: int | None
) -> None:
    sighting = read_record(properties, addresses, port)
    assert sighting is None or 0 < len(sighting.addresses) <= 8


def test_an_ipv6_address_is_put_in_brackets() -> None:
    assert join_host_port("fd00::2", 11436) == "[fd00::2]:11436"
    assert join_host_port("desk", 11436) == "desk:11436"


async def test_nodes_of_one_cluster_find_each_other() -> None:
    async with discovering(node(1)) as (_, first), discovering(node(2)) as (_, second):
        await until(lambda: node(2) in first and node(1) in second, what="both being found")
        assert node(1) not in first


async def test_a_node_that_starts_later_is_found() -> None:
    async with discovering(node(1)) as (_, first):
        async with discovering(node(2)):
            await until(lambda: node(2) in first, what="the second being found")
        async with discovering(node(3)):
            await until(lambda: node(3) in first, what="the third being found")


async def test_another_cluster_is_seen_and_not_tried() -> None:
    async with discovering(node(1)) as (ours, found), discovering(node(2, "abcdef01")):
        await until(lambda: bool(ours.seen_clusters), what="the other cluster being seen")
        seen = ours.seen_clusters[0]
        assert (seen.cluster_id, seen.addresses) == ("abcdef01", ("127.0.0.1:20002",))
        assert found == []


async def test_a_forger_of_clusters_does_not_fill_the_table() -> None:
    ours = Discovery(node(1), lambda sighting: None)
    for number in range(MAX_CLUSTERS + 10):
        ours._note(node(number, f"{number + 1:08x}"))
    assert len(ours.seen_clusters) == MAX_CLUSTERS


async def test_nodes_of_a_seen_cluster_are_listed_together() -> None:
    ours = Discovery(node(1), lambda sighting: None)
    for number in (2, 3, 2):
        ours._note(node(number, "abcdef01"))
    assert [seen.addresses for seen in ours.seen_clusters] == [("127.0.0.1:20002", "127.0.0.1:20003")]


async def test_where_multicast_cannot_be_had_nothing_is_found_and_nothing_breaks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(**how: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(discovery, "AsyncZeroconf", refuse)
    running = Discovery(node(1), lambda sighting: None)
    with capture_logs() as logs:
        await running.start()
    await running.stop()
    assert [line["event"] for line in logs] == ["mdns_unavailable"]
    assert running.seen_clusters == ()
