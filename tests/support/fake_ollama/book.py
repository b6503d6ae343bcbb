"""What an Ollama of one age is on record with: its documents, its answers, the shapes it speaks in."""

import json
import re
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

from tests.support import recordings
from tests.support.recordings import Recorded

_TIMES: Final = re.compile(rb'("created_at":)"[^"]*"')
_SHOWN: Final = {
    "tiny": "show-ok",
    "tiny-tools": "show-tools",
    "tiny-think": "show-think",
    "tiny-embed": "show-embed",
    "tiny-uni": "show-field-case",
}


class Book:
    """The recordings of one age, looked up the way a server needs them."""

    def __init__(self, version: str) -> None:
        self.version = version
        self._by_id = recordings.by_id(version)

    def __getitem__(self, exchange_id: str) -> Recorded:
        return self._by_id[exchange_id]

    def find(self, method: str, path: str, body: bytes) -> Recorded | None:
        """The exchange with exactly this request, if it is on record."""
        return self._by_request.get((method, path, _canonical(body)))

    @cached_property
    def _by_request(self) -> dict[tuple[str, str, str], Recorded]:
        found: dict[tuple[str, str, str], Recorded] = {}
        for exchange in self._by_id.values():
            if exchange.method == "POST" and exchange.path.startswith(("/api/", "/v1/")):
                found.setdefault((exchange.method, exchange.path, _canonical(exchange.body)), exchange)
        return found

    @cached_property
    def rows(self) -> dict[str, dict[str, Any]]:
        """The rows of ``/api/tags`` by name."""
        return {row["name"]: row for row in json.loads(self["tags"].answer)["models"]}

    @cached_property
    def running(self) -> dict[str, dict[str, Any]]:
        """Rows of ``/api/ps`` by name; a model never seen there has the row of another one's size."""
        rows = {}
        for exchange_id in ("ps-forever", "ps-after-unload-0", "ps-one"):
            for row in json.loads(self[exchange_id].answer)["models"]:
                rows[row["name"]] = row
        return rows

    def shown(self, origin: str) -> dict[str, Any]:
        """The body of ``/api/show`` for one of the six models."""
        return dict(json.loads(self[_SHOWN.get(origin, "show-ok")].answer))

    def records(self, exchange_id: str) -> list[dict[str, Any]]:
        """The JSON records of a streamed or single answer, in order."""
        found = []
        for line in self[exchange_id].answer.split(b"\n"):
            line = line.removeprefix(b"data: ")
            if line.startswith(b"{"):
                found.append(json.loads(line))
        return found

    @cached_property
    def vectors(self) -> dict[str, list[float]]:
        """Embeddings by text, as the embedding model of this age made them."""
        hello, world, _ = json.loads(self["embed-many"].answer)["embeddings"]
        [nothing] = json.loads(self["embed-list-empty-string"].answer)["embeddings"]
        return {"hello": hello, "world": world, "": nothing}


def fresh(chunk: bytes) -> bytes:
    """A recorded chunk with the time it is now."""
    return _TIMES.sub(rb'\1"%b"' % timestamp().encode(), chunk)


def timestamp(moment: datetime | None = None) -> str:
    """RFC 3339 with nanoseconds, as Go prints it."""
    moment = moment or datetime.now(UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}001Z"


def _canonical(body: bytes) -> str:
    try:
        return json.dumps(json.loads(body), sort_keys=True)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return body.decode("utf-8", "surrogateescape")
