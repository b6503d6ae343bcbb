"""The API reference as a node serves it: the OpenAPI document, and a page that shows it and sends requests.

The page needs nothing from anywhere else, and what it may do is bounded by its Content-Security-Policy.
"""

import asyncio
from functools import cache
from importlib import resources
from typing import Final

import orjson
from aiohttp import web

from ollama_dist import __version__
from ollama_dist.api.exchange import Exchange
from ollama_dist.api.openapi.document import document
from ollama_dist.api.openapi.words import words
from ollama_dist.api.routes import ROUTES

POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

_HEADERS: Final = (
    ("Cache-Control", "no-store"),
    ("Content-Security-Policy", POLICY),
    ("Referrer-Policy", "no-referrer"),
    ("X-Content-Type-Options", "nosniff"),
)


class Reference:
    """Handlers by the name of their row."""

    async def openapi(self, exchange: Exchange) -> web.StreamResponse:
        # In a thread the first time: reading all the words takes as long as some heartbeats.
        return exchange.reply(await asyncio.to_thread(rendered))

    async def docs(self, exchange: Exchange) -> web.StreamResponse:
        return self._file(exchange, "page.html", "text/html; charset=utf-8")

    async def docs_script(self, exchange: Exchange) -> web.StreamResponse:
        return self._file(exchange, "page.js", "text/javascript; charset=utf-8")

    async def docs_style(self, exchange: Exchange) -> web.StreamResponse:
        return self._file(exchange, "page.css", "text/css; charset=utf-8")

    def _file(self, exchange: Exchange, name: str, content_type: str) -> web.StreamResponse:
        return exchange.reply(_static(name), content_type=content_type, more=_HEADERS)


@cache
def rendered() -> bytes:
    """The document of this node's table, as it is sent."""
    return orjson.dumps(document(ROUTES, words(), version=__version__), option=orjson.OPT_NON_STR_KEYS)


@cache
def _static(name: str) -> bytes:
    return resources.files("ollama_dist.api").joinpath("static", name).read_bytes()
