import stat
from pathlib import Path

import pytest

from ollama_dist.core.errors import BadRequest, ConfigError, NotFound
from ollama_dist.core.scopes import Scope
from ollama_dist.node.client_keys import KEYS_MAX, USUAL, KeyFile, new_key, parse_scopes


def test_a_key_is_found_by_its_text_which_is_kept_nowhere(tmp_path: Path) -> None:
    path = tmp_path / "state" / "keys.json"
    key, text = new_key("phone")
    KeyFile(path).add(key)
    assert KeyFile(path).find(text.reveal()) == key
    assert KeyFile(path).find(text.reveal() + "x") is None
    assert KeyFile(path).find("") is None
    assert text.reveal() not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(text.reveal()) > 40


def test_two_keys_are_valid_beside_each_other_until_one_is_revoked(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    (old, old_text), (new, new_text) = new_key("old"), new_key("new")
    file.add(old)
    file.add(new)
    assert [file.find(text.reveal()) for text in (old_text, new_text)] == [old, new]
    file.revoke("old")
    assert [file.find(text.reveal()) for text in (old_text, new_text)] == [None, new]


def test_what_another_process_changed_is_noticed(tmp_path: Path) -> None:
    now = 0.0
    node = KeyFile(tmp_path / "keys.json", clock=lambda: now)
    assert node.keys() == ()
    key, text = new_key("phone")
    KeyFile(tmp_path / "keys.json").add(key)
    now = 1.0
    assert node.find(text.reveal()) == key


def test_names_are_taken_once_and_have_a_form(tmp_path: Path) -> None:
    file = KeyFile(tmp_path / "keys.json")
    file.add(new_key("phone")[0])
    with pytest.raises(BadRequest, match="'phone' already"):
        file.add(new_key("phone")[0])
    with pytest.raises(NotFound, match="no key is called 'tablet'"):
        file.revoke("tablet")
    for wrong in ("", " phone", "a\nb", "x" * 65):
        with pytest.raises(BadRequest, match="printable"):
            new_key(wrong)


def test_there_is_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ollama_dist.node.client_keys.KEYS_MAX", 2)
    file = KeyFile(tmp_path / "keys.json")
    file.add(new_key("one")[0])
    file.add(new_key("two")[0])
    with pytest.raises(BadRequest, match="revoke some"):
        file.add(new_key("three")[0])
    assert KEYS_MAX == 1000


def test_scopes_are_read_and_admin_cannot_be_granted() -> None:
    assert parse_scopes("chat, Models-Read") == USUAL
    with pytest.raises(BadRequest, match="'admin' is no scope of a key; known: chat, models-read"):
        parse_scopes("chat,admin")
    with pytest.raises(BadRequest, match="allow something"):
        new_key("phone", parse_scopes(","))
    assert new_key("phone", [Scope.METRICS, Scope.CHAT])[0].scopes == (Scope.CHAT, Scope.METRICS)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"schema": 2, "keys": []}', '{"schema": 1, "keys": [3]}']
)
def test_a_damaged_file_is_an_error_and_not_an_open_door(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        KeyFile(path).keys()
