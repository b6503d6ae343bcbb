"""From flags, environment, file and defaults to one `Settings`, remembering where each value came from."""

import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ollama_dist.core.errors import ConfigError
from ollama_dist.node.config import SLICES, Settings, all_settings
from ollama_dist.node.folders import config_folder, state_folder
from ollama_dist.node.setting import ENV_PREFIX, Origin, Setting, Source
from ollama_dist.node.setting_values import Listen, Secret, did_you_mean, nearest

NOT_SETTINGS: Final = frozenset({"OLLAMA_DIST_VENV"})
"""Variables of the development scripts, which share our prefix."""

_EXCLUSIVE: Final = (("cluster_key", "cluster_key_file"), ("admin_token", "admin_token_file"))


@dataclass(frozen=True, slots=True)
class Machine:
    """What the defaults depend on."""

    host_name: str
    state_dir: Path
    config_file: Path
    """Read when it exists and no other file is named."""
    folder: Path
    """Relative paths in flags and variables start here."""


@dataclass(frozen=True, slots=True)
class _Said:
    text: str
    origin: Origin
    folder: Path


def this_machine() -> Machine:
    return Machine(
        host_name=_usable_name(socket.gethostname()),
        state_dir=state_folder(),
        config_file=config_folder() / "config.yaml",
        folder=Path.cwd(),
    )


def load_settings(
    flags: Mapping[str, str], environ: Mapping[str, str], machine: Machine | None = None
) -> Settings:
    """The settings of a node. ``flags`` has the text of each flag that was given, by the setting's key.

    Flag over environment over file over default; an empty value counts as not set, as in Ollama. Raises
    `ConfigError`, one line that names the setting, the place, and what would do.
    """
    machine = machine or this_machine()
    said = dict(_from_environment(environ, machine.folder)) | dict(_from_flags(flags, machine.folder))
    file = _config_file(said, machine)
    if file is not None:
        said = dict(_from_file(file, environ)) | said
    for one, other in _EXCLUSIVE:
        if one in said and other in said:
            raise ConfigError(
                f"{one} ({said[one].origin}) and {other} ({said[other].origin}) are both set; keep one"
            )
    values = {
        setting.key: _value(setting, said[setting.key]) for setting in all_settings() if setting.key in said
    }
    values = {"name": machine.host_name, "state_dir": machine.state_dir, "config": file} | values
    return _assemble(values, {key: entry.origin for key, entry in said.items()})


def _from_flags(flags: Mapping[str, str], folder: Path) -> Iterator[tuple[str, _Said]]:
    by_key = {setting.key: setting for setting in all_settings()}
    for key, text in flags.items():
        setting = by_key[key]
        flag = f"--no-{setting.dashed}" if setting.is_switch and text == "false" else f"--{setting.dashed}"
        if text:
            yield key, _Said(text, Origin(Source.FLAG, flag), folder)


def _from_environment(environ: Mapping[str, str], folder: Path) -> Iterator[tuple[str, _Said]]:
    by_name = {setting.env: setting for setting in all_settings()}
    for name in environ:
        # Without the last underscore, so that a misspelt OLLAMA_DISTRIBUTED is caught as well.
        if name.startswith(ENV_PREFIX.rstrip("_")) and name not in by_name and name not in NOT_SETTINGS:
            raise ConfigError(f"{name} (environment) is not a setting{_meant(name, by_name)}")
    for name, setting in by_name.items():
        if environ.get(name):
            yield setting.key, _Said(environ[name], Origin(Source.ENVIRONMENT, name), folder)


def _meant(name: str, known: Iterable[str]) -> str:
    """The nearest variable; the prefix they all share says nothing about likeness."""
    tails = {variable.removeprefix(ENV_PREFIX): variable for variable in known}
    near = nearest(name.removeprefix(ENV_PREFIX), tails)
    return f"; did you mean {tails[near]!r}?" if near else ""


def _from_file(path: Path, environ: Mapping[str, str]) -> Iterator[tuple[str, _Said]]:
    from ollama_dist.node.config_file import read_config_file  # YAML is slow to import

    by_key = {setting.key: setting for setting in all_settings()}
    in_file = [key for key, setting in by_key.items() if setting.in_file]
    for entry in read_config_file(path, environ):
        if entry.key not in by_key:
            raise ConfigError(
                f"{entry.place}: {entry.key!r} is not a setting{did_you_mean(entry.key, in_file)}"
            )
        if entry.key not in in_file:
            raise ConfigError(
                f"{entry.place}: {entry.key!r} cannot be in a file; use {by_key[entry.key].env}"
            )
        yield entry.key, _Said(entry.text, Origin(Source.FILE, entry.place), path.parent)


def _config_file(said: Mapping[str, _Said], machine: Machine) -> Path | None:
    if "config" not in said:
        return machine.config_file if machine.config_file.is_file() else None
    return machine.folder / Path(said["config"].text).expanduser()


def _value(setting: Setting, said: _Said) -> Any:
    try:
        value = setting.parse(said.text)
    except ValueError as error:
        shown = "" if setting.secret else f" = {said.text[:80]!r}"
        raise ConfigError(f"{_placed(setting, said.origin)}{shown}: {error}") from error
    return said.folder / value if isinstance(value, Path) else value


def _placed(setting: Setting, origin: Origin) -> str:
    if origin.source is Source.FILE:
        return f"{origin.place}: {setting.key}"
    return f"{origin.place} ({origin.source})"


def _assemble(values: Mapping[str, Any], origins: Mapping[str, Origin]) -> Settings:
    parts: dict[str, dict[str, Any]] = {name: {} for name in ("", *SLICES)}
    for setting in all_settings():
        if setting.key in values:
            parts[setting.slice][setting.key] = values[setting.key]
    slices = {name: kind(**parts[name]) for name, kind in SLICES.items()}
    return Settings(**slices, **parts[""], origins=origins)


def as_text(value: Any) -> str:
    """A setting's value as a person would write it; a secret as a mask; nothing as an empty text."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():
            return ",".join(as_text(item) for item in value)
        case Secret():
            return "(set, not shown)"
        case Listen(search=True):
            return value.host
    return str(value)


def _usable_name(host_name: str) -> str:
    """The host name as a node's name: its first label, odd characters replaced."""
    label = re.sub(r"[^A-Za-z0-9_-]+", "-", host_name.partition(".")[0]).strip("-_")[:63]
    return label or "node"
