import pytest

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire.durations import FOREVER
from ollama_dist.wire.llamacpp.asks import (
    BadFormat,
    ChatAsk,
    EmbedAsk,
    check_format,
    read_chat,
    read_embed,
    read_embeddings,
    read_generate,
)


def test_a_chat_is_read_with_its_terms() -> None:
    ask = read_chat(
        b'{"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": false, "keep_alive": -1,'
        b' "think": "low", "options": {"seed": 1}, "format": "json", "truncate": false}'
    )
    assert ask.messages == [{"role": "user", "content": "hi"}]
    assert not ask.terms.stream
    assert not ask.terms.truncate
    assert ask.terms.shift
    assert (ask.terms.keep_alive, ask.terms.think, ask.terms.format) == (FOREVER, "low", "json")


def test_without_messages_there_is_nothing_to_say() -> None:
    assert read_chat(b'{"model": "m", "messages": []}') == ChatAsk("m", [], [])
    assert read_chat(b'{"model": "m"}').is_empty
    assert read_generate(b'{"model": "m"}').is_empty


def test_a_prompt_is_read_with_what_goes_around_it() -> None:
    ask = read_generate(b'{"model": "m", "prompt": "p", "suffix": "s", "raw": true, "context": [1, 2]}')
    assert (ask.prompt, ask.suffix, ask.raw, ask.context) == ("p", "s", True, [1, 2])
    assert ask.terms.stream


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        (b"", "missing request body"),
        (b"{", "unexpected EOF"),
        (b'{"model": 1}', "cannot unmarshal number into Go struct field"),
        (b'{"top_logprobs": 21}', "top_logprobs must be between 0 and 20"),
        (b'{"keep_alive": "5"}', 'missing unit in duration "5"'),
    ],
)
def test_mistakes_are_told_in_ollamas_words(body: bytes, complaint: str) -> None:
    with pytest.raises(BadRequest, match=complaint):
        read_chat(body)


@pytest.mark.parametrize(
    ("given", "texts"), [("null", ()), ('""', ()), ("[]", []), ('"a"', ("a",)), ('["a", ""]', ["a", ""])]
)
def test_texts_to_embed(given: str, texts: object) -> None:
    assert read_embed(b'{"model": "m", "input": %s}' % given.encode()).texts == texts


def test_texts_to_embed_must_be_texts() -> None:
    with pytest.raises(BadRequest, match="invalid input type"):
        read_embed(b'{"model": "m", "input": [5]}')


def test_the_older_route_embeds_one_prompt() -> None:
    assert read_embeddings(b'{"model": "m", "prompt": "p"}') == EmbedAsk("m", ["p"])
    assert read_embeddings(b'{"model": "m"}') == EmbedAsk("m")


def test_formats() -> None:
    assert check_format(None) is check_format("") is None
    assert check_format("json") == "json"
    assert check_format({"type": "object"}) == {"type": "object"}
    with pytest.raises(BadFormat, match=r'invalid format: "\\"yaml\\""; expected "json"'):
        check_format("yaml")
