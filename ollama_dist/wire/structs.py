"""The bodies of Ollama's requests: which fields there are and what they take.

Sources: Ollama's ``api/types.go``, ``openai/openai.go``, ``openai/responses.go``, ``anthropic/anthropic.go``.
A server ignores fields younger than itself; the types of the others did not change from 0.5 to 0.33.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire import gojson
from ollama_dist.wire.durations import keep_alive_seconds
from ollama_dist.wire.gotypes import (
    ANY,
    BASE64,
    BOOL,
    FLOAT32,
    FLOAT64,
    INT,
    MAP,
    STRING,
    STRING_MAP,
    STRINGS,
    Custom,
    FieldType,
    Slice,
    Struct,
    Type,
)


class InvalidThink(BadRequest):
    code = "invalid_think"


def _check_think(value: Any) -> None:
    """``ThinkValue.UnmarshalJSON`` as 0.33 has it; before, ``max`` was not among the levels."""
    if isinstance(value, bool) or value in ("high", "medium", "low", "max"):
        return
    if isinstance(value, str):
        shown = gojson.encode(value).decode()
        raise InvalidThink(
            f'invalid think value: {shown} (must be "high", "medium", "low", "max", true, or false)'
        )
    raise InvalidThink('think must be a boolean or string ("high", "medium", "low", "max", true, or false)')


_KEEP_ALIVE: Final = Custom(keep_alive_seconds)
_THINK: Final = Custom(_check_think)
_IMAGES: Final = Slice(BASE64, "[]api.ImageData")

_ARGUMENTS: Final = Type("api.ToolCallFunctionArguments", ("object",))
_TOOL_CALL: Final = Struct(
    "ToolCall",
    {
        "id": STRING,
        "function": Struct("ToolCallFunction", {"index": INT, "name": STRING, "arguments": _ARGUMENTS}),
    },
)
_MESSAGE: Final = Struct(
    "Message",
    {
        "role": STRING,
        "content": STRING,
        "thinking": STRING,
        "images": _IMAGES,
        "tool_calls": Slice(_TOOL_CALL, "[]api.ToolCall"),
        "tool_name": STRING,
        "tool_call_id": STRING,
    },
    reads_itself=True,
)
_TOOL: Final = Struct(
    "Tool",
    {
        "type": STRING,
        "items": ANY,
        "function": Struct("ToolFunction", {"name": STRING, "description": STRING, "parameters": ANY}),
    },
)

_SHARED: Final[Mapping[str, FieldType]] = MappingProxyType(
    {
        "stream": BOOL,
        "format": ANY,
        "keep_alive": _KEEP_ALIVE,
        "options": MAP,
        "think": _THINK,
        "truncate": BOOL,
        "shift": BOOL,
        "_debug_render_only": BOOL,
        "logprobs": BOOL,
        "top_logprobs": INT,
    }
)

GENERATE: Final = Struct(
    "GenerateRequest",
    {
        "model": STRING,
        "prompt": STRING,
        "suffix": STRING,
        "system": STRING,
        "template": STRING,
        "context": Slice(INT, "[]int"),
        "raw": BOOL,
        "images": _IMAGES,
        **_SHARED,
    },
)
CHAT: Final = Struct(
    "ChatRequest",
    {
        "model": STRING,
        "messages": Slice(_MESSAGE, "[]api.Message"),
        "tools": Slice(_TOOL, "api.Tools"),
        **_SHARED,
    },
)
EMBED: Final = Struct(
    "EmbedRequest",
    {
        "model": STRING,
        "input": ANY,
        "keep_alive": _KEEP_ALIVE,
        "truncate": BOOL,
        "dimensions": INT,
        "options": MAP,
    },
)
EMBEDDINGS: Final = Struct(
    "EmbeddingRequest", {"model": STRING, "prompt": STRING, "keep_alive": _KEEP_ALIVE, "options": MAP}
)
SHOW: Final = Struct(
    "ShowRequest",
    {"model": STRING, "name": STRING, "system": STRING, "template": STRING, "verbose": BOOL, "options": MAP},
)
COPY: Final = Struct("CopyRequest", {"source": STRING, "destination": STRING})
DELETE: Final = Struct("DeleteRequest", {"model": STRING, "name": STRING})
PULL: Final = Struct(
    "PullRequest",
    {
        "model": STRING,
        "name": STRING,
        "insecure": BOOL,
        "username": STRING,
        "password": STRING,
        "stream": BOOL,
    },
)
PUSH: Final = Struct("PushRequest", PULL.fields)
CREATE: Final = Struct(
    "CreateRequest",
    {
        "model": STRING,
        "name": STRING,
        "stream": BOOL,
        "from": STRING,
        "files": STRING_MAP,
        "adapters": STRING_MAP,
        "template": STRING,
        "license": ANY,
        "system": STRING,
        "parameters": MAP,
        "messages": Slice(_MESSAGE, "[]api.Message"),
        "quantize": STRING,
        "quantization": STRING,
    },
)

_STREAM_OPTIONS: Final = Struct("StreamOptions", {"include_usage": BOOL}, package="openai")
_OPENAI_TOOL_CALL: Final = Struct(
    "ToolCall",
    {
        "id": STRING,
        "index": INT,
        "type": STRING,
        "function": Struct("", {"name": STRING, "arguments": STRING}, package="struct"),
    },
    package="openai",
)

OPENAI_CHAT: Final = Struct(
    "ChatCompletionRequest",
    {
        "model": STRING,
        "messages": Slice(
            Struct(
                "Message",
                {
                    "role": STRING,
                    "content": ANY,
                    "reasoning": STRING,
                    "name": STRING,
                    "tool_calls": Slice(_OPENAI_TOOL_CALL, "[]openai.ToolCall"),
                    "tool_call_id": STRING,
                },
                package="openai",
            ),
            "[]openai.Message",
        ),
        "stream": BOOL,
        "stream_options": _STREAM_OPTIONS,
        "max_tokens": INT,
        "seed": INT,
        "stop": ANY,
        "temperature": FLOAT64,
        "frequency_penalty": FLOAT64,
        "presence_penalty": FLOAT64,
        "top_p": FLOAT64,
        "response_format": Struct(
            "ResponseFormat",
            {"type": STRING, "json_schema": Struct("JsonSchema", {"schema": ANY}, package="openai")},
            package="openai",
        ),
        "tools": Slice(_TOOL, "[]api.Tool"),
        "reasoning": Struct("Reasoning", {"effort": STRING}, package="openai"),
        "reasoning_effort": STRING,
        "logprobs": BOOL,
        "top_logprobs": INT,
    },
    package="openai",
)
OPENAI_COMPLETION: Final = Struct(
    "CompletionRequest",
    {
        "model": STRING,
        "prompt": STRING,
        "frequency_penalty": FLOAT32,
        "max_tokens": INT,
        "presence_penalty": FLOAT32,
        "seed": INT,
        "stop": ANY,
        "stream": BOOL,
        "stream_options": _STREAM_OPTIONS,
        "temperature": FLOAT32,
        "top_p": FLOAT32,
        "suffix": STRING,
        "logprobs": INT,
    },
    package="openai",
)
OPENAI_EMBEDDINGS: Final = Struct(
    "EmbedRequest",
    {"model": STRING, "input": ANY, "dimensions": INT, "encoding_format": STRING},
    package="openai",
)
RESPONSES: Final = Struct(
    "ResponsesRequest",
    {
        "model": STRING,
        "input": ANY,
        "instructions": STRING,
        "max_output_tokens": INT,
        "temperature": FLOAT64,
        "top_p": FLOAT64,
        "stream": BOOL,
        "background": BOOL,
        "truncation": STRING,
        "include": STRINGS,
        "reasoning": Struct("ResponsesReasoning", {"effort": STRING, "summary": STRING}, package="openai"),
        "text": Struct(
            "ResponsesText",
            {
                "format": Struct(
                    "ResponsesTextFormat",
                    {"type": STRING, "name": STRING, "schema": ANY, "strict": BOOL},
                    package="openai",
                )
            },
            package="openai",
        ),
        "tools": Slice(ANY, "[]openai.ResponsesTool"),
    },
    package="openai",
)
MESSAGES: Final = Struct(
    "MessagesRequest",
    {
        "model": STRING,
        "max_tokens": INT,
        "messages": Slice(
            Struct("MessageParam", {"role": STRING, "content": ANY}, package="anthropic"),
            "[]anthropic.MessageParam",
        ),
        "system": ANY,
        "stream": BOOL,
        "temperature": FLOAT64,
        "top_p": FLOAT64,
        "top_k": INT,
        "stop_sequences": STRINGS,
        "thinking": Struct("ThinkingConfig", {"type": STRING, "budget_tokens": INT}, package="anthropic"),
        "output_config": Struct("OutputConfig", {"effort": STRING}, package="anthropic"),
        "tools": Slice(ANY, "[]anthropic.Tool"),
    },
    package="anthropic",
)

BY_ROUTE: Final[Mapping[str, Struct]] = MappingProxyType(
    {
        "/api/generate": GENERATE,
        "/api/chat": CHAT,
        "/api/embed": EMBED,
        "/api/embeddings": EMBEDDINGS,
        "/api/show": SHOW,
        "/api/copy": COPY,
        "/api/delete": DELETE,
        "/api/pull": PULL,
        "/api/push": PUSH,
        "/api/create": CREATE,
        "/v1/chat/completions": OPENAI_CHAT,
        "/v1/completions": OPENAI_COMPLETION,
        "/v1/embeddings": OPENAI_EMBEDDINGS,
        "/v1/responses": RESPONSES,
        "/v1/messages": MESSAGES,
    }
)
"""The body each route takes."""
