"""What is said of the operations: the YAML files beside this, and the bodies that our own code reads."""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Final

import yaml
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from ollama_dist.api.asked import (
    FallbackChange,
    InviteRequest,
    JoinRequest,
    MaybeNode,
    MigrateRequest,
    ModeChange,
    NodeNamed,
    Nothing,
    PolicyRequest,
    RebalanceRequest,
    RotateRequest,
)

Json = dict[str, Any]

ASKED: Final[tuple[type[BaseModel], ...]] = (
    FallbackChange,
    InviteRequest,
    JoinRequest,
    MigrateRequest,
    ModeChange,
    NodeNamed,
    MaybeNode,
    Nothing,
    PolicyRequest,
    RebalanceRequest,
    RotateRequest,
)
"""Bodies of our own routes."""

_Loader: Final[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C where there is one: it is ten times as fast."""

_FILES: Final = ("ollama", "openai", "anthropic", "own")
_REFERENCE: Final = "#/components/schemas/{model}"


@dataclass(frozen=True)
class Words:
    """``operations`` by the key of their row, ``schemas`` by name, ``shared``: what all have in common."""

    operations: dict[str, Json]
    schemas: dict[str, Json]
    shared: Json


@cache
def words() -> Words:
    """All of it, read once."""
    shared = _read("shared")
    operations: dict[str, Json] = {}
    schemas: dict[str, Json] = {**shared["schemas"], **asked_schemas()}
    for name in _FILES:
        document = _read(name)
        operations |= document["operations"]
        schemas |= document["schemas"]
    return Words(operations, schemas, shared)


def asked_schemas() -> dict[str, Json]:
    """The schemas of `ASKED` by name, and those they refer to."""
    _, found = models_json_schema([(each, "validation") for each in ASKED], ref_template=_REFERENCE)
    return dict(found["$defs"])


def _read(name: str) -> Json:
    text = resources.files(__package__).joinpath(f"{name}.yaml").read_text(encoding="utf-8")
    document: Json = yaml.load(text, Loader=_Loader)  # noqa: S506 - both loaders are the safe one
    return document
