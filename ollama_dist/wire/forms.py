"""Fields of a multipart form (RFC 7578), read from a body that itself travels on untouched. Pure.

Only what every client writes is understood; of anything else an engine has to say what is wrong. Files are
passed over where they lie.
"""

import re
from collections.abc import Container, Iterator
from email.message import Message
from email.parser import HeaderParser
from typing import Final

MAX_PARTS: Final = 64
"""The longest form of any route here has eight."""

MAX_HEAD_BYTES: Final = 8 * 1024
"""Of one part; the name of its file is in it."""

MAX_VALUE_BYTES: Final = 256 * 1024
"""A field that is longer is a document, and none of those are read here."""

_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
"""RFC 2046 §5.1.1."""

_LINE_END: Final = re.compile(rb"[ \t]{0,64}\r\n")


class MalformedForm(ValueError):
    """The body is no form, or none that is understood here."""


def read_form(content_type: str, body: bytes, names: Container[str]) -> dict[str, str]:
    """The fields of ``names`` that ``body`` has; of one that is there twice the first counts, as in Go.

    Raises `MalformedForm`.
    """
    found: dict[str, str] = {}
    for number, (begin, end) in enumerate(_parts(body, b"\r\n--" + _boundary(content_type))):
        if number == MAX_PARTS:
            raise MalformedForm(f"the form has more than {MAX_PARTS} parts")
        head, value = _head(body, begin, end)
        name = head.get_param("name", header="content-disposition")
        if not isinstance(name, str) or name not in names or name in found or head.get_filename() is not None:
            continue
        if end - value > MAX_VALUE_BYTES:
            raise MalformedForm(f"{name} is longer than {MAX_VALUE_BYTES} bytes")
        found[name] = body[value:end].decode("utf-8", "replace")
    return found


def _boundary(content_type: str) -> bytes:
    head = Message()
    head["Content-Type"] = content_type.replace("\r", " ").replace("\n", " ")
    boundary = head.get_param("boundary")
    if head.get_content_type() != "multipart/form-data":
        raise MalformedForm("the body is not said to be a form")
    if not isinstance(boundary, str) or not _BOUNDARY.fullmatch(boundary):
        raise MalformedForm("the form has no valid boundary")
    return boundary.encode("ascii")


def _parts(body: bytes, delimiter: bytes) -> Iterator[tuple[int, int]]:
    """Where each part lies, its head included."""
    opening = delimiter.removeprefix(b"\r\n")  # the first one need not have a line before it
    begin = _after(body, len(opening)) if body.startswith(opening) else None
    if begin is None:
        _, begin = _delimited(body, delimiter, 0)
    while begin is not None:
        end, following = _delimited(body, delimiter, begin)
        yield begin, end
        begin = following


def _delimited(body: bytes, delimiter: bytes, start: int) -> tuple[int, int | None]:
    """Where the next delimiter stands, and where the part after it begins; None where it is the last."""
    while (at := body.find(delimiter, start)) >= 0:
        start = at + len(delimiter)
        if body.startswith(b"--", start):
            return at, None
        begin = _after(body, start)
        if begin is not None:
            return at, begin
    raise MalformedForm("the form has no end")


def _after(body: bytes, at: int) -> int | None:
    """Where the line that a delimiter stands on ends; None where it goes on, so that it is none."""
    line_end = _LINE_END.match(body, at)
    return line_end.end() if line_end else None


def _head(body: bytes, begin: int, end: int) -> tuple[Message, int]:
    """The head of a part, and where its value begins."""
    if body.startswith(b"\r\n", begin):
        return Message(), begin + 2
    blank = body.find(b"\r\n\r\n", begin, min(end, begin + MAX_HEAD_BYTES))
    if blank < 0:
        raise MalformedForm("a part of the form has no head, or one that is too long")
    return HeaderParser().parsestr(body[begin:blank].decode("utf-8", "replace")), blank + 4
