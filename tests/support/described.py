"""The API reference as something answers can be held against."""

import json
from functools import cache
from typing import Any, Final

import jsonschema_rs

from ollama_dist import __version__
from ollama_dist.api.openapi.document import MEDIA, document
from ollama_dist.api.openapi.words import words
from ollama_dist.api.routes import ROUTES

Json = dict[str, Any]

DONE: Final = "[DONE]"
"""What OpenAI's streams end with, which is no JSON."""


@cache
def described() -> Json:
    """The document of this program's routes, as a client reads it."""
    document_: Json = json.loads(json.dumps(document(ROUTES, words(), version=__version__)))
    return document_


def complaints(method: str, path: str, status: int, content_type: str, body: bytes) -> list[str]:
    """What is wrong with an answer: nothing when it is as described. ``path`` is a path of the document."""
    response = deref(described()["paths"][path][method.lower()]["responses"].get(str(status)))
    if response is None:
        return [f"{status} is not described"]
    media = content_type.partition(";")[0]
    content = response.get("content", {})
    if not body:
        return []
    if media not in content:
        return [f"{media!r} is not described for {status}, only {', '.join(content) or 'no body'}"]
    found = records(media, body)
    schema = record_schema(media, content[media]["schema"])
    return [str(error) for record in found for error in validator(schema).iter_errors(record)]


def records(media: str, body: bytes) -> list[Any]:
    """The JSON values in a body: one, or those of a stream."""
    text = body.decode()
    if media == MEDIA["lines"]:
        return [json.loads(line) for line in text.split("\n") if line]
    if media == MEDIA["events"]:
        data = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        return [json.loads(each) for each in data if each != DONE]
    return [json.loads(text)] if media == MEDIA["json"] else [text]


def record_schema(media: str, schema: Json) -> Json:
    """The schema of each of `records`."""
    inner: Json = schema["properties"]["data"]["contentSchema"] if media == MEDIA["events"] else schema
    return inner


def validator(schema: Json) -> jsonschema_rs.Draft202012Validator:
    """Holds values against ``schema``, whose references are into the document."""
    return _validator(json.dumps(schema))


@cache
def _validator(schema: str) -> jsonschema_rs.Draft202012Validator:
    whole = {**json.loads(schema), "components": described()["components"]}
    return jsonschema_rs.Draft202012Validator(whole, validate_formats=True)


def deref(value: Any) -> Any:
    if not isinstance(value, dict) or "$ref" not in value:
        return value
    place: Any = described()
    for part in value["$ref"].removeprefix("#/").split("/"):
        place = place[part]
    return place
