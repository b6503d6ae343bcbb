"""One setting: what a person needs to know of it, how its text is read, and where its value came from."""

from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, replace
from enum import StrEnum
from typing import Any, Final

from ollama_dist.node.setting_values import parse_bool

ENV_PREFIX: Final = "OLLAMA_DIST_"


class Source(StrEnum):
    """Where a value came from, the stronger first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where the value in use came from."""

    source: Source
    place: str = ""
    """The flag, the variable, or ``path:line``."""

    def __str__(self) -> str:
        return f"{self.source} {self.place}".rstrip()


@dataclass(frozen=True, slots=True)
class Setting:
    """What a person needs to know of one setting, and how its text is read."""

    meaning: str
    parse: Callable[[str], Any]
    unit: str = ""
    default_text: str = ""
    """What the default is, where the value itself does not tell."""
    env: str = ""
    has_flag: bool = True
    in_file: bool = True
    secret: bool = False
    restart_only: bool = True
    """False for what a running node could take over without a restart."""
    key: str = ""
    """Of the YAML file: the name of the field."""
    slice: str = ""
    """The field of `Settings` that holds it; empty for one of its own."""
    default: Any = None
    """None also where the machine decides."""

    @property
    def flag(self) -> str | None:
        """The flag; one that is true by default is written as its opposite."""
        if not self.has_flag:
            return None
        return f"--no-{self.dashed}" if self.default is True else f"--{self.dashed}"

    @property
    def dashed(self) -> str:
        return self.key.replace("_", "-")

    @property
    def is_switch(self) -> bool:
        return self.parse is parse_bool


def about(meaning: str, parse: Callable[[str], Any], **more: Any) -> dict[str, Setting]:
    """The metadata of a field that is a setting."""
    return {"setting": Setting(meaning, parse, **more)}


def described(item: Field[Any], slice_name: str) -> Setting:
    """The setting that a field is, with what the field itself tells: key, variable and default."""
    setting: Setting = item.metadata["setting"]
    return replace(
        setting,
        key=item.name,
        env=setting.env or ENV_PREFIX + item.name.upper(),
        slice=slice_name,
        default=None if item.default is MISSING else item.default,
    )
