import json

from ollama_dist.wire.llamacpp.native import ChatWriter, GenerateWriter, embed_body, embeddings_body
from ollama_dist.wire.llamacpp.pieces import Finish, Piece, ToolCall

FINISH = Finish("length", 3, 10, 2, 20, 100, 5, context=[1, 2])
CALL = ToolCall("c", 0, "f", {"a": 1})


def test_a_chat_is_written_in_ollamas_order() -> None:
    writer = ChatWriter("m")
    assert writer.piece(Piece("<a>", "t"), 0.5) == (
        b'{"model":"m","created_at":"1970-01-01T00:00:00.500000Z","message":{"role":"assistant",'
        b'"content":"\\u003ca\\u003e","thinking":"t"},"done":false}\n'
    )
    last = json.loads(writer.finish(FINISH, 1.0))
    assert list(last) == [
        "model",
        "created_at",
        "message",
        "done",
        "done_reason",
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ]


def test_calls_are_objects() -> None:
    line = json.loads(ChatWriter("m").piece(Piece(tool_calls=(CALL,)), 1.0))
    function = {"index": 0, "name": "f", "arguments": {"a": 1}}
    assert line["message"]["tool_calls"] == [{"id": "c", "function": function}]


def test_probabilities_stand_where_ollama_puts_them() -> None:
    piece = Piece("a", logprobs=({"token": "a"},))
    assert list(json.loads(ChatWriter("m").whole(piece, FINISH, 1.0)))[4:6] == ["done_reason", "logprobs"]
    assert list(json.loads(GenerateWriter("m").whole(piece, FINISH, 1.0)))[-1] == "logprobs"
    assert json.loads(GenerateWriter("m").piece(piece, 1.0))["logprobs"] == [{"token": "a"}]


def test_a_generation_carries_its_context() -> None:
    last = json.loads(GenerateWriter("m").finish(FINISH, 1.0))
    assert last["context"] == [1, 2]
    assert last["done_reason"] == "length"
    shortcut = json.loads(GenerateWriter("m").whole(Piece(), Finish("load"), 1.0))
    assert list(shortcut) == ["model", "created_at", "response", "done", "done_reason"]


def test_a_rendered_prompt_is_told_apart() -> None:
    told = json.loads(GenerateWriter("m").rendered("p", 1.0))
    assert told["_debug_info"] == {"rendered_template": "p"}
    assert json.loads(ChatWriter("m").rendered("p", 1.0))["message"] == {"role": "", "content": ""}


def test_vectors() -> None:
    body = json.loads(embed_body("m", [[0.5, 1 / 3]], total_ns=9, load_ns=0, tokens=2))
    assert body == {
        "model": "m",
        "embeddings": [[0.5, 0.333333333]],
        "total_duration": 9,
        "prompt_eval_count": 2,
    }
    assert embeddings_body(()) == b'{"embedding":[]}'
