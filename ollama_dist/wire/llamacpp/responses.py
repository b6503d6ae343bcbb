"""OpenAI's ``/v1/responses``: what a request asks.

Source: Ollama's ``openai/responses.go``. Stateless, as there: what came before is in ``input`` or nowhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire import gojson
from ollama_dist.wire.gotypes import decode
from ollama_dist.wire.llamacpp.asks import ChatAsk, Message, Terms
from ollama_dist.wire.llamacpp.openai import image_of_url, think_of_effort
from ollama_dist.wire.structs import RESPONSES

Fields = dict[str, Any]


def read_responses(data: bytes) -> tuple[ChatAsk, Fields]:
    """What a body of ``/v1/responses`` asks, and its fields, for the answer repeats them.

    Raises `BadRequest`.
    """
    fields = decode(data, RESPONSES)
    instructions = fields.get("instructions", "")
    messages: list[Fields] = [{"role": "system", "content": instructions}] if instructions else []
    match fields.get("input"):
        case None | "":
            pass
        case str() as text:
            messages.append({"role": "user", "content": text})
        case list() as items:
            _add_items(messages, items)
        case other:
            raise BadRequest(
                "input must be a string or array: "
                f"json: cannot unmarshal {gojson.kind(other)} into Go value of type []json.RawMessage"
            )
    text_format = (fields.get("text") or {}).get("format") or {}
    terms = Terms(
        stream=fields.get("stream", False),
        options=_options(fields),
        format=text_format.get("schema") if text_format.get("type") == "json_schema" else None,
        think=think_of_effort((fields.get("reasoning") or {}).get("effort", "")),
    )
    tools = [each for tool in fields.get("tools", ()) if isinstance(tool, dict) for each in _tools(tool)]
    return ChatAsk(fields.get("model", ""), messages, tools, terms), fields


def _options(fields: Mapping[str, Any]) -> Fields:
    options: Fields = {"temperature": fields.get("temperature", 1.0)}
    if "top_p" in fields:
        options["top_p"] = fields["top_p"]
    if "max_output_tokens" in fields:
        options["num_predict"] = fields["max_output_tokens"]
    return options


def _add_items(messages: list[Fields], items: Sequence[Any]) -> None:
    thoughts = ""
    for number, item in enumerate(items):
        if not isinstance(item, dict):
            raise BadRequest(f"input[{number}]: it is no object")
        kind = item.get("type") or ("message" if item.get("role") else "")
        try:
            match kind:
                case "message":
                    messages.append(_spoken(item))
                case "function_call":
                    _add_call(messages, item)
                case "function_call_output":
                    call_id = str(item.get("call_id", ""))
                    messages.append(_content(item.get("output")) | {"role": "tool", "tool_call_id": call_id})
                case "reasoning":
                    thoughts = str(item.get("encrypted_content") or "")
                    continue
                case "web_search_call":
                    continue  # the message after it tells what was found
                case "":
                    raise BadRequest("input item missing required 'type' field")
                case _:
                    raise BadRequest(f"unknown input item type: {gojson.encode(kind).decode()}")
        except BadRequest as error:
            raise BadRequest(f"input[{number}]: {error}") from error
        if thoughts and messages[-1]["role"] == "assistant":
            messages[-1]["thinking"] = thoughts
            thoughts = ""
    if thoughts:
        messages.append({"role": "assistant", "content": "", "thinking": thoughts})


def _spoken(item: Mapping[str, Any]) -> Fields:
    return {"role": str(item.get("role", "")), **_content(item.get("content"))}


def _content(told: Any) -> Fields:
    if told is None or isinstance(told, str):
        return {"content": told or ""}
    if not isinstance(told, list):
        raise BadRequest("content must be a string or array")
    text: list[str] = []
    images: list[str] = []
    for part in told:
        match part:
            case {"type": "input_text" | "output_text"}:
                text.append(str(part.get("text", "")))
            case {"type": "input_image"}:
                if url := part.get("image_url"):
                    images.append(image_of_url(url))
            case {"type": "input_file"}:
                raise BadRequest("file inputs are not currently supported")
            case {"type": kind}:
                raise BadRequest(f"unknown content type: {kind}")
            case _:
                raise BadRequest("unknown content type: ")
    return {"content": "".join(text), **({"images": images} if images else {})}


def _add_call(messages: list[Fields], item: Mapping[str, Any]) -> None:
    try:
        arguments = orjson.loads(item.get("arguments") or "{}")
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"failed to parse function call arguments: {error}") from error
    function = {"name": item.get("name", ""), "arguments": arguments}
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    messages[-1].setdefault("tool_calls", []).append({"id": item.get("call_id", ""), "function": function})


def _tools(tool: Mapping[str, Any]) -> list[Message]:
    """A namespace is taken apart into its members, their names qualified by its own."""
    name = str(tool.get("name", ""))
    if tool.get("type") == "namespace":
        members = [each for member in tool.get("tools") or () for each in _tools(member)]
        return [_qualified(member, f"{name}.") if name else member for member in members]
    function: Fields = {"name": name}
    if description := tool.get("description"):
        function["description"] = description
    parameters = tool.get("parameters") or {"type": "object"}
    return [{"type": tool.get("type", ""), "function": function | {"parameters": parameters}}]


def _qualified(tool: Message, prefix: str) -> Message:
    name = str(tool["function"]["name"])
    return {**tool, "function": {**tool["function"], "name": prefix + name.removeprefix(prefix)}}
