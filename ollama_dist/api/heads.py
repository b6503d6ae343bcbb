"""What the headers of a request say, worked out once for all whose heads are alike: nearly all are."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, Protocol

from aiohttp import web

from ollama_dist.api.framing import refusal
from ollama_dist.api.guard import host_of
from ollama_dist.api.responses import Header, StreamResponse
from ollama_dist.wire.relay_headers import REQUEST_ID

HEADS_KEPT: Final = 256
"""So many different heads are remembered."""

LARGEST_KEPT: Final = 2048
"""Bytes of the largest."""

PASSED_ON: Final = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "content-encoding",
        "content-type",
        "openai-beta",
        "user-agent",
    }
)
"""The headers of a client that an engine may see. Credentials, cookies and our own never are among them."""

_FORWARDED: Final = frozenset(
    {
        "cdn-loop",
        "client-ip",
        "fastly-client-ip",
        "forwarded",
        "forwarded-for",
        "true-client-ip",
        "via",
        "x-client-ip",
        "x-cluster-client-ip",
        "x-real-ip",
        "x-remote-addr",
        "x-remote-ip",
    }
)
_FORWARDED_PREFIXES: Final = ("cf-", "tailscale-", "x-envoy-", "x-forwarded", "x-original-", "x-proxy")
"""Somebody else's request, passed on by a proxy on this machine."""

_LEFT_OUT: Final = frozenset(
    spelt.encode()
    for name in ("authorization", "content-length", "cookie", "proxy-authorization", "x-api-key", REQUEST_ID)
    for spelt in (name, name.title())
)
"""Headers that differ where heads are alike, or that are not to be remembered, as they are usually spelt."""

RawHeaders = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True, eq=False)
class RequestHead:
    """A head without its `_LEFT_OUT`. One that is remembered is the same object each time."""

    refusal: int | None
    """The status that turns it away, see `framing.refusal`."""
    values: Mapping[str, str]
    """The first value of each header; names are lower case."""
    origin: str
    """All values of ``Origin``."""
    host: str | None
    """See `guard.host_of`."""
    is_forwarded: bool
    """A proxy passed it on."""
    passed_on: tuple[Header, ...]
    """What travels on with the request; names are lower case."""
    is_remembered: bool
    worked_out: dict[Any, Any] = field(default_factory=dict)
    """For what else follows from it, and from nothing else."""

    def get(self, name: str) -> str:
        """The value of the header ``name`` (lower case), empty where there is none."""
        return self.values.get(name, "")


class Connected(Protocol):
    """A client's connection."""

    @property
    def transport(self) -> asyncio.Transport | None:
        """None once the client has left."""
        ...

    @property
    def _paused(self) -> bool:
        """Whether what it has to send has grown beyond its high water; aiohttp calls it so."""
        ...


class Incoming(Protocol):
    """What all who answer may want to know of a request, however it came in."""

    @property
    def head(self) -> RequestHead: ...
    @property
    def method(self) -> str: ...
    @property
    def raw_path(self) -> str: ...
    @property
    def version(self) -> tuple[int, int]: ...
    @property
    def remote(self) -> str | None:
        """The IP address it comes from."""
        ...

    @property
    def api_key(self) -> str:
        """The header ``x-api-key``."""
        ...

    @property
    def authorization(self) -> str: ...

    @property
    def name(self) -> str:
        """The header `REQUEST_ID`; of clients, whom nobody asks for it, it may be missing."""
        ...

    @property
    def whole(self) -> bytes | None:
        """The body where it came with its head; None where it is still to be read."""
        ...

    @property
    def protocol(self) -> Connected: ...
    @property
    def transport(self) -> asyncio.Transport | None: ...

    async def drain(self) -> None:
        """Wait until the client has taken most of what was written. Raises `ConnectionResetError`."""
        ...

    async def begin(
        self, status: int, headers: Sequence[Header], *, length: int | None, holds_head: bool
    ) -> web.StreamResponse:
        """An answer to be written as it comes, of ``length`` bytes where that is known.

        ``holds_head`` is whether its head waits for the first of its body.
        """
        ...


class Request(web.BaseRequest):
    """A request of aiohttp's with its head read."""

    head: RequestHead
    whole = None

    @property
    def api_key(self) -> str:
        return self.headers.get("x-api-key", "")

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")

    @property
    def name(self) -> str:
        return self.headers.get(REQUEST_ID, "")

    async def drain(self) -> None:
        await self.writer.drain()

    async def begin(
        self, status: int, headers: Sequence[Header], *, length: int | None, holds_head: bool
    ) -> web.StreamResponse:
        response = StreamResponse(status=status, holds_head=holds_head)
        for name, value in headers:
            response.headers.add(name, value)
        if length is not None:
            response.content_length = length
        elif self.version >= (1, 1):
            response.enable_chunked_encoding()
        else:
            response.force_close()  # the connection's end is the answer's
        await response.prepare(self)
        response.headers.clear()  # they are said, and would lie here for as long as the answer lasts
        return response


def head_of(version: tuple[int, int], headers: RawHeaders) -> RequestHead:
    kept = tuple([header for header in headers if header[0] not in _LEFT_OUT])
    is_small = len(b"".join(map(b"".join, kept))) <= LARGEST_KEPT
    return _known(version, kept) if is_small else _read(version, kept, is_remembered=False)


def _read(version: tuple[int, int], headers: RawHeaders, *, is_remembered: bool = True) -> RequestHead:
    said = [(_text(name).lower(), _text(value)) for name, value in headers]
    values = dict(reversed(said))
    return RequestHead(
        refusal=refusal(version, said),
        values=values,
        origin=", ".join(value for name, value in said if name == "origin"),
        host=host_of(values.get("host", "")),
        is_forwarded=any(name in _FORWARDED or name.startswith(_FORWARDED_PREFIXES) for name in values),
        passed_on=tuple((name, value) for name, value in said if name in PASSED_ON),
        is_remembered=is_remembered,
    )


_known: Final = lru_cache(maxsize=HEADS_KEPT)(_read)


def _text(said: bytes) -> str:
    """As aiohttp reads them."""
    return said.decode("utf-8", "surrogateescape")
