import asyncio
import logging

import aiohttp
import pytest
from aiohttp import web

from ollama_dist.api.listener import Listener, bind
from ollama_dist.core.errors import ConfigError


async def test_a_client_that_leaves_while_it_is_written_to_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended = asyncio.Event()

    async def handler(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()  # what a client's reset looks like, before anybody is told of it
        try:
            await response.write(b"x")
        finally:
            ended.set()
        return response

    listener = Listener(handler, bind("127.0.0.1", [0]))
    await listener.start()
    try:
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{listener.address[1]}/") as response:
                    await response.read()
        await asyncio.wait_for(ended.wait(), 10)
    finally:
        await listener.stop()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_ports_that_are_all_taken_are_named() -> None:
    taken = bind("127.0.0.1", [0])
    port = taken.getsockname()[1]
    try:
        with pytest.raises(ConfigError, match=f"port {port} is taken"):
            bind("127.0.0.1", [port])
        with pytest.raises(ConfigError, match=f"ports {port} to {port} are taken"):
            bind("127.0.0.1", [port, port])
    finally:
        taken.close()
