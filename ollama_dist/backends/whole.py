"""Answers that came in one piece and say how long they are, as short ones do: read without a parser.

Of a head only what is usual is taken, and what it says is remembered for others like it. For anything else
there is the parser, which then sees the very same bytes.
"""

import re
from typing import Any, Final

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9]) [ -~]*")
_FIELD: Final = re.compile(rb"([A-Za-z0-9-]+):[ ]?([\t -~]*)")
_WITHOUT_BODY: Final = (204, 304)
"""RFC 9110 §6.4.1."""

_UNUSUAL: Final = frozenset({"connection", "content-length", "trailer", "transfer-encoding", "upgrade"})
"""The length was taken out before, if it was said once; a connection that goes on need not be spoken of."""

HEADS_KEPT: Final = 64
LARGEST_HEAD: Final = 2048

Headers = tuple[tuple[str, str], ...]
"""Names are lower case."""

_Known = tuple[int, Headers, dict[Any, Any]]

_known: Final[dict[tuple[bytes, bytes], _Known]] = {}
"""Of heads without their lengths. A date changes each second, so the oldest goes where there is no room."""


def whole_answer(data: bytes) -> tuple[int, Headers, dict[Any, Any], bytes] | None:
    """Status, headers, what was worked out of others like them, and body in ``data``.

    None where that is not just one usual answer with a body. After it the connection goes on.
    """
    said, end, body = data.partition(b"\r\n\r\n")
    before, _, after = said.partition(b"\r\nContent-Length: ")
    digits, _, after = after.partition(b"\r\n")
    length = str(len(body))
    if digits != length.encode() or not end:
        return None
    known = _known.get((before, after)) or _read(before, after)
    if known is None:
        return None
    status, headers, worked_out = known
    return status, (*headers, ("content-length", length)), worked_out, body


def _read(before: bytes, after: bytes) -> _Known | None:
    if len(before) + len(after) > LARGEST_HEAD:
        return None
    first, *lines = (before + b"\r\n" + after if after else before).split(b"\r\n")
    line, found = _STATUS_LINE.fullmatch(first), [_FIELD.fullmatch(each) for each in lines]
    if line is None or None in found or int(line[1]) in _WITHOUT_BODY:
        return None
    headers = tuple(
        (field[1].decode().lower(), field[2].decode().strip(" \t")) for field in found if field is not None
    )
    if not _UNUSUAL.isdisjoint(name for name, _ in headers):
        return None
    while len(_known) >= HEADS_KEPT:
        del _known[next(iter(_known))]
    known = _known[before, after] = int(line[1]), headers, {}
    return known
