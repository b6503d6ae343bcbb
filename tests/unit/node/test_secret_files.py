import stat
from pathlib import Path

import pytest

from ollama_dist.core.errors import ConfigError
from ollama_dist.node.config import AdminSettings, ClusterSettings, NodeSettings, Settings
from ollama_dist.node.secret_files import (
    admin_token_file,
    cluster_key_file,
    find_admin_token,
    find_cluster_key,
    make_admin_token,
    read_secret,
    write_secret,
)
from ollama_dist.node.setting_values import Secret


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(node=NodeSettings(name="desk", state_dir=tmp_path))


def test_a_token_is_made_once_and_kept_for_its_owner(settings: Settings) -> None:
    assert find_admin_token(settings) is None
    token = make_admin_token(settings)
    assert len(token.reveal()) >= 43, "256 bits in base64"
    assert make_admin_token(settings) == token == find_admin_token(settings)
    assert stat.S_IMODE(admin_token_file(settings).stat().st_mode) == 0o600


def test_two_nodes_make_different_tokens(settings: Settings) -> None:
    first = make_admin_token(settings)
    admin_token_file(settings).unlink()
    assert make_admin_token(settings) != first


def test_a_token_that_was_set_is_used_and_not_written(tmp_path: Path) -> None:
    settings = Settings(
        node=NodeSettings("desk", tmp_path), admin=AdminSettings(admin_token=Secret("open sesame"))
    )
    assert make_admin_token(settings) == Secret("open sesame")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_secret_is_an_error_not_a_free_pass(settings: Settings) -> None:
    admin_token_file(settings).write_text(" \n")
    with pytest.raises(ConfigError, match=r"admin\.token is empty"):
        make_admin_token(settings)


def test_a_secret_is_one_word_so_that_it_cannot_forge_a_header(settings: Settings) -> None:
    admin_token_file(settings).write_text("sesame\r\nX-Admin: yes\n")
    with pytest.raises(ConfigError, match=r"admin\.token must be one word of plain characters"):
        find_admin_token(settings)


def test_the_cluster_key_comes_from_the_setting_else_from_its_file(tmp_path: Path) -> None:
    node = NodeSettings("desk", tmp_path)
    assert find_cluster_key(Settings(node=node)) is None
    write_secret(cluster_key_file(Settings(node=node)), Secret("odk1-kept"))
    assert find_cluster_key(Settings(node=node)) == Secret("odk1-kept")
    elsewhere = Settings(node=node, cluster=ClusterSettings(cluster_key_file=tmp_path / "other"))
    assert find_cluster_key(elsewhere) is None
    given = Settings(node=node, cluster=ClusterSettings(cluster_key=Secret("odk1-given")))
    assert find_cluster_key(given) == Secret("odk1-given")


def test_a_secret_that_cannot_be_read_or_written_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match="folder cannot be read: Is a directory"):
        read_secret(tmp_path / "folder")
    with pytest.raises(ConfigError, match=r"absent/x cannot be written: No such file"):
        write_secret(tmp_path / "absent" / "x", Secret("open sesame"))
