"""What counts as the same answer: equal to the byte but for what differs from run to run of a real Ollama."""

import json
import re
from typing import Any, Final

from tests.contract.play import Answer
from tests.support.recordings import Recorded

OWN_HEADERS: Final = re.compile(r"date|connection|keep-alive|x-ollama-[a-z-]+|x-request-id", re.IGNORECASE)
"""What a server may add to the headers on record: those of any connection, and those a node signs with."""

FRAMING_HEADERS: Final = ("content-length", "transfer-encoding")
"""How a body is framed is the server's own business, as long as it ends as announced."""

VECTOR_TOLERANCE: Final = 2e-3
"""Between machines the same weights give vectors that differ by rounding."""

UNRECORDED_MODELS: Final = ("x:latest",)
"""Made by requests that are not on record, and there when models were listed."""

_VOLATILE: Final = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rb'"(created_at|modified_at|expires_at|completed_at)":("[^"]*"|\d+|null)', rb'"\1":0'),
        (rb'"(created)":\d+', rb'"\1":0'),
        (rb',"(?:total|load|prompt_eval|eval)_duration":\d+', b""),
        (rb',"prompt_eval_count":\d+', b""),
        (rb'"(prompt_tokens|total_tokens|input_tokens)":\d+', rb'"\1":0'),
        (rb'"((?:chatcmpl|cmpl|resp|msg|req|call)[-_])[0-9a-z]+"', rb'"\1"'),
        (rb'"fc_resp_\d+_', rb'"fc_resp__'),
        (rb',"distributed":\{[^}]*\}', b""),  # what a node adds to its engine's version
        (rb"(?:/[\w.-]+)+/(blobs|manifests)/", rb"/models/\1/"),
    )
)
_DIGEST: Final = re.compile(rb'"digest":"[0-9a-f]{64}"')


def differences(
    answer: Answer, recorded: Recorded, *, same_chunks: bool, same_digests: bool = True
) -> list[str]:
    """In what ``answer`` differs from the one on record; nothing is what one hopes for.

    ``same_chunks``: every flush of the recorded server has to be one here. ``same_digests``: models made from
    files have the recorded digests (up to 0.17 a manifest names the folder of its store).
    """
    found = _header_differences(answer, recorded)
    if answer.status != recorded.status:
        found.append(f"status {answer.status}, not {recorded.status}")
    if not answer.is_clean:
        found.append("the body broke off")
    ours = [_settled(chunk, same_digests=same_digests) for chunk in answer.chunks]
    theirs = [_settled(chunk, same_digests=same_digests) for chunk in recorded.chunks]
    if not _same_body(recorded.path, b"".join(ours), b"".join(theirs)):
        found.append(f"body {_short(b''.join(ours))}, not {_short(b''.join(theirs))}")
    elif same_chunks and recorded.is_stream and len(ours) != len(theirs):
        found.append(f"{len(ours)} chunks, not {len(theirs)}")
    return found


def _header_differences(answer: Answer, recorded: Recorded) -> list[str]:
    ours = [(name.lower(), value) for name, value in answer.headers if _counts(name)]
    theirs = [(name.lower(), value) for name, value in recorded.answer_headers if _counts(name)]
    extra = [f"header {header} is not on record" for header in ours if header not in theirs]
    return extra + [f"no header {header}" for header in theirs if header not in ours]


def _counts(name: str) -> bool:
    return name.lower() not in FRAMING_HEADERS and not OWN_HEADERS.fullmatch(name)


def _settled(data: bytes, *, same_digests: bool) -> bytes:
    for pattern, replacement in _VOLATILE:
        data = pattern.sub(replacement, data)
    return data if same_digests else _DIGEST.sub(b'"digest":""', data)


def _same_body(path: str, ours: bytes, theirs: bytes) -> bool:
    if ours == theirs:
        return True
    try:
        left, right = json.loads(ours), json.loads(theirs)
    except (json.JSONDecodeError, UnicodeDecodeError):
        return False
    if path == "/api/tags":
        return _rows(left) == _rows(right)
    if path == "/api/show":
        return _shown(left) == _shown(right)
    return "embed" in path and _near(left, right)


def _rows(document: Any) -> list[Any]:
    """The order of models made within one second is chance."""
    rows = [row for row in document["models"] if row["name"] not in UNRECORDED_MODELS]
    return sorted(rows, key=lambda row: str(row["name"]))


def _shown(document: Any) -> dict[str, Any]:
    """Ollama prints parameters from an unordered map."""
    settled = dict(document)
    for name in ("modelfile", "parameters"):
        settled[name] = sorted(str(document.get(name)).split("\n"))
    return settled


def _near(left: Any, right: Any) -> bool:
    match left, right:
        case float() | int(), float() | int():
            return abs(left - right) <= VECTOR_TOLERANCE * max(1.0, abs(right))
        case list(), list():
            return len(left) == len(right) and all(map(_near, left, right))
        case dict(), dict():
            return list(left) == list(right) and all(_near(left[name], right[name]) for name in left)
    return bool(left == right)


def _short(data: bytes) -> str:
    text = data.decode("utf-8", "replace")
    return repr(text if len(text) < 700 else f"{text[:350]} … {text[-350:]}")
