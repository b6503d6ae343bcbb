"""A request in bytes with its outcome as data, and playing many of them against a listener."""

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from tests.support.fake_ollama import FakeOllama, Seen

MARK: Final = b"v0000000"
"""Stands in a vector's requests for the name by which the engine's journal tells them from others."""

AGENT: Final = b"User-Agent: " + MARK + b"\r\n"
HOST: Final = b"Host: localhost\r\n"
CLOSE: Final = b"Connection: close\r\n"

PATIENCE_S: Final = 60.0
TOGETHER: Final = 48

LEAKS: Final = re.compile(
    rb"Traceback|File \"|\.py\b|site-packages|/srv/|/root/|/usr/|/home/|/tmp/|aiohttp|llhttp|uvloop|ython"
    rb"| at 0x[0-9a-f]|ssl:default|\[Errno|Connect call"
    rb"|\b[A-Z][a-z]\w*(?:Error|Exception)\b|HTTP/\d\.\d[\"'`]",
)
"""What tells of how a node is made."""

SEEN_BY_ENGINE: Final = frozenset(
    {
        "accept",
        "anthropic-beta",
        "anthropic-version",
        "connection",
        "content-encoding",
        "content-length",
        "content-type",
        "host",
        "openai-beta",
        "transfer-encoding",
        "user-agent",
    }
)


@dataclass(frozen=True, slots=True)
class Vector:
    """``sent`` goes out part by part; every answer is read until the node hangs up, which it has to do.

    So a request that is to be answered on a connection that stays says ``Connection: close`` at its end, and
    one that has to be hung up on does not.
    """

    name: str
    sent: tuple[bytes, ...]
    status: frozenset[int]
    """Of the first answer; empty: no answer at all is fine."""
    executed: tuple[int, ...] = (0,)
    """How many of its requests may reach the engine."""
    reaches: str | None = None
    """The path the engine sees of those that reach it."""
    location: str | None = None
    """Where a redirect leads."""
    body: bytes | None = None
    headers: tuple[tuple[str, str | None], ...] = ()
    """Headers of the first answer; None for those that may not be there."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name.lower()), None)


@dataclass(slots=True)
class Played:
    """What came of one vector."""

    vector: Vector
    mark: str
    raw: bytes = b""
    is_closed: bool = False
    seen: list[Seen] = field(default_factory=list)

    @property
    def answers(self) -> list[Answer]:
        return split_answers(self.raw, has_bodies=not self.vector.sent[0].startswith(b"HEAD "))


def split_answers(raw: bytes, *, has_bodies: bool = True) -> list[Answer]:
    """The final answers in ``raw``; one that is cut off counts with what there is."""
    answers = []
    while raw.startswith(b"HTTP/1."):
        head, _, raw = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        headers = tuple(
            (name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])
        )
        status = int(lines[0].split(" ")[1])
        values = dict(headers)
        body = b""
        if has_bodies and "content-length" in values:
            length = int(values["content-length"])
            body, raw = raw[:length], raw[length:]
        elif has_bodies and values.get("transfer-encoding") == "chunked":
            body, _, raw = raw.partition(b"0\r\n\r\n")
        elif has_bodies and status not in (204, 304):
            body, raw = raw, b""
        if status >= 200:
            answers.append(Answer(status, headers, body))
    return answers


async def exchange(port: int, parts: Sequence[bytes], seconds: float = PATIENCE_S) -> tuple[bytes, bool]:
    """All that comes back for ``parts`` and whether the other side hung up in time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    received = bytearray()
    try:
        async with asyncio.timeout(seconds):
            for number, part in enumerate(parts):
                if number:
                    await asyncio.sleep(0.03)
                writer.write(part)
            while piece := await reader.read(65536):
                received += piece
    except TimeoutError:
        return bytes(received), False
    except ConnectionError:
        pass  # hung up on with bytes of ours unread
    finally:
        writer.close()
    return bytes(received), True


async def play(port: int, engine: FakeOllama, vectors: Iterable[Vector]) -> list[Played]:
    """What came of all of ``vectors``, many at a time."""
    places = asyncio.Semaphore(TOGETHER)
    rows = [Played(vector, f"v{number:07}") for number, vector in enumerate(vectors)]
    before = len(engine.journal.requests)

    async def play_one(row: Played) -> None:
        parts = [part.replace(MARK, row.mark.encode()) for part in row.vector.sent]
        async with places:
            row.raw, row.is_closed = await exchange(port, parts)

    await asyncio.gather(*(play_one(row) for row in rows))
    by_mark = {row.mark: row for row in rows}
    for seen in engine.journal.requests[before:]:
        row = by_mark.get(seen.headers.get("User-Agent", ""))
        if row is not None:
            row.seen.append(seen)
    return rows


def wrongs(played: Iterable[Played]) -> list[str]:
    """A line for each that did not end as it should."""
    return [f"{row.vector.name}: {wrong}" for row in played for wrong in _wrongs(row)]


def _wrongs(row: Played) -> list[str]:
    vector, answers = row.vector, row.answers
    found = []
    if not row.is_closed:
        found.append("not hung up on")
    first = answers[0] if answers else None
    if vector.status and (first is None or first.status not in vector.status):
        said = f"{first.status} {first.body[:200]!r}" if first else f"{row.raw[:60]!r}"
        found.append(f"{said} instead of {sorted(vector.status)}")
    if len(row.seen) not in vector.executed:
        found.append(f"{len(row.seen)} reached the engine instead of {vector.executed}")
    if vector.reaches is not None:
        found += [f"the engine was asked for {s.path}" for s in row.seen if s.path != vector.reaches]
    for seen in row.seen:
        strange = {name.lower() for name in seen.headers} - SEEN_BY_ENGINE
        if strange:
            found.append(f"the engine saw {sorted(strange)}")
    if first is not None:
        found += _wrong_words(vector, first)
    for answer in answers:
        leak = LEAKS.search(answer.body) if answer.status >= 300 else None
        if leak or answer.get("server") is not None:
            found.append(f"tells {leak and leak[0]!r} {answer.get('server')}")
    return found


def _wrong_words(vector: Vector, first: Answer) -> list[str]:
    found = []
    if vector.location is not None and first.get("location") != vector.location:
        found.append(f"sent to {first.get('location')!r} instead of {vector.location!r}")
    if vector.body is not None and first.body != vector.body:
        found.append(f"says {first.body[:80]!r} instead of {vector.body!r}")
    for name, value in vector.headers:
        if first.get(name) != value:
            found.append(f"{name} is {first.get(name)!r} instead of {value!r}")
    return found
