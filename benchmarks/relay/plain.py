"""The least a pass-through with aiohttp can be, as its documentation has it. ``plain.py PORT ORIGIN``"""

import asyncio
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Final

import aiohttp
from aiohttp import web

HOP: Final = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}
SESSION: Final = web.AppKey("session", aiohttp.ClientSession)


async def _session(app: web.Application) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    ) as session:
        app[SESSION] = session
        yield


def _passed(headers: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.lower() not in HOP}


async def _pass_on(request: web.Request) -> web.StreamResponse:
    url = request.app[ORIGIN] + request.path_qs
    headers = _passed(request.headers)
    if request.content_length is not None:
        headers["Content-Length"] = str(request.content_length)
    body = request.content if request.body_exists else None
    async with request.app[SESSION].request(request.method, url, headers=headers, data=body) as answer:
        response = web.StreamResponse(status=answer.status, headers=_passed(answer.headers))
        response.content_length = answer.content_length
        await response.prepare(request)
        async for data in answer.content.iter_any():
            await response.write(data)
        await response.write_eof()
    return response


ORIGIN: Final = web.AppKey("origin", str)


def application(origin: str) -> web.Application:
    app = web.Application(client_max_size=2**40, handler_args={"handler_cancellation": True})
    app[ORIGIN] = origin
    app.cleanup_ctx.append(_session)
    app.router.add_route("*", "/{path:.*}", _pass_on)
    return app


if __name__ == "__main__":
    import uvloop

    asyncio.set_event_loop(uvloop.new_event_loop())
    web.run_app(
        application(sys.argv[2]),
        host="127.0.0.1",
        port=int(sys.argv[1]),
        access_log=None,
        print=None,
        handler_cancellation=True,
        loop=asyncio.get_event_loop(),
    )
