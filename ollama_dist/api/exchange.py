"""One request of a client and everything its answer needs: its row, its id, the headers we add."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

import orjson
from aiohttp import web

from ollama_dist.api.bodies import BrokenBody, TooSlow, read_body
from ollama_dist.api.heads import Incoming, Request
from ollama_dist.api.responses import Header, Response
from ollama_dist.api.routes import Route
from ollama_dist.core.errors import BadRequest, DistError, TooLarge
from ollama_dist.core.ids import RequestId
from ollama_dist.core.requests import Place
from ollama_dist.wire.errors import error_body
from ollama_dist.wire.places import HEADER, write_place

JSON: Final = "application/json; charset=utf-8"
"""What gin writes for a JSON answer."""


@dataclass(slots=True)
class Exchange:
    """A request under way. ``standing`` and ``headers`` go onto its answer, whatever that will be."""

    request: Incoming
    route: Route
    id: RequestId
    headers: list[Header]
    params: Mapping[str, str] = field(default_factory=dict)
    tenant: str = ""
    """Tells this caller from others; see `auth.Identity`."""
    standing: tuple[Header, ...] = ()
    """Those that are the same for many."""

    @property
    def full(self) -> Request:
        """The request as aiohttp has it, for rows that want more of it than its head and body."""
        assert isinstance(self.request, Request)
        return self.request

    @property
    def whole(self) -> bytes | None:
        """The whole body where it is here already, else None; raises as `body`."""
        limit, whole = self.route.body_limit or 0, self.request.whole
        if whole is not None and len(whole) > limit:
            if limit:
                raise TooLarge(f"the body is larger than {limit} bytes")
            return b""
        return whole

    async def body(self) -> bytes:
        """The whole body; raises `TooLarge`. A route that takes none ignores what is sent."""
        whole = self.whole
        return whole if whole is not None else await read_body(self.full, self.route.body_limit or 0)

    async def json(self) -> dict[str, Any]:
        """The body as a JSON object, {} when empty; raises `BadRequest`. For our own routes only."""
        raw = await self.body()
        try:
            value = orjson.loads(raw) if raw.strip() else {}
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"the body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise BadRequest("the body must be a JSON object")
        return value

    def filled_path(self) -> str:
        """The upstream path: the row's own, its parameter filled in, and nothing else of what was sent."""
        path = self.route.path
        for name, value in self.params.items():
            path = path.replace(f"{{{name}}}", quote(value, safe=":@"))
        return path

    def header(self, name: str) -> str:
        return self.request.head.get(name.lower())

    def passed_on(self) -> list[Header]:
        """What of the client's headers travels with the request; names in lower case."""
        return list(self.request.head.passed_on)

    def tell_place(self, place: Place) -> None:
        """Say on the way where in the queue the request stands: an interim answer (102, RFC 2518 §10.1)."""
        transport = self.request.transport
        if transport is not None and self.request.version >= (1, 1):
            line = f"HTTP/1.1 102 Processing\r\n{HEADER}: {write_place(place)}\r\n\r\n"
            transport.write(line.encode("ascii"))

    def reply(
        self,
        body: bytes = b"",
        *,
        status: int = 200,
        content_type: str | None = JSON,
        more: Iterable[Header] = (),
    ) -> Response:
        """A whole answer. ``more`` are headers beside ours."""
        kind = () if content_type is None else (("Content-Type", content_type),)
        return Response(body, status=status, headers=(*kind, *self.standing, *self.headers, *more))

    def reply_json(self, value: object, *, status: int = 200) -> Response:
        return self.reply(orjson.dumps(value), status=status)

    def mark(self, response: web.StreamResponse, more: Iterable[Header] = ()) -> None:
        """Put our headers on an answer."""
        for name, value in (*self.standing, *self.headers, *more):
            response.headers.add(name, value)

    def failure(self, error: DistError) -> Response:
        """The answer that tells the caller of ``error`` in its own dialect, or in ours on our own routes."""
        if self.route.is_ours:
            response = self.reply_json({"error": str(error), "code": error.code}, status=error.status)
        else:
            content_type, body = error_body(
                self.route.dialect, error.status, str(error), code=error.code, request_id=self.id
            )
            response = self.reply(body, status=error.status, content_type=content_type)
        if isinstance(error, (TooLarge, TooSlow, BrokenBody)):
            response.force_close()  # the rest of the body is not waited for, or nobody knows where it ends
        if error.retry_after_s is not None:
            response.add("Retry-After", str(error.retry_after_s))
        return response
