from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.errors import ConfigError
from ollama_dist.gossip.keys import (
    ClusterKey,
    is_cluster_id,
    keep_cluster_key,
    load_cluster_key,
    load_or_make_cluster_key,
    new_cluster_key,
)

KEY = ClusterKey("9f2c41d0", 1, bytes(range(32)))


def test_a_key_is_written_as_the_form_says() -> None:
    assert KEY.text == f"odk1-9f2c41d0-1-{bytes(range(32)).hex()}-{KEY.text[-8:]}"
    assert ClusterKey.parse(KEY.text) == KEY


def test_keys_that_are_made_differ_and_can_be_read() -> None:
    one, other = ClusterKey.parse(new_cluster_key()), ClusterKey.parse(new_cluster_key())
    assert one.secret != other.secret
    assert one.cluster_id != other.cluster_id
    assert is_cluster_id(one.cluster_id)
    assert one.epoch == 1


def test_space_around_a_key_and_capitals_do_no_harm() -> None:
    assert ClusterKey.parse(f"  {KEY.text.upper()}\n") == KEY


def test_printing_a_key_does_not_show_its_secret() -> None:
    assert KEY.secret.hex() not in repr(KEY)
    assert repr(KEY.secret) not in repr(KEY)


@given(place=st.integers(0, len(KEY.text) - 1), typed=st.characters(codec="ascii"))
def test_every_single_mistyped_character_is_noticed(place: int, typed: str) -> None:
    if typed.lower() == KEY.text[place]:
        return
    with pytest.raises(ConfigError):
        ClusterKey.parse(KEY.text[:place] + typed + KEY.text[place + 1 :])


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no cluster key"),
        ("correct horse battery staple", "no cluster key"),
        ("odk1-9f2c41d0-1-00ff", "cut short"),
        (KEY.text[:-1], "cut short"),
        (KEY.text[:-1] + ("0" if KEY.text[-1] != "0" else "1"), "mistyped"),
    ],
)
def test_what_is_no_key_is_refused_with_the_reason_and_not_repeated(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason) as caught:
        ClusterKey.parse(text)
    assert not text or text not in str(caught.value)


def test_every_member_derives_the_same_authority() -> None:
    mine, yours = KEY.authority(), ClusterKey.parse(KEY.text).authority()
    assert mine.fingerprint == yours.fingerprint
    assert mine.certificate.subject == yours.certificate.subject
    mine.certificate.verify_directly_issued_by(yours.certificate)


def test_another_epoch_cluster_or_secret_is_another_authority() -> None:
    others = [
        ClusterKey("9f2c41d0", 2, KEY.secret),
        ClusterKey("9f2c41d1", 1, KEY.secret),
        ClusterKey("9f2c41d0", 1, bytes(32)),
    ]
    prints = {key.authority().fingerprint for key in (KEY, *others)}
    assert len(prints) == 4


def test_the_first_start_makes_a_key_and_the_next_one_finds_it(tmp_path: Path) -> None:
    path = tmp_path / "state" / "cluster.key"
    made = load_or_make_cluster_key(path)
    assert load_or_make_cluster_key(path) == made
    assert load_cluster_key(path) == made
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_kept_key_is_the_one_that_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    assert load_cluster_key(path) is None
    keep_cluster_key(path, KEY)
    assert load_or_make_cluster_key(path) == KEY


def test_a_broken_key_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    path.write_text("hello")
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"cluster\.key: that is no cluster key"):
        load_or_make_cluster_key(path)
