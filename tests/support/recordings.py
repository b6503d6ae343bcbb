"""The recorded exchanges with real Ollamas, as values."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parent.parent / "recordings"

VERSIONS: Final = ("0.5.13", "0.11.11", "0.17.7", "0.33.0-rc2")
"""The recorded ages, oldest first."""

_FILE: Final = re.compile(r"<(\w+\.gguf)>")


@dataclass(frozen=True)
class Recorded:
    """One exchange: what was asked and what came back."""

    id: str
    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    status: int
    answer_headers: tuple[tuple[str, str], ...]
    chunks: tuple[bytes, ...]

    @property
    def answer(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def content_type(self) -> str:
        return next((value for name, value in self.answer_headers if name == "Content-Type"), "")

    @property
    def is_stream(self) -> bool:
        return self.content_type in ("application/x-ndjson", "text/event-stream")


@dataclass(frozen=True)
class Failure:
    """How one answer ended when something broke."""

    case: str
    path: str
    body: dict[str, Any]
    end: str
    status: int
    tail: bytes
    """The end of the answer, chunk framing taken off."""


@cache
def exchanges(version: str) -> tuple[Recorded, ...]:
    """All exchanges with the server of this age, in order."""
    document = json.loads((FOLDER / f"ollama-{version}.json").read_text())
    return tuple(_recorded(entry) for entry in document["exchanges"])


@cache
def by_id(version: str) -> dict[str, Recorded]:
    return {exchange.id: exchange for exchange in exchanges(version)}


@cache
def failures(version: str) -> tuple[Failure, ...]:
    """What was recorded of broken answers (0.11.11 and 0.33.0-rc2)."""
    document = json.loads((FOLDER / f"failures-{version}.json").read_text())
    return tuple(
        Failure(
            case,
            entry["path"],
            entry["body"],
            entry["end"],
            int(entry["head"].split()[1]),
            _without_chunk_frames(entry["tail"]),
        )
        for case, entries in document["cases"].items()
        for entry in entries
        if "head" in entry
    )


def model_file(name: str) -> bytes:
    return (FOLDER / "models" / name).read_bytes()


def _recorded(entry: dict[str, Any]) -> Recorded:
    request, response = entry["request"], entry["response"]
    return Recorded(
        id=entry["id"],
        method=request["method"],
        path=request["path"],
        headers=request["headers"],
        body=_body(request["body"]),
        status=response["status"],
        answer_headers=tuple((name, value) for name, value in response["headers"]),
        chunks=tuple(chunk.encode("utf-8", "surrogateescape") for chunk in response["chunks"]),
    )


def _body(body: Any) -> bytes:
    if body is None:
        return b""
    if not isinstance(body, str):
        return json.dumps(body).encode()
    if file := _FILE.fullmatch(body):
        return model_file(file[1])
    return body.encode("utf-8", "surrogateescape")


def _without_chunk_frames(tail: str) -> bytes:
    """``tail`` may begin in the middle of a chunk: what precedes the first frame in it is kept."""
    frame = re.compile(rb"\r\n[0-9a-f]+\r\n")
    data = tail.encode()
    if not frame.search(data):
        return data
    return frame.sub(b"", data.removesuffix(b"\r\n0\r\n\r\n").removesuffix(b"\r\n"))


def streams() -> Iterator[tuple[str, Recorded]]:
    """Every recorded streamed answer of inference, with the age of its server."""
    for version in VERSIONS:
        for exchange in exchanges(version):
            if exchange.is_stream and exchange.status == 200 and is_inference(exchange):
                yield version, exchange


def is_inference(exchange: Recorded) -> bool:
    return exchange.method == "POST" and exchange.path in (
        "/api/generate",
        "/api/chat",
        "/api/embed",
        "/api/embeddings",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/messages",
    )
