"""Having a model ready for a member, where this node may not read its engine's files."""

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

from aiohttp import web

from ollama_dist.api.exchange import Exchange
from ollama_dist.api.responses import StreamResponse
from ollama_dist.core.errors import BadRequest, DistError
from ollama_dist.core.names import ModelName, parse_model_name
from ollama_dist.replication.disk.store import StoreUnreadable
from ollama_dist.replication.intake.loans import BEAT, BEAT_S, LENT, not_lent
from ollama_dist.replication.manifest import Manifest

NDJSON: Final = "application/x-ndjson"


class Lends(Protocol):
    async def lend(self, name: ModelName) -> Manifest: ...


class LoanGiving:
    """The handler. ``lender`` is None where nothing is lent."""

    def __init__(self, lender: Callable[[], Lends | None], beat_s: float = BEAT_S) -> None:
        self._lender = lender
        self._beat_s = beat_s

    async def replication_loan(self, exchange: Exchange) -> web.StreamResponse:
        """Answers at once and goes on until the model named in ``?model=`` can be read here, or cannot."""
        text = exchange.full.query.get("model", "")
        if not text:
            raise BadRequest("model is required")
        name, lender = parse_model_name(text), self._lender()
        if lender is None:
            raise StoreUnreadable("this node lends no models")
        lending = asyncio.ensure_future(lender.lend(name))
        response = StreamResponse()
        response.content_type = NDJSON
        exchange.mark(response)
        await response.prepare(exchange.full)
        try:
            while not (await asyncio.wait({lending}, timeout=self._beat_s))[0]:
                await response.write(BEAT)
            lending.result()
        except DistError as error:
            await response.write(not_lent(str(error)))
        else:
            await response.write(LENT)
        finally:
            lending.cancel()  # of the waiting only: others may want it
        await response.write_eof()
        return response
