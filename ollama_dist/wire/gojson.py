"""JSON as Go's ``encoding/json`` reads and prints it, down to its words about what is wrong.

Ollama decodes every request with it, so this decides what a body means: the first value counts and the bytes
after it do not, invalid UTF-8 and lone surrogates become U+FFFD, field names match without regard to case and
the last of several wins. Source: Go's ``encoding/json`` (``scanner.go``, ``stream.go``, ``decode.go``,
``encode.go``).
"""

import json
import re
from typing import Any, Final

import orjson

from ollama_dist.core.errors import BadRequest

MAX_TOKENS_TO_FAULT: Final = 200_000
"""How far into a malformed body the fault is looked for, in JSON tokens (about 0.1 s)."""


class MalformedJson(BadRequest):
    """The bytes are no JSON. The message is Go's."""

    code = "malformed_json"


class EmptyBody(MalformedJson):
    """There is no value at all (Go's ``io.EOF``): each dialect has its own words for this."""

    def __init__(self) -> None:
        super().__init__("EOF")


def loads(data: bytes) -> Any:
    """The first JSON value in ``data``. Raises `MalformedJson`, for nothing but white space `EmptyBody`.

    Objects keep the order of their keys; of equal keys the last value counts. Nesting beyond what the
    interpreter can follow (about a thousand levels; Go allows ten thousand) is refused in Go's words.
    """
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return _decode(data, _PLAIN)


def read_object(data: bytes) -> dict[str, Any]:
    """The object in ``data`` with its field names folded to lower case, the last of several winning.

    ``null`` is an object without fields. Raises `MalformedJson`, also when the value is no object.
    """
    value = loads(data)
    if type(value) is not dict:
        if value is None:
            return {}
        raise MalformedJson(f"json: cannot unmarshal {kind(value)} into an object")
    names = "".join(value)
    if names.isascii() and names == names.lower():
        return value
    folded = [fold(name) for name in value]
    if len(set(folded)) == len(folded):
        return dict(zip(folded, value.values(), strict=True))
    spelt = _decode(data, _PAIRS)  # two spellings of one field: their order in the bytes decides
    return {fold(name): inner for name, inner in spelt.pairs}


def fold(name: str) -> str:
    """The field name ``name`` as Go compares it: simple Unicode folding, for ASCII lower case."""
    return name.lower().replace("\u017f", "s")


def kind(value: object) -> str:
    """What Go calls a JSON value of this type in its messages."""
    match value:
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
        case dict():
            return "object"
    return "array"


def encode(value: Any) -> bytes:
    """``value`` as Go's ``json.Marshal`` prints it: compact, keys in order, HTML and U+2028/9 escaped.

    Numbers that are whole print without a fraction, as Go's ``float64`` does.
    """
    text = orjson.dumps(_with_go_floats(value))
    for char, escaped in _ESCAPED:
        if char in text:
            text = text.replace(char, escaped)
    return text


def encode_line(value: Any) -> bytes:
    """One record of a newline-delimited stream."""
    return encode(value) + b"\n"


_ESCAPED: Final = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


def _with_go_floats(value: Any) -> Any:
    match value:
        case float():
            return orjson.Fragment(_go_float(value))
        case dict():
            return {name: _with_go_floats(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_with_go_floats(inner) for inner in value]
    return value


def _go_float(number: float) -> bytes:
    """``encode.go`` (floatEncoder): plain digits between 1e-6 and 1e21, an exponent of few digits beyond."""
    size = abs(number)
    if size and not 1e-6 <= size < 1e21:
        return re.sub(r"e([+-])0(\d)$", r"e\1\2", repr(number)).encode()
    if number == int(number):
        return f"{'-' if repr(number)[0] == '-' else ''}{int(size)}".encode()
    text = repr(number)
    return (f"{number:.{_decimals(text)}f}" if "e" in text else text).encode()


def _decimals(text: str) -> int:
    digits, _, exponent = text.partition("e")
    return len(digits.partition(".")[2]) - int(exponent)


# Reading what orjson does not take: slower, still at the speed of the standard library's C scanner


def _no_constant(name: str) -> Any:
    raise ValueError(name)  # NaN and Infinity are not JSON


class _Object(dict[str, Any]):
    """An object that remembers every pair it was written with."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


_PLAIN: Final = json.JSONDecoder(parse_constant=_no_constant)
_PAIRS: Final = json.JSONDecoder(parse_constant=_no_constant, object_pairs_hook=_Object)

_LONE_SURROGATE: Final = re.compile(
    r"((?<!\\)(?:\\\\)*)\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)
_SPACES: Final = re.compile(r"[ \t\r\n]*")
_INVALID_BYTE: Final = re.compile("[\udc80-\udcff]")


def _decode(data: bytes, decoder: json.JSONDecoder) -> Any:
    text = data.decode("utf-8", "surrogateescape")
    if not text.isascii():
        text = _INVALID_BYTE.sub("\ufffd", text)
    if "\\ud" in text or "\\uD" in text:
        text = _LONE_SURROGATE.sub(r"\1\\ufffd", text)
    begin = _SPACES.match(text)
    assert begin is not None
    if begin.end() == len(text):
        raise EmptyBody
    try:
        value = decoder.raw_decode(text, begin.end())[0]
        if kind(value) == "number":
            _scan(data)  # Python takes the 1 of 1.x
        return value
    except _Fault as fault:
        raise MalformedJson(str(fault)) from None
    except RecursionError:
        raise MalformedJson("exceeded max depth") from None
    except ValueError:
        raise MalformedJson(_fault(data)) from None


# What is wrong, in Go's words

_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_STRING_BODY: Final = re.compile(
    rb'[^"\\\x00-\x1f]*(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*)*', re.DOTALL
)
_NUMBER: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_HEX_DIGITS: Final = frozenset(b"%c" % digit for digit in b"0123456789abcdefABCDEF")
_LITERALS: Final = {ord("t"): b"true", ord("f"): b"false", ord("n"): b"null"}


class _Fault(Exception):
    """Carries the message out of the scan."""


def _fault(data: bytes) -> str:
    """Go's message for the first fault in ``data``, which is known to have one."""
    try:
        _scan(data)
    except _Fault as fault:
        return str(fault)
    return "malformed JSON"  # beyond MAX_TOKENS_TO_FAULT, or a number the interpreter refuses


def _scan(data: bytes) -> None:
    """Walk over ``data`` as ``scanner.go`` does; raises `_Fault` at the first byte Go would not take."""
    stack: list[bytes] = []
    where = " looking for beginning of value"
    closable = False  # whether the container just opened may close at once
    pos = 0
    for _ in range(MAX_TOKENS_TO_FAULT):
        pos = _skip_space(data, pos)
        char = data[pos : pos + 1]
        if stack and closable and char == (b"}" if stack[-1] == b"{" else b"]"):
            pos += 1
            stack.pop()
        elif stack and stack[-1] == b"{":
            if char != b'"':
                raise _unexpected(data, pos, " looking for beginning of object key string")
            pos = _skip_space(data, _scan_string(data, pos))
            if data[pos : pos + 1] != b":":
                raise _unexpected(data, pos, " after object key")
            stack.append(b":")
            pos += 1
            closable = False
            continue
        elif char in (b"{", b"["):
            stack.append(char)
            pos += 1
            closable = True
            continue
        else:
            pos = _scan_scalar(data, pos, where)
        closable = False
        while True:  # a value has ended: go up as far as containers end here
            if stack and stack[-1] == b":":
                stack.pop()
            if not stack:
                return
            pos = _skip_space(data, pos)
            char = data[pos : pos + 1]
            pos += 1
            if char == b",":
                break
            if char != (b"}" if stack[-1] == b"{" else b"]"):
                after = " after object key:value pair" if stack[-1] == b"{" else " after array element"
                raise _unexpected(data, pos - 1, after)
            stack.pop()


def _skip_space(data: bytes, pos: int) -> int:
    match = _SPACE.match(data, pos)
    assert match is not None
    if match.end() == len(data):
        raise _Fault("unexpected EOF")
    return match.end()


def _scan_scalar(data: bytes, pos: int, where: str) -> int:
    first = data[pos]
    if first == ord('"'):
        return _scan_string(data, pos)
    if first in _LITERALS:
        return _scan_literal(data, pos, _LITERALS[first])
    if first == ord("-") or chr(first).isdecimal():
        return _scan_number(data, pos)
    raise _unexpected(data, pos, where)


def _scan_string(data: bytes, pos: int) -> int:
    body = _STRING_BODY.match(data, pos + 1)
    assert body is not None
    end = body.end()
    if data[end : end + 1] == b'"':
        return end + 1
    if data[end : end + 1] != b"\\":
        raise _unexpected(data, end, " in string literal")
    if data[end + 1 : end + 2] != b"u":
        raise _unexpected(data, end + 1, " in string escape code")
    end += 2
    while data[end : end + 1] in _HEX_DIGITS:
        end += 1
    raise _unexpected(data, end, " in \\u hexadecimal character escape")


def _scan_literal(data: bytes, pos: int, literal: bytes) -> int:
    for offset in range(1, len(literal)):
        if data[pos + offset : pos + offset + 1] != literal[offset : offset + 1]:
            expecting = f" in literal {literal.decode()} (expecting {_quoted(literal[offset])})"
            raise _unexpected(data, pos + offset, expecting)
    return pos + len(literal)


def _scan_number(data: bytes, pos: int) -> int:
    match = _NUMBER.match(data, pos)
    if match is None:
        raise _unexpected(data, pos + 1, " in numeric literal")
    end = match.end()
    taken = match[0]
    follower = data[end : end + 1]
    if follower == b"." and b"." not in taken and b"e" not in taken.lower():
        raise _unexpected(data, end + 1, " after decimal point in numeric literal")
    if follower in (b"e", b"E") and b"e" not in taken.lower():
        signed = data[end + 1 : end + 2] in (b"+", b"-")
        raise _unexpected(data, end + 1 + signed, " in exponent of numeric literal")
    return end


def _unexpected(data: bytes, pos: int, context: str) -> _Fault:
    if pos >= len(data):
        return _Fault("unexpected EOF")
    return _Fault(f"invalid character {_quoted(data[pos])}{context}")


def _quoted(char: int) -> str:
    """``quoteChar`` of ``scanner.go``: Go looks at one byte and prints it as the character of that number."""
    match chr(char):
        case "'":
            return "'\\''"
        case '"':
            return "'\"'"
        case "\\":
            return "'\\\\'"
    if char in _NAMED:
        return f"'{_NAMED[char]}'"
    if char < 0x20 or char == 0x7F:
        return f"'\\x{char:02x}'"
    return f"'{chr(char)}'" if chr(char).isprintable() else f"'\\u{char:04x}'"


_NAMED: Final = {7: "\\a", 8: "\\b", 9: "\\t", 10: "\\n", 11: "\\v", 12: "\\f", 13: "\\r"}
