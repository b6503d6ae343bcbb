import asyncio
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ollama_dist.gossip import store as store_module
from ollama_dist.gossip.protocol.effects import Gone
from ollama_dist.gossip.store import MAX_GONE, MAX_PEERS, Memory, Store
from ollama_dist.sim.network import virtual_id
from tests.support.bench import signed

MEMORY = Memory(17, "9f2c41d0", ("10.0.0.1:11436", "[fd00::2]:11436"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "membership.json"


async def test_what_is_saved_is_loaded_after_a_restart(path: Path) -> None:
    await Store(path).save(MEMORY)
    assert Store(path).load() == MEMORY


def test_peers_of_another_cluster_are_of_no_use() -> None:
    assert MEMORY.peers_in("9f2c41d0") == MEMORY.peers
    assert MEMORY.peers_in("abcdef01") == ()


async def test_before_the_first_start_nothing_is_remembered(path: Path) -> None:
    assert Store(path).load() == Memory()


async def test_of_many_saves_at_once_the_newest_stays(path: Path) -> None:
    store = Store(path)
    await asyncio.gather(*(store.save(Memory(number)) for number in range(50)))
    assert store.load() == Memory(49)


async def test_a_failing_disk_is_said_once_and_lived_with(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(target: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    store = Store(path)
    with capture_logs() as logs, monkeypatch.context() as patched:
        patched.setattr(store_module, "write_private", full)
        await store.save(Memory(1))
        await store.save(Memory(2))
    assert [line["event"] for line in logs] == ["membership_not_saved"]
    assert store.problem == "No space left on device"
    await store.save(Memory(3))
    assert (store.problem, store.load()) == ("", Memory(3))


def test_peers_that_went_are_remembered_after_those_that_are_there() -> None:
    later = MEMORY.renewed(18, "9f2c41d0", ("10.0.0.9:11436",))
    assert later == Memory(18, "9f2c41d0", ("10.0.0.9:11436", *MEMORY.peers))
    assert later.renewed(18, "9f2c41d0", ()).peers == later.peers
    assert MEMORY.renewed(18, "abcdef01", ()).peers == ()


async def test_no_more_than_so_many_peers_are_remembered(path: Path) -> None:
    memory = Memory()
    for start in range(0, 2000, 100):
        memory = memory.renewed(1, "9f2c41d0", tuple(f"host{start + number}:1" for number in range(100)))
    assert len(memory.peers) == MAX_PEERS + MAX_GONE
    await Store(path).save(memory)
    assert Store(path).load() == memory


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"format":2,"generation":1}',
        b'{"format":1}',
        b'{"format":1,"generation":-1}',
        b"\xff",
    ],
)
def test_a_spoilt_file_is_as_none_and_that_is_said(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o600)
    with capture_logs() as logs:
        assert Store(path).load() == Memory()
    assert [line["event"] for line in logs] == ["membership_forgotten"]


@given(
    st.recursive(
        st.one_of(st.none(), st.integers(-9, 9), st.text(max_size=5), st.just("10.0.0.1:1")),
        lambda inner: st.lists(inner, max_size=4),
    )
)
def test_peers_that_make_no_sense_are_left_out(peers: object) -> None:
    memory = store_module._decode(orjson.dumps({"format": 1, "generation": 5, "peers": peers}))
    assert memory.generation == 5
    assert all(memory.peers)


GONE = Gone(signed(virtual_id("laptop")), False, 1e9, "did not answer a probe", True, {"node": b"laptop"})


async def test_who_is_gone_is_remembered_with_since_when_and_why(path: Path) -> None:
    memory = Memory(17, "9f2c41d0").renewed(18, "9f2c41d0", (), (GONE,))
    await Store(path).save(memory)
    assert Store(path).load() == memory
    assert memory.gone_from("9f2c41d0") == (GONE,)
    assert memory.gone_from("abcdef01") == ()


def test_of_the_gone_what_makes_no_sense_is_left_out(path: Path) -> None:
    wrong = [None, {}, {"claim": "?"}, {"claim": "", "state": {}, "left": 0, "since": "x", "reason": ""}]
    path.write_bytes(orjson.dumps({"format": 1, "generation": 3, "cluster": "9f2c41d0", "gone": wrong}))
    path.chmod(0o600)
    assert Store(path).load() == Memory(3, "9f2c41d0")
