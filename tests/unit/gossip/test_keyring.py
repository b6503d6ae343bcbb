import time
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.keyring import OVERLAP_MAX_S, Keyring, KeyringFile
from ollama_dist.gossip.keys import ClusterKey
from tests.support.members import KEY, OTHER_KEY

NEW = KEY.successor()
ONLY = frozenset([NodeId("a" * 16)])


@pytest.fixture
def file(tmp_path: Path) -> KeyringFile:
    return KeyringFile(tmp_path / "rotation.json")


def _in_the_middle(lasts_s: float = 600.0) -> Keyring:
    return Keyring(KEY).with_successor(NEW, lasts_s=lasts_s, grace_s=5.0, only=ONLY, by="desk")


def test_without_a_file_there_is_the_key_alone(file: KeyringFile) -> None:
    assert file.load(KEY) == Keyring(KEY)


def test_a_restart_in_the_middle_goes_on(file: KeyringFile) -> None:
    ring = _in_the_middle()
    file.save(ring)
    assert file.load(NEW) == ring
    assert file.load(KEY) == ring  # the key that was set from outside has been replaced since


@pytest.mark.parametrize("base", [OTHER_KEY, NEW.successor(), ClusterKey("9f2c41d0", 3, bytes(32))])
def test_a_key_of_another_cluster_or_a_later_one_wins(file: KeyringFile, base: ClusterKey) -> None:
    file.save(_in_the_middle())
    assert file.load(base) == Keyring(base)


def test_when_time_is_up_the_old_key_is_not_loaded(file: KeyringFile) -> None:
    file.save(_in_the_middle(lasts_s=0.0))
    loaded = file.load(NEW)
    assert (loaded.current, loaded.previous) == (NEW, None)


def test_no_clock_makes_an_overlap_longer() -> None:
    ring = _in_the_middle(lasts_s=10 * OVERLAP_MAX_S)
    assert 0 < ring.left_s() <= OVERLAP_MAX_S
    assert replace(ring, until=time.time() + 10 * OVERLAP_MAX_S).left_s() == OVERLAP_MAX_S
    assert replace(ring, until=0.0).left_s() == 0.0


def test_of_two_successors_made_at_once_the_key_before_both_stays_valid() -> None:
    ring = _in_the_middle()
    other = ring.with_successor(KEY.successor(), lasts_s=60.0)
    assert other.previous == KEY
    assert ring.with_successor(NEW.successor(), lasts_s=60.0).previous == NEW


def test_what_cannot_be_read_is_said_and_ignored(tmp_path: Path) -> None:
    path = tmp_path / "rotation.json"
    for content in (b"{", b"[]", b'{"current": "odk1-x"}'):
        path.write_bytes(content)
        path.chmod(0o600)
        with capture_logs() as logs:
            assert KeyringFile(path).load(KEY) == Keyring(KEY)
        assert [line["event"] for line in logs] == ["rotation_forgotten"]
