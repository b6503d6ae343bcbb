import json
from pathlib import Path

import pytest
import yaml

from ollama_dist.cli.failures import Exit
from ollama_dist.node.config import all_settings
from tests.unit.cli.conftest import Command


def test_each_setting_is_shown_with_its_origin(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_DIST_SLOTS", "4")
    monkeypatch.setenv("OLLAMA_ADMIN_TOKEN", "sesame")
    ended = cli("config", "show", "--origin", "--join", "desk:1")
    lines = {line.split()[0]: line for line in ended.out.splitlines()}
    assert set(lines) == {"SETTING", *(setting.key for setting in all_settings())}
    assert lines["slots"].split() == ["slots", "4", "environment", "OLLAMA_DIST_SLOTS"]
    assert lines["join"].split() == ["join", "desk:1", "flag", "--join"]
    assert lines["mdns"].split() == ["mdns", "true", "default"]
    assert "sesame" not in ended.out
    assert "ORIGIN" not in cli("config", "show").out


def test_programs_get_values_and_origins(cli: Command) -> None:
    body = json.loads(cli("config", "show", "--json", "--no-mdns").out)
    assert body["settings"]["mdns"] == {"value": "false", "origin": "flag --no-mdns"}


def test_the_written_file_changes_nothing_and_names_everything(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "made" / "node.yaml"
    assert cli("config", "init", "--config", str(file)).code == Exit.OK
    assert yaml.safe_load(file.read_text()) is None
    listed = {
        line[1:].partition(":")[0]
        for line in file.read_text().splitlines()
        if line.startswith("#") and line[1:2] != " "
    }
    assert listed == {setting.key for setting in all_settings() if setting.in_file}
    assert cli("config", "check", "--config", str(file)).out.startswith("no mistake found; 2 set")


def test_the_written_lines_say_the_defaults_when_they_are_uncommented(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    cli("config", "init", "--config", str(file))
    lines = [
        line[1:] if line.startswith("#") and line[1:2] != " " else line
        for line in file.read_text().splitlines()
    ]
    file.write_text("\n".join(lines))
    before = json.loads(cli("config", "show", "--json").out)["settings"]
    after = json.loads(cli("config", "show", "--json", "--config", str(file)).out)["settings"]
    assert {key: item["value"] for key, item in after.items() if key != "config"} == {
        key: item["value"] for key, item in before.items() if key != "config"
    }


def test_a_file_is_never_overwritten(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("name: desk\n")
    ended = cli("config", "init", "--config", str(file))
    assert ended.code == Exit.FAILED
    assert f"{file} exists already" in ended.err
    assert file.read_text() == "name: desk\n"


def test_a_mistake_is_found_with_its_line(cli: Command, tmp_path: Path) -> None:
    file = tmp_path / "node.yaml"
    file.write_text("name: desk\nlissten: x\n")
    ended = cli("config", "check", "--config", str(file))
    assert ended.code == Exit.USAGE
    assert f"{file}:2: 'lissten' is not a setting; did you mean 'listen'?" in ended.err
    assert json.loads(cli("config", "check", "--json").out)["ok"] is True


def test_a_folder_that_cannot_be_written_is_named(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = cli("config", "init", "--config", str(tmp_path / "file" / "node.yaml"))
    assert ended.code == Exit.FAILED
    assert "cannot be written" in ended.err
