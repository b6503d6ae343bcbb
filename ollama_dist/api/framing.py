"""Heads that the parser lets by and this node does not take. Pure.

llhttp follows the RFCs where they let a server choose; a proxy in front may have chosen otherwise, and then
the two disagree where one request ends and the next begins. Go's ``net/http`` takes less, and so do we.
"""

from collections.abc import Iterable
from typing import Final

_VERSIONS: Final = ((1, 0), (1, 1))

_READ_BY_US: Final = frozenset(
    {
        "authorization",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "cf-connecting-ip",
        "origin",
        "transfer-encoding",
        "x-api-key",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
    }
)
"""Spelt with ``_`` these mean nothing to us, and everything to a program that reads ``_`` as ``-``.
Other names with ``_`` are harmless, and clients send them."""


_CONTINUE: Final = "100-continue"


def expects_to_go_on(expect: str) -> bool:
    """Whether a client with this ``Expect`` waits to be told before it sends its body (RFC 9110 §10.1.1)."""
    return _CONTINUE in (token.strip() for token in expect.lower().split(","))


def refusal(version: tuple[int, int], headers: Iterable[tuple[str, str]]) -> int | None:
    """The status that turns a request away for its head; None for one to go on with.

    The statuses are Go's: 505 for a version that is not HTTP/1, 501 for a coding other than ``chunked``, 417
    for an expectation other than to be told to go on.
    """
    if version not in _VERSIONS:
        return 505
    for name, value in headers:
        folded = name.lower()
        if folded == "transfer-encoding":
            if version == (1, 0):
                return 400  # there it means nothing, so the length of the body is anybody's guess
            if value.lower() != "chunked":
                return 501
        elif folded == "expect":
            if not expects_to_go_on(value):
                return 417
        elif "_" in folded and folded.replace("_", "-") in _READ_BY_US:
            return 400
    return None
