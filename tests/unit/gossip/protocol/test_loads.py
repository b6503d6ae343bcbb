"""How fast what a member says of its load reaches the others."""

from ollama_dist.gossip.protocol.config import LAN
from ollama_dist.sim.network import VirtualNetwork, VirtualNode


def _has_heard(reader: VirtualNode, writer: VirtualNode, data: bytes) -> bool:
    return reader.view_of(writer).hot == data


def _settled_pair() -> tuple[VirtualNetwork, VirtualNode, VirtualNode]:
    network = VirtualNetwork(seed=7)
    writer, reader = network.cluster(2)
    network.run_until(network.agrees, within=5)
    return network, writer, reader


def test_a_load_that_changes_after_a_quiet_time_is_told_at_once() -> None:
    network, writer, reader = _settled_pair()
    network.do(writer, writer.core.set_load(network.now, b"idle"))
    network.run_until(lambda: _has_heard(reader, writer, b"idle"), within=3)
    network.run(5)

    network.do(writer, writer.core.set_load(network.now, b"busy"))

    assert network.run_until(lambda: _has_heard(reader, writer, b"busy"), within=60) < 2


def test_a_load_that_changes_all_the_time_is_told_no_faster_than_the_pace() -> None:
    network, writer, reader = _settled_pair()
    versions = set()
    for step in range(200):
        network.do(writer, writer.core.set_load(network.now, b"%d" % step))
        network.run(0.02)
        versions.add(reader.view_of(writer).hot_version)

    assert 2 <= len(versions) <= 4.0 / LAN.hot_interval + 2
    network.run(2)
    assert _has_heard(reader, writer, b"199")


def test_a_load_that_returns_to_what_was_told_is_not_told_again_in_between() -> None:
    network, writer, reader = _settled_pair()
    network.do(writer, writer.core.set_load(network.now, b"idle"))
    network.run_until(lambda: _has_heard(reader, writer, b"idle"), within=3)
    version = reader.view_of(writer).hot_version

    network.do(writer, writer.core.set_load(network.now, b"busy"))
    network.do(writer, writer.core.set_load(network.now, b"idle"))
    network.run(5)

    assert reader.view_of(writer).hot == b"idle"
    assert reader.view_of(writer).hot_version <= version + 1


def test_an_unchanged_load_is_told_again_so_that_its_age_says_something() -> None:
    network, writer, reader = _settled_pair()
    network.do(writer, writer.core.set_load(network.now, b"idle"))
    network.run_until(lambda: _has_heard(reader, writer, b"idle"), within=3)
    version = reader.view_of(writer).hot_version

    network.run(2 * LAN.hot_refresh)

    assert reader.view_of(writer).hot_version > version
