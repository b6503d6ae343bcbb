"""The YAML file with settings: one mapping of names to values, each remembered with its line."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from ollama_dist.core.errors import ConfigError

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One line of the file, with variables already filled in."""

    key: str
    text: str
    place: str
    """``path:line``."""


def read_config_file(path: Path, environ: Mapping[str, str]) -> list[FileEntry]:
    """What the file says, in its order; a name without a value says nothing.

    ``${NAME}`` is replaced from ``environ``. Raises `ConfigError` when the file cannot be read, is no mapping
    of names to plain values or lists, names something twice, or refers to a variable that is not set.
    """
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{path}{line}: is not YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: is not YAML: {str(error).splitlines()[0]}") from error
    if root is None:
        return []
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{path}:1: must be lines of the form 'name: value'")
    return list(_entries(path, root, environ))


def _entries(path: Path, root: yaml.MappingNode, environ: Mapping[str, str]) -> Iterator[FileEntry]:
    seen: dict[str, int] = {}
    for key_node, value_node in root.value:
        line = key_node.start_mark.line + 1
        place = f"{path}:{line}"
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{place}: must be a line of the form 'name: value'")
        key = str(key_node.value)
        if key in seen:
            raise ConfigError(f"{place}: {key!r} is said a second time (first in line {seen[key]})")
        seen[key] = line
        text = _filled(_text(value_node, key, place), key, place, environ)
        if text and value_node.tag != "tag:yaml.org,2002:null":
            yield FileEntry(key, text, place)


def _text(node: yaml.Node, key: str, place: str) -> str:
    if isinstance(node, yaml.ScalarNode):
        return str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return ",".join(str(item.value) for item in node.value)
    raise ConfigError(f"{place}: {key!r} must be one value or a list of values")


def _filled(text: str, key: str, place: str, environ: Mapping[str, str]) -> str:
    def value_of(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise ConfigError(f"{place}: {key!r} needs ${{{match[1]}}}, which is not set")
        return environ[match[1]]

    return _VARIABLE.sub(value_of, text)
