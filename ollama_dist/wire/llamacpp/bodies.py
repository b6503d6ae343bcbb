"""What is sent to llama-server: chats, prompts, and how a prompt that is too long is cut.

Sources: llama.cpp's ``tools/server`` (README, ``server-common.cpp``), Ollama's ``llm/llama_server.go``.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from ollama_dist.wire import gojson
from ollama_dist.wire.llamacpp.asks import Message, Terms, check_format
from ollama_dist.wire.llamacpp.options import Sampling

Body = dict[str, Any]

Prompt = str | Sequence[int]
"""Text, or the ids of its tokens."""


def chat_body(
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
    terms: Terms,
    sampling: Sampling,
    *,
    num_ctx: int,
) -> Body:
    """For ``/v1/chat/completions`` and ``/apply-template``. Raises `asks.BadFormat`."""
    body: Body = {
        "messages": [_message(message) for message in messages],
        "stream": True,
        "cache_prompt": True,
        **sampling.as_body(num_ctx),
    }
    if tools:
        body["tools"] = list(tools)
    if terms.logprobs:
        body |= {"logprobs": True, "top_logprobs": max(terms.top_logprobs, 1)}
    if terms.think is not None:
        arguments: Body = {"enable_thinking": bool(terms.think)}
        if isinstance(terms.think, str):
            arguments["reasoning_effort"] = terms.think
        body["chat_template_kwargs"] = arguments
    match check_format(terms.format):
        case "json" if terms.think or tools:  # a grammar of our own would forbid the thoughts and the calls
            body["response_format"] = {"type": "json_object"}
        case "json":
            body["grammar"] = JSON_GRAMMAR
        case dict() as schema:
            described = {"name": "schema", "schema": schema}
            body["response_format"] = {"type": "json_schema", "json_schema": described}
    return body


def completion_body(prompt: Prompt, terms: Terms, sampling: Sampling, *, num_ctx: int) -> Body:
    """For ``/completion``. Raises `asks.BadFormat`."""
    return {"prompt": prompt if isinstance(prompt, str) else list(prompt)} | _constrained(
        terms, sampling, num_ctx
    )


def infill_body(prefix: str, suffix: str, terms: Terms, sampling: Sampling, *, num_ctx: int) -> Body:
    """For ``/infill``. Raises `asks.BadFormat`."""
    return {"input_prefix": prefix, "input_suffix": suffix} | _constrained(terms, sampling, num_ctx)


def _constrained(terms: Terms, sampling: Sampling, num_ctx: int) -> Body:
    body: Body = {"stream": True, "cache_prompt": True, **sampling.as_body(num_ctx)}
    if terms.logprobs:
        body["n_probs"] = max(terms.top_logprobs, 1)
    match check_format(terms.format):
        case "json":
            body["grammar"] = JSON_GRAMMAR
        case dict() as schema:
            body["json_schema"] = schema
    return body


def _message(message: Message) -> Body:
    role = message.get("role", "")
    written: Body = {"role": role, "content": message.get("content", "")}
    if thinking := message.get("thinking"):
        written["reasoning_content"] = thinking
    if calls := message.get("tool_calls"):
        written["tool_calls"] = [_tool_call(call or {}) for call in calls]
    if call_id := message.get("tool_call_id"):
        written["tool_call_id"] = call_id
    if tool_name := message.get("tool_name"):
        written["name"] = tool_name
    return written


def _tool_call(call: Mapping[str, Any]) -> Body:
    function = call.get("function") or {}
    written: Body = {
        "type": "function",
        "function": {
            "name": function.get("name", ""),
            "arguments": orjson.dumps(function.get("arguments") or {}).decode(),
        },
    }
    if call_id := call.get("id"):
        written["id"] = call_id
    return written


# A prompt that is too long


def limit_of_prompt(num_ctx: int, num_keep: int) -> int:
    """Tokens left of a prompt that had to be cut: half of what is not kept makes room for the answer."""
    num_keep = max(0, min(num_keep, num_ctx - 1))
    return num_ctx - max((num_ctx - num_keep) // 2, 1)


def cut_prompt(tokens: Sequence[int], *, num_ctx: int, num_keep: int, adds_bos: bool) -> list[int]:
    """``tokens`` with the middle taken out: the first ``num_keep`` stay, and as many of the last as fit."""
    keep = len(tokens) if num_keep < 0 else num_keep
    keep = min(keep + adds_bos, num_ctx - 1)
    limit = limit_of_prompt(num_ctx, keep)
    return [*tokens[:keep], *tokens[len(tokens) - limit + keep :]]


def without_oldest(messages: Sequence[Message], count: int) -> list[Message]:
    """``messages`` without the first ``count``, but with the system messages among them."""
    system = [message for message in messages[:count] if message.get("role") == "system"]
    return [*system, *messages[count:]]


def is_too_long(error: bytes) -> bool:
    """Whether llama-server's refusal says that the prompt does not fit."""
    try:
        document = gojson.loads(error)
    except gojson.MalformedJson:
        return False
    told = document.get("error") if isinstance(document, dict) else None
    return isinstance(told, dict) and told.get("type") == "exceed_context_size_error"


JSON_GRAMMAR: Final = r"""
root   ::= object
object ::= "{" space ( pair ("," space pair)* )? space "}"
array  ::= "[" space ( value ("," space value)* )? space "]"
pair   ::= string ":" space value
value  ::= object | array | string | number | "true" | "false" | "null"
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" ( ["\\/bfnrt] | "u" [0-9a-fA-F]{4} ) )* "\""
number ::= "-"? ( "0" | [1-9] [0-9]* ) ( "." [0-9]+ )? ( [eE] [-+]? [0-9]+ )?
space  ::= [ \t\n]{0,20}
"""
"""One JSON object that begins at once; white space is bounded, for models like to drift off in it."""
