import pytest

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire import gojson, structs
from ollama_dist.wire.gotypes import Struct, WrongType, decode

# Real servers said this.
COMPLAINTS = [
    (structs.GENERATE, b"[]", "json: cannot unmarshal array into Go value of type api.GenerateRequest"),
    (
        structs.GENERATE,
        b'{"prompt":5}',
        "json: cannot unmarshal number into Go struct field GenerateRequest.prompt of type string",
    ),
    (
        structs.GENERATE,
        b'{"STREAM":"yes"}',
        "json: cannot unmarshal string into Go struct field GenerateRequest.stream of type bool",
    ),
    (
        structs.GENERATE,
        b'{"options":[1]}',
        "json: cannot unmarshal array into Go struct field GenerateRequest.options of type "
        "map[string]interface {}",
    ),
    (
        structs.GENERATE,
        b'{"context":[1,2.5]}',
        "json: cannot unmarshal number 2.5 into Go struct field GenerateRequest.context of type int",
    ),
    (structs.GENERATE, b'{"images":["%%%"]}', "illegal base64 data at input byte 0"),
    (structs.GENERATE, b'{"images":["abcdef"]}', "illegal base64 data at input byte 4"),
    (
        structs.CHAT,
        b'{"messages":[{"content":5}]}',
        "json: cannot unmarshal number into Go struct field ChatRequest.messages.content of type string",
    ),
    (
        structs.CHAT,
        b'{"messages":[{"content":[]}]}',
        "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string",
    ),
    (
        structs.CHAT,
        b'{"messages":["x"]}',
        "json: cannot unmarshal string into Go struct field ChatRequest.messages of type api.Alias",
    ),
    (
        structs.CHAT,
        b'{"messages":[{"tool_calls":[{"function":{"name":5}}]}]}',
        "json: cannot unmarshal number into Go struct field ChatRequest.messages.tool_calls.function.name "
        "of type string",
    ),
    (
        structs.CHAT,
        b'{"tools":"x"}',
        "json: cannot unmarshal string into Go struct field ChatRequest.tools of type api.Tools",
    ),
    (
        structs.CHAT,
        b'{"tools":[{"function":{"name":5}}]}',
        "json: cannot unmarshal number into Go struct field ToolFunction.tools.function.name of type string",
    ),
    (
        structs.OPENAI_CHAT,
        b'{"stream_options":{"include_usage":5}}',
        "json: cannot unmarshal number into Go struct field StreamOptions.stream_options.include_usage "
        "of type bool",
    ),
    (
        structs.CREATE,
        b'{"files":{"a":1}}',
        "json: cannot unmarshal number into Go struct field CreateRequest.files of type string",
    ),
    (structs.CHAT, b'{"model":5,"keep_alive":"soon"}', 'time: invalid duration "soon"'),
    (
        structs.CHAT,
        b'{"think":"very"}',
        'invalid think value: "very" (must be "high", "medium", "low", "max", true, or false)',
    ),
]


@pytest.mark.parametrize(("struct", "data", "complaint"), COMPLAINTS)
def test_a_wrong_type_is_told_in_the_words_of_go(struct: Struct, data: bytes, complaint: str) -> None:
    with pytest.raises(BadRequest) as caught:
        decode(data, struct)
    assert str(caught.value) == complaint


def test_the_first_wrong_type_is_told_unless_a_message_further_on_has_one() -> None:
    with pytest.raises(WrongType, match=r"ChatRequest\.stream "):
        decode(b'{"stream":5,"model":5}', structs.CHAT)
    with pytest.raises(WrongType, match=r"ChatRequest\.messages\.content "):
        decode(b'{"model":5,"messages":[{"content":6}]}', structs.CHAT)


def test_known_fields_come_out_under_their_own_names_and_null_sets_nothing() -> None:
    body = b'{"Model":"tiny","PROMPT":"hi","stream":null,"foreign":1,"Options":{"Seed":1}} trailing'
    assert decode(body, structs.GENERATE) == {"model": "tiny", "prompt": "hi", "options": {"Seed": 1}}
    assert decode(b"null", structs.GENERATE) == {}


def test_messages_keep_what_their_struct_knows() -> None:
    body = b'{"messages":[{"Role":"user","content":"hi","x":1,"images":["iVBORw0="]},null]}'
    assert decode(body, structs.CHAT)["messages"] == [
        {"role": "user", "content": "hi", "images": ["iVBORw0="]},
        None,
    ]


def test_an_empty_body_is_told_apart() -> None:
    with pytest.raises(gojson.EmptyBody):
        decode(b"", structs.GENERATE)
