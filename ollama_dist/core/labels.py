"""What an operator says of a node for requests to choose by: ``gpu=yes``, ``room=office``. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

PIN_PREFIX: Final = "label:"
"""Before labels where a node's name could stand, which has no colon."""

LABELS_MAX: Final = 16

_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_LABEL: Final = re.compile(rf"({_NAME})=({_NAME})")
_WANTED: Final = re.compile(rf"({_NAME})(?:=({_NAME}))?")


@dataclass(frozen=True, slots=True)
class Label:
    name: str
    value: str

    @classmethod
    def parse(cls, text: str) -> "Label":
        """Raises `ValueError`."""
        match = _LABEL.fullmatch(text.strip())
        if match is None:
            raise ValueError("must be NAME=VALUE of letters, digits, dots, dashes or underscores")
        return cls(match[1], match[2])

    def __str__(self) -> str:
        return f"{self.name}={self.value}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Labels a node must have to be asked; a value of None stands for any."""

    labels: tuple[tuple[str, str | None], ...]

    @classmethod
    def parse(cls, pin: str) -> "Wanted":
        """Of ``label:gpu=yes,room``. Raises `ValueError`."""
        found = [_WANTED.fullmatch(part.strip()) for part in pin.removeprefix(PIN_PREFIX).split(",")]
        if any(match is None for match in found):
            raise ValueError("after label: there must be NAME=VALUE or NAME, separated by commas")
        return cls(tuple((match[1], match[2]) for match in found if match is not None))

    def missing_of(self, labels: Mapping[str, str]) -> str:
        """The first label that is wanted and not there, as it was written; empty when all are."""
        for name, value in self.labels:
            if name not in labels or value not in (None, labels[name]):
                return name if value is None else f"{name}={value}"
        return ""

    def __str__(self) -> str:
        return ",".join(name if value is None else f"{name}={value}" for name, value in self.labels)
