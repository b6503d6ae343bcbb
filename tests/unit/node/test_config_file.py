from pathlib import Path

import pytest

from ollama_dist.core.errors import ConfigError
from ollama_dist.node.config_file import FileEntry, read_config_file


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config.yaml"


def test_each_value_remembers_its_line(file: Path) -> None:
    file.write_text("# ours\nname: desk\n\njoin:\n  - a:1\n  - b:2\nslots: 4\nmdns: no\n")
    assert read_config_file(file, {}) == [
        FileEntry("name", "desk", f"{file}:2"),
        FileEntry("join", "a:1,b:2", f"{file}:4"),
        FileEntry("slots", "4", f"{file}:7"),
        FileEntry("mdns", "no", f"{file}:8"),
    ]


def test_a_file_without_content_says_nothing(file: Path) -> None:
    file.write_text("# name: desk\n")
    assert read_config_file(file, {}) == []


def test_a_name_without_a_value_says_nothing(file: Path) -> None:
    file.write_text("name:\nlisten: ''\njoin: []\nslots: ~\n")
    assert read_config_file(file, {}) == []


def test_variables_are_filled_in(file: Path) -> None:
    file.write_text("name: ${ROOM}-${KIND}\njoin: ['${SEED}:1', b:2]\nollama_bin: $HOME/x\n")
    entries = read_config_file(file, {"ROOM": "attic", "KIND": "gpu", "SEED": "desk"})
    assert [entry.text for entry in entries] == ["attic-gpu", "desk:1,b:2", "$HOME/x"]


def test_a_variable_that_is_not_set_is_named_with_its_line(file: Path) -> None:
    file.write_text("slots: 1\nname: ${ROOM}\n")
    with pytest.raises(ConfigError, match=rf"{file}:2: 'name' needs \$\{{ROOM\}}, which is not set"):
        read_config_file(file, {})


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("name: a\nname: b\n", r":2: 'name' is said a second time \(first in line 1\)"),
        ("- name\n", ":1: must be lines of the form"),
        ("engine:\n  kind: none\n", ":1: 'engine' must be one value or a list"),
        ("join: [[a]]\n", ":1: 'join' must be one value or a list"),
        ("? [a]\n: b\n", ":1: must be a line of the form"),
        ("name: a\n  listen: b\n", ":2: is not YAML: "),
        ("name: 'a\n", ": is not YAML: "),
        ("name: \x07\n", ": is not YAML: "),
    ],
)
def test_what_is_wrong_is_said_with_its_line(file: Path, text: str, complaint: str) -> None:
    file.write_text(text)
    with pytest.raises(ConfigError, match=complaint) as caught:
        read_config_file(file, {})
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file"):
        read_config_file(tmp_path / "absent.yaml", {})
    (tmp_path / "latin.yaml").write_bytes(b"name: b\xfcro\n")
    with pytest.raises(ConfigError, match=r"latin\.yaml: is not UTF-8"):
        read_config_file(tmp_path / "latin.yaml", {})
