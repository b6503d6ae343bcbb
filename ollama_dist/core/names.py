"""Model names as Ollama reads them.

Grammar and defaults from Ollama's ``types/model/name.go``: ``[scheme://][host/][namespace/]model[:tag]``,
read from the right, compared without regard to case, stored as spelt.
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NewType

from ollama_dist.core.errors import BadRequest

DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"

TRANSFER_NAMESPACE: Final = "ollama-dist-"
"""Namespaces that begin so are of names a model has only while it is on its way into an engine."""

ModelKey = NewType("ModelKey", str)
"""The full name, casefolded: two spellings of one model have one key."""

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


class Source(StrEnum):
    """Where a name insists on being run (suffix ``:cloud`` or ``:local``, Ollama 0.17.6 and later)."""

    ANY = ""
    CLOUD = "cloud"
    LOCAL = "local"


class InvalidModelName(BadRequest):
    """The text is not a model name; its words are Ollama's."""

    code = "invalid_model_name"

    def __init__(self, message: str = "invalid model name") -> None:
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A complete name. Build it with `parse_model_name`; equality is by spelling, identity by `key`."""

    host: str
    namespace: str
    model: str
    tag: str

    @property
    def key(self) -> ModelKey:
        return ModelKey(f"{self.host}/{self.namespace}/{self.model}:{self.tag}".casefold())

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def short(self) -> str:
        """As Ollama lists it: defaults left out, the tag always there."""
        parts = [f"{self.model}:{self.tag}"]
        foreign_host = self.host.casefold() != DEFAULT_HOST
        if foreign_host or self.namespace.casefold() != DEFAULT_NAMESPACE:
            parts.insert(0, self.namespace)
        if foreign_host:
            parts.insert(0, self.host)
        return "/".join(parts)

    @property
    def is_transfer(self) -> bool:
        """Whether the model is only on its way: nobody but its mover is to see it."""
        return self.namespace.casefold().startswith(TRANSFER_NAMESPACE)


def parse_model_name(text: str) -> ModelName:
    """The installed name in ``text``, Ollama's defaults filled in; raises `InvalidModelName`."""
    rest, _, tag = text.rpartition(":") if text.rfind(":") > text.rfind("/") else (text, "", DEFAULT_TAG)
    rest, qualified, model = rest.rpartition("/")
    host, hosted, namespace = rest.rpartition("/")
    _, schemed, after_scheme = host.partition("://")
    name = ModelName(
        host=(after_scheme if schemed else host) if hosted else DEFAULT_HOST,
        namespace=namespace if qualified else DEFAULT_NAMESPACE,
        model=model,
        tag=tag,
    )
    if not (
        _HOST.fullmatch(name.host)
        and _NAMESPACE.fullmatch(name.namespace)
        and _PART.fullmatch(name.model)
        and _PART.fullmatch(name.tag)
    ):
        raise InvalidModelName
    return name


def parse_model_ref(text: str) -> tuple[ModelName, Source]:
    """The name a request asks for and where it insists on running; raises `InvalidModelName`.

    Ollama takes the suffixes ``:cloud``, ``-cloud`` (on a tag) and ``:local`` off a requested name before
    it reads the rest (``internal/modelref/modelref.go``); an installed name may really end that way.
    """
    text, source = _split_source(text.strip())
    if source and _split_source(text)[1]:
        raise InvalidModelName(f"use either :local or :cloud, not both: {text!r}")
    return parse_model_name(text), source


def model_key(text: str) -> ModelKey | None:
    """The key of the installed name ``text``, or None where it is not a model name."""
    try:
        return parse_model_name(text).key
    except InvalidModelName:
        return None


def _split_source(text: str) -> tuple[str, Source]:
    head, colon, tail = text.rpartition(":")
    lowered = tail.strip().lower()
    if not colon or "/" in tail:
        return text, Source.ANY
    if lowered in (Source.CLOUD, Source.LOCAL):
        return head, Source(lowered)
    if lowered.endswith("-cloud"):
        return f"{head}:{tail.strip()[: -len('-cloud')]}", Source.CLOUD
    return text, Source.ANY
