"""JSON read into typed structs as Go reads it, with Go's complaint about the first value of a wrong type.

A struct is data (see `ollama_dist.wire.structs`). Values are checked, not converted: what comes out is the
JSON value under the field's own name. Source: Go's ``encoding/json/decode.go`` (``UnmarshalTypeError``,
``saveError``).
"""

import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire import gojson


class WrongType(BadRequest):
    """A value of a type its field cannot take. The message is Go's."""

    code = "wrong_type"


@dataclass(frozen=True, slots=True)
class Type:
    """What a field takes. ``go`` is the type's name in Go's messages; an empty ``accepts`` takes anything."""

    go: str
    accepts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Slice:
    """An array of ``element``."""

    element: "FieldType"
    go: str


@dataclass(frozen=True, slots=True)
class Custom:
    """A type that reads itself (``UnmarshalJSON``): ``check`` raises `BadRequest`, which ends the reading."""

    check: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Struct:
    """An object with known fields; others are ignored."""

    name: str
    fields: Mapping[str, "FieldType"]
    package: str = "api"
    reads_itself: bool = False
    """Its errors are told in the name of the struct around it, and end the reading."""
    by_fold: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_fold", {gojson.fold(name): name for name in self.fields})

    @property
    def go(self) -> str:
        return f"{self.package}.{self.name}"


FieldType = Type | Slice | Custom | Struct

STRING: Final = Type("string", ("string",))
BOOL: Final = Type("bool", ("bool",))
INT: Final = Type("int", ("number",))
FLOAT32: Final = Type("float32", ("number",))
FLOAT64: Final = Type("float64", ("number",))
ANY: Final = Type("interface {}")
STRING_MAP: Final = Type("map[string]string", ("object",))
MAP: Final = Type("map[string]interface {}", ("object",))
STRINGS: Final = Slice(STRING, "[]string")
BASE64: Final = Type("api.ImageData", ("string",))


def decode(data: bytes, struct: Struct) -> dict[str, Any]:
    """The fields of ``struct`` that ``data`` sets, by their own names; ``null`` sets nothing.

    Raises `gojson.EmptyBody`, `gojson.MalformedJson`, `WrongType`, or what a `Custom` field raises.
    """
    value = gojson.loads(data)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise WrongType(f"json: cannot unmarshal {gojson.kind(value)} into Go value of type {struct.go}")
    if any(gojson.fold(name) in struct.by_fold for name in value.keys() - struct.fields.keys()):
        value = gojson.read_object(data)
    reading = _Reading()
    result = reading.struct(value, struct, _Place(struct.name))
    if reading.first is not None:
        raise reading.first
    return result


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a value stands, as Go's messages tell it."""

    struct: str
    path: tuple[str, ...] = ()
    in_self_reading: bool = False

    def field(self, name: str, struct: Struct) -> "_Place":
        inside = self.in_self_reading or struct.reads_itself
        return _Place(self.struct if inside else struct.name, (*self.path, name), inside)


class _Reading:
    """One decoding: wrong types are remembered and reading goes on, for a self-reading type may overrule."""

    def __init__(self) -> None:
        self.first: WrongType | None = None

    def struct(self, value: dict[str, Any], struct: Struct, place: _Place) -> dict[str, Any]:
        result = {}
        for name, inner in value.items():
            known = name if name in struct.fields else struct.by_fold.get(gojson.fold(name))
            if known is not None and inner is not None:
                result[known] = self.value(inner, struct.fields[known], place.field(known, struct))
        return result

    def value(self, value: Any, wanted: FieldType, place: _Place) -> Any:
        match wanted:
            case Custom(check):
                check(value)
            case Slice(element) if isinstance(value, list):
                return [None if item is None else self.value(item, element, place) for item in value]
            case Struct() if isinstance(value, dict):
                return self.struct(value, wanted, place)
            case Type(accepts=accepts) if not accepts or gojson.kind(value) in accepts:
                self.check_content(value, wanted, place)
            case Struct(reads_itself=True):
                self.complain(_mismatch(gojson.kind(value), f"{wanted.package}.Alias", place), fatal=True)
            case _:
                self.complain(_mismatch(gojson.kind(value), wanted.go, place), fatal=place.in_self_reading)
        return value

    def check_content(self, value: Any, wanted: Type, place: _Place) -> None:
        if wanted is INT and isinstance(value, float):
            complaint = _mismatch(f"number {value!r}", wanted.go, place)
            self.complain(complaint, fatal=place.in_self_reading)
        elif wanted is STRING_MAP:
            for inner in value.values():
                if inner is not None:
                    self.value(inner, STRING, place)
        elif wanted is BASE64 and (at := _base64_fault(value)) is not None:
            self.complain(f"illegal base64 data at input byte {at}", fatal=place.in_self_reading)

    def complain(self, message: str, *, fatal: bool) -> None:
        error = WrongType(message)
        if fatal:
            raise error
        self.first = self.first or error


def _mismatch(found: str, go: str, place: _Place) -> str:
    where = f"Go struct field {place.struct}.{'.'.join(place.path)}"
    return f"json: cannot unmarshal {found} into {where} of type {go}"


def _base64_fault(text: str) -> int | None:
    """Where Go's ``base64.StdEncoding`` stops reading, or None."""
    try:
        binascii.a2b_base64(text, strict_mode=True)
    except (binascii.Error, ValueError):
        text = re.sub(r"[\r\n]", "", text)
        stray = re.search(r"[^A-Za-z0-9+/]", text)
        if stray is None:
            return len(text) - len(text) % 4 if len(text) % 4 else None
        return None if re.fullmatch(r"=|==", text[stray.start() :]) and len(text) % 4 == 0 else stray.start()
    return None
