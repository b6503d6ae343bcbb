"""Requests that belong to this node's own engine, handed over as they are and answered as it answers."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import aiohttp
import structlog
from aiohttp import web
from yarl import URL

from ollama_dist.api.bodies import PacedBody
from ollama_dist.api.exchange import Exchange
from ollama_dist.api.relay import Source, relay
from ollama_dist.api.responses import Header
from ollama_dist.api.uploads import is_long, uploaded
from ollama_dist.backends.http1 import Connection, Head
from ollama_dist.core.errors import BadRequest, UpstreamCut, UpstreamFailed, UpstreamRefused

log = structlog.get_logger()

PASSED_BACK: Final = frozenset({"allow", "cache-control", "content-type", "location"})
"""Headers of the engine's answer that a client sees; framing is ours."""

CONNECT_S: Final = 1.0

SILENCE_S: Final = 24 * 3600.0
"""Between two pieces of an answer: one that is not streamed says nothing for as long as it takes. A node that
dies meanwhile is known by gossip much sooner."""


class _Body:
    """The rest of an engine's answer, as a `relay.Source`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def more(self) -> bytes:
        try:
            return await self._response.content.readany()
        except aiohttp.ClientError as error:
            raise UpstreamCut(f"the engine broke off its answer: {error}") from error


def unchanged(source: Source) -> Source:
    """An answer that is passed on as it comes."""
    return source


class Passthrough:
    """Sends requests to an engine on a fresh connection each: what they change must happen at most once.

    There is no limit on the time an answer takes (a pull may last for hours); a caller that leaves ends it.
    """

    def __init__(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    async def close(self) -> None:
        await self._session.close()

    async def send(
        self,
        exchange: Exchange,
        origin: str,
        path: str,
        body: bytes | None,
        *,
        more: Sequence[Header] = (),
        through: Callable[[Source], Source] = unchanged,
        explain: bool = True,
    ) -> web.StreamResponse:
        """Relay the request to ``path`` at ``origin`` (``http://host:port``).

        A ``body`` of None streams the client's own. ``more`` are headers for the answer, and ``through`` has
        its bytes pass through something; for ``explain`` see `relay`. Raises `UpstreamRefused` when no engine
        answers.
        """
        headers = exchange.passed_on()
        if body is None and is_long(request := exchange.full):
            try:
                async with uploaded(request, origin, path, headers) as (engine, head):
                    return await pass_back(
                        exchange, engine, head, more=more, through=through, explain=explain
                    )
            except UpstreamFailed as failure:
                raise _refused(path, failure, is_sent=failure.is_sent) from failure
        data: bytes | PacedBody | None = body
        if body is None and exchange.full.body_exists:
            data = PacedBody(exchange.full)
            if exchange.full.content_length is not None:
                headers.append(("Content-Length", str(exchange.full.content_length)))
        try:
            response = await self._session.request(
                exchange.request.method,
                URL(origin + path, encoded=True),  # sent as it was authorised, not as a library tidies it
                data=data,
                headers=headers,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, TimeoutError, BadRequest) as error:
            if isinstance(data, PacedBody) and data.trouble is not None:
                raise data.trouble from error
            is_sent = not isinstance(error, aiohttp.ClientConnectorError)
            raise _refused(path, error, is_sent=is_sent) from error
        try:
            passed = [
                (name, value) for name, value in response.headers.items() if name.lower() in PASSED_BACK
            ]
            return await relay(
                exchange,
                through(_Body(response)),
                status=response.status,
                headers=(*passed, *more),
                length=response.content_length,
                explain=explain,
            )
        finally:
            response.close()

    async def fetch(self, origin: str, path: str, *, timeout: float) -> tuple[int, bytes]:
        """Status and body of a GET, bounded in time. Raises `UpstreamRefused`."""
        try:
            async with asyncio.timeout(timeout), self._session.get(origin + path) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _refused(path, error) from error


def _refused(path: str, error: Exception, *, is_sent: bool = True) -> UpstreamRefused:
    log.info("engine_refused", path=path, error=str(error))
    refused = UpstreamRefused("this node's engine does not answer")
    refused.is_sent = is_sent
    return refused


class _Coming:
    """The rest of an answer that comes by a connection of ours, as a `relay.Source`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def more(self) -> bytes:
        return await self._connection.read(asyncio.get_running_loop().time() + SILENCE_S)


async def pass_back(
    exchange: Exchange,
    connection: Connection,
    head: Head,
    *,
    more: Sequence[Header] = (),
    through: Callable[[Source], Source] = unchanged,
    explain: bool = True,
) -> web.StreamResponse:
    """Relay an answer that comes by a connection of ours, as `Passthrough.send` does."""
    length = head.get("content-length") or ""
    passed = [(name.title(), value) for name, value in head.headers if name in PASSED_BACK]
    return await relay(
        exchange,
        through(_Coming(connection)),
        status=head.status,
        headers=(*passed, *more),
        length=int(length) if length.isdecimal() else None,
        explain=explain,
    )
