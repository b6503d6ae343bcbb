"""What a JSON object says at its upper levels, read in pieces cut anywhere and in bounded memory.

For answers that are too large to keep for a glance at their last fields: embeddings, contexts of a hundred
thousand tokens, whole texts. Nothing is validated beyond the balance of brackets and quotes.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Final

import orjson

MAX_DEPTH: Final = 5
"""Fields of objects nested deeper than this are passed over."""

MAX_FACTS: Final = 256
MAX_KEY_BYTES: Final = 64
KEPT_HEAD_BYTES: Final = 512
KEPT_TAIL_BYTES: Final = 2048
"""Of a longer string value its beginning and its end are kept."""

Fact = str | int | float | bool | None

CONTAINER: Final = "…"
"""The value told for a field that holds an array or an object."""


def is_container(value: object) -> bool:
    """Whether a field's value, as `Document.top` or `Outline.top` has it, is an array or an object."""
    return type(value) in (dict, list) or value == CONTAINER


_OPENING: Final = re.compile(rb"[{\[]")
_IN_ARRAY: Final = re.compile(rb'["{}\[\]]')
_IN_OBJECT: Final = re.compile(rb'["{}\[\],]|[^\s:]')
_STRING_BODY: Final = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)
_SCALAR_BODY: Final = re.compile(rb"[^\s,}\]]*")
_WHITE: Final = b" \t\r\n"


def outline_of(data: bytes) -> "Outline":
    """The outline of a value that is there in one piece: the fast way for the short ones."""
    outline = Outline()
    try:
        _tell_all(orjson.loads(data), "", 1, outline.facts)
        outline.is_whole = True
    except orjson.JSONDecodeError:
        outline.feed(data)
    return outline


def document_of(data: bytes) -> "Outline | Document":
    """What `outline_of` gives, for a moment: it holds the whole value, and is made at a fifth of the cost."""
    top = object_in(data)
    return outline_of(data) if top is None else Document(top)


def object_in(data: bytes) -> dict[str, Any] | None:
    """The object that ``data`` is; None where it is something else."""
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return None
    return value if type(value) is dict else None


class _Facts(ABC):
    """What is read of a value: facts by path."""

    __slots__ = ()

    @property
    @abstractmethod
    def facts(self) -> Mapping[str, Fact]: ...

    def fact(self, path: str) -> Fact:
        """What stands at ``path``; None where nothing does."""
        return self.facts.get(path)

    def text(self, path: str) -> str:
        """The string at ``path``, empty where there is none."""
        value = self.fact(path)
        return value if isinstance(value, str) else ""

    def number(self, path: str) -> float:
        """The number at ``path``, 0 where there is none."""
        value = self.fact(path)
        return value if isinstance(value, (int, float)) else 0


class Document(_Facts):
    """An object that is here as a whole; below its upper level it is only gone through when asked for."""

    __slots__ = ("_facts", "top")

    is_whole: Final = True

    def __init__(self, top: Mapping[str, Any]) -> None:
        self.top = top
        """Its fields. A value that is an array or an object stands there as it is; see `is_container`."""
        self._facts: dict[str, Fact] | None = None

    @property
    def facts(self) -> Mapping[str, Fact]:
        if self._facts is None:
            self._facts = {}
            _tell_all(self.top, "", 1, self._facts)
        return self._facts

    def fact(self, path: str) -> Fact:
        found = _fact(self.top, path)
        return None if found is _NOTHING else found


class Outline(_Facts):
    """Feed it a value; then `is_whole` tells whether it ended and `facts` what it says.

    Facts are keyed by path, ``usage.prompt_tokens``; arrays add nothing to a path and their later elements
    win, so ``choices.finish_reason`` is that of the last choice. Bytes before the first bracket are passed
    over.
    """

    __slots__ = (
        "_depth",
        "_escaped",
        "_facts",
        "_in_string",
        "_key",
        "_objects",
        "_paths",
        "_text",
        "is_whole",
    )

    def __init__(self) -> None:
        self._facts: dict[str, Fact] = {}
        self.is_whole = False
        """The brackets balance and nothing but white space followed."""
        self._paths: list[str] = []
        """The path of each open container down to `MAX_DEPTH`."""
        self._objects: list[bool] = []
        """Whether each of those is an object."""
        self._depth = 0
        self._key: str | None = None
        """The path of the field whose value comes next."""
        self._in_string = False
        self._escaped = False
        self._text: bytearray | None = None
        """What is being collected: a key, a string or a scalar; None inside a string nobody asks for."""

    def feed(self, data: bytes) -> None:
        pos = 0
        size = len(data)
        if self._escaped and size:
            self._take(data[:1])
            self._escaped = False
            pos = 1
        while pos < size:
            if self._in_string:
                pos = self._string(data, pos)
            elif self._text is not None:
                pos = self._scalar(data, pos)
            elif not self._depth:
                pos = self._outside(data, pos)
            else:
                pos = self._structure(data, pos)

    @property
    def facts(self) -> dict[str, Fact]:
        return self._facts

    @property
    def top(self) -> Mapping[str, Any]:
        """As `Document.top`, but with `CONTAINER` for every array and object."""
        return self._facts

    def _outside(self, data: bytes, pos: int) -> int:
        if self._paths or self.is_whole:  # the value is over: only white space may follow
            self.is_whole = self.is_whole and not data[pos:].strip(_WHITE)
            return len(data)
        opening = _OPENING.search(data, pos)
        if opening is None:
            return len(data)
        self._open(opening[0] == b"{")
        return opening.end()

    def _structure(self, data: bytes, pos: int) -> int:
        in_object = self._depth <= MAX_DEPTH and self._objects[-1]
        token = (_IN_OBJECT if in_object else _IN_ARRAY).search(data, pos)
        if token is None:
            return len(data)
        match token[0]:
            case b'"':
                self._in_string = True
                self._text = bytearray() if in_object else None
            case b"{" | b"[":
                self._open(token[0] == b"{")
            case b"}" | b"]":
                self._close()
            case b",":
                self._key = None
            case _ if self._key is not None:
                self._text = bytearray()
                return token.start()
        return token.end()

    def _open(self, is_object: bool) -> None:
        self._depth += 1
        path = self._key or (self._paths[-1] if self._paths else "")
        self._tell(CONTAINER)
        if self._depth <= MAX_DEPTH:
            self._paths.append(path)
            self._objects.append(is_object)

    def _close(self) -> None:
        if self._depth <= MAX_DEPTH:
            self._paths.pop()
            self._objects.pop()
        self._depth -= 1
        self._key = None
        self.is_whole = not self._depth

    def _string(self, data: bytes, pos: int) -> int:
        body = _STRING_BODY.match(data, pos)
        assert body is not None
        end = body.end()
        self._take(data[pos:end])
        if end == len(data):
            return end
        if data[end] == ord("\\"):  # its partner is in the next piece
            self._take(b"\\")
            self._escaped = True
            return end + 1
        self._in_string = False
        if self._text is not None:
            text, self._text = _decoded(self._text), None
            if self._key is not None:
                self._tell(text)
            elif len(text) <= MAX_KEY_BYTES:
                self._key = f"{self._paths[-1]}.{text}" if self._paths[-1] else text
        return end + 1

    def _scalar(self, data: bytes, pos: int) -> int:
        body = _SCALAR_BODY.match(data, pos)
        assert body is not None
        self._take(body[0])
        if body.end() < len(data):
            assert self._text is not None
            text, self._text = bytes(self._text), None
            try:
                self._tell(orjson.loads(text))
            except orjson.JSONDecodeError:
                self._key = None
        return body.end()

    def _take(self, piece: bytes) -> None:
        if self._text is not None:
            self._text += piece
            if len(self._text) > KEPT_HEAD_BYTES + 2 * KEPT_TAIL_BYTES:
                del self._text[KEPT_HEAD_BYTES:-KEPT_TAIL_BYTES]

    def _tell(self, value: Fact) -> None:
        if self._key is not None and (self._key in self._facts or len(self._facts) < MAX_FACTS):
            self._facts[self._key] = value
        self._key = None


def _decoded(text: bytearray) -> str:
    try:
        value = orjson.loads(b'"' + text + b'"')
    except (
        orjson.JSONDecodeError
    ):  # an escape was cut where the middle was dropped, or the bytes are not UTF-8
        return text.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


_NOTHING: Final[Any] = object()


def _fact(value: Any, path: str) -> Any:
    """What `_tell_all` would tell of ``path``, or `_NOTHING`."""
    if type(value) is dict:
        name, _, below = path.partition(".")
        inner = value.get(name, _NOTHING)
        if below:
            return _fact(inner, below)
        return CONTAINER if is_container(inner) else inner
    if type(value) is list and value and type(value[0]) in (dict, list):
        for item in reversed(value):
            if (found := _fact(item, path)) is not _NOTHING:
                return found
    return _NOTHING


def _tell_all(value: Any, path: str, depth: int, facts: dict[str, Fact]) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            if len(name) > MAX_KEY_BYTES or len(facts) >= MAX_FACTS:
                continue
            below = f"{path}.{name}" if path else name
            if not isinstance(inner, (dict, list)):
                facts[below] = inner
                continue
            facts[below] = CONTAINER
            if depth < MAX_DEPTH:
                _tell_all(inner, below, depth + 1, facts)
    elif isinstance(value, list) and value and isinstance(value[0], (dict, list)) and depth < MAX_DEPTH:
        for item in value:
            _tell_all(item, path, depth + 1, facts)
