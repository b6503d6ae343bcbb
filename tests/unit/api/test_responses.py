"""What whole answers look like on the wire."""

import asyncio

import pytest
from aiohttp import web

from ollama_dist.api.listener import Listener, bind
from ollama_dist.api.responses import Response


async def answered(sent: bytes, response: Response) -> bytes:
    """What a client that sends ``sent`` gets at once; dates are left out."""

    async def handler(_request: web.BaseRequest) -> web.StreamResponse:
        return response

    listener = Listener(handler, bind("127.0.0.1", [0]))
    await listener.start()
    try:
        reader, writer = await asyncio.open_connection(*listener.address)
        writer.write(sent)
        got = await asyncio.wait_for(reader.read(65536), 10)  # head and body come together
        writer.close()
    finally:
        await listener.stop()
    return b"\r\n".join(line for line in got.split(b"\r\n") if not line.startswith(b"Date: "))


@pytest.mark.parametrize(
    ("request_line", "status", "body", "expected"),
    [
        (b"GET / HTTP/1.1", 200, b"hi", b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhi"),
        (b"GET / HTTP/1.1", 404, b"", b"HTTP/1.1 404 Not Found\r\nX-A: b\r\nContent-Length: 0\r\n\r\n"),
        (b"HEAD / HTTP/1.1", 200, b"hi", b"HTTP/1.1 200 OK\r\nX-A: b\r\nContent-Length: 2\r\n\r\n"),
        (b"HEAD / HTTP/1.1", 200, b"", b"HTTP/1.1 200 OK\r\nX-A: b\r\n\r\n"),
        (b"GET / HTTP/1.1", 204, b"hi", b"HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n"),
        (b"GET / HTTP/1.0", 200, b"hi", b"HTTP/1.0 200 OK\r\nX-A: b\r\nContent-Length: 2\r\n\r\nhi"),
        (
            b"GET / HTTP/1.0\r\nConnection: keep-alive",
            200,
            b"hi",
            b"HTTP/1.0 200 OK\r\nX-A: b\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi",
        ),
        (
            b"GET / HTTP/1.1\r\nConnection: close",
            200,
            b"hi",
            b"HTTP/1.1 200 OK\r\nX-A: b\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        ),
    ],
)
async def test_a_whole_answer(request_line: bytes, status: int, body: bytes, expected: bytes) -> None:
    response = Response(body, status=status, headers=[("X-A", "b")])
    assert await answered(request_line + b"\r\nHost: x\r\n\r\n", response) == expected


async def test_what_is_forced_to_close_says_so() -> None:
    response = Response(b"hi")
    response.force_close()
    got = await answered(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", response)
    assert got == b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi"


@pytest.mark.parametrize("value", ["a\r\nX-Forged: b", "a\nX-Forged: b", "a\0b", "a\x7fb"])
async def test_no_header_becomes_two(value: str) -> None:
    for response in (Response(headers=[("X-A", value)]), Response(standing=(("X-A", value),))):
        assert await answered(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", response) == b""


async def test_standing_headers_are_said_before_those_of_one_answer() -> None:
    for status, reason in ((200, b"OK"), (404, b"Not Found"), (200, b"OK")):
        response = Response(b"hi", status=status, standing=(("X-A", "b"),), headers=[("X-C", "d")])
        got = await answered(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", response)
        said = b"HTTP/1.1 %d %s\r\nX-A: b\r\nX-C: d\r\nContent-Length: 2\r\n\r\nhi"
        assert got == said % (status, reason)


async def test_words_of_all_languages_may_stand_in_a_header() -> None:
    response = Response(headers=[("X-A", "Büro\t\u00a0二")])
    got = await answered(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", response)
    assert "X-A: Büro\t\u00a0二\r\n".encode() in got
