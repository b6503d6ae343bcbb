"""Sends recorded requests as they were sent, byte for byte, and takes down what comes back."""

import asyncio
from dataclasses import dataclass

from tests.support.recordings import Recorded

DEADLINE_S = 30.0


@dataclass(frozen=True)
class Answer:
    """What a server answered, framing taken off but remembered."""

    status: int
    headers: tuple[tuple[str, str], ...]
    chunks: tuple[bytes, ...]
    """The body as it was chunked, or in one piece."""
    is_clean: bool
    """It ended as its framing had announced."""

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    def header(self, name: str) -> str:
        return next((value for key, value in self.headers if key.lower() == name.lower()), "")


async def play(host: str, port: int, exchange: Recorded) -> Answer:
    """Send the request of ``exchange`` on a connection of its own. Raises TimeoutError or OSError."""
    async with asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_connection(host, port, limit=2**20)
        try:
            writer.write(_request(host, port, exchange))
            await writer.drain()
            return await _answer(reader, exchange.method)
        finally:
            writer.close()


def _request(host: str, port: int, exchange: Recorded) -> bytes:
    headers = {"Host": f"{host}:{port}", "Connection": "close", **exchange.headers}
    if "Transfer-Encoding" not in headers and (exchange.body or exchange.method in ("POST", "DELETE")):
        headers["Content-Length"] = str(len(exchange.body))
    lines = [f"{exchange.method} {exchange.path} HTTP/1.1"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + exchange.body


async def _answer(reader: asyncio.StreamReader, method: str) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = tuple(
        (name, value.strip()) for name, _, value in (line.partition(":") for line in head[1:] if line)
    )
    status = int(head[0].split()[1])
    announced = {name.lower(): value for name, value in headers}
    if method == "HEAD" or status in (204, 304):
        return Answer(status, headers, (), is_clean=True)
    try:
        if announced.get("transfer-encoding") == "chunked":
            return Answer(status, headers, await _chunks(reader), is_clean=True)
        body = await reader.readexactly(int(announced.get("content-length", "0")))
    except asyncio.IncompleteReadError as broken:
        return Answer(status, headers, (broken.partial,), is_clean=False)
    return Answer(status, headers, (body,) if body else (), is_clean=True)


async def _chunks(reader: asyncio.StreamReader) -> tuple[bytes, ...]:
    chunks = []
    while size := int(await reader.readuntil(b"\r\n"), 16):
        chunks.append((await reader.readexactly(size + 2))[:-2])
    return tuple(chunks)
