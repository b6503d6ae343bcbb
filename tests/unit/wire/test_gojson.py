import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.wire import gojson
from ollama_dist.wire.gojson import EmptyBody, MalformedJson

# Go 1.26's json.NewDecoder(...).Decode(&any) said this.
COMPLAINTS = [
    (b'{"model": tiny}', "invalid character 'i' in literal true (expecting 'r')"),
    (b"nope", "invalid character 'o' in literal null (expecting 'u')"),
    (b"{]", "invalid character ']' looking for beginning of object key string"),
    (b'{"model":', "unexpected EOF"),
    (b"{", "unexpected EOF"),
    (b"<html>", "invalid character '<' looking for beginning of value"),
    (b"'x'", "invalid character '\\'' looking for beginning of value"),
    (b"\xef\xbb\xbf{}", "invalid character 'ï' looking for beginning of value"),
    (b"\x00", "invalid character '\\x00' looking for beginning of value"),
    (b"\x1f\x8b\x08", "invalid character '\\x1f' looking for beginning of value"),
    (b'{"a" 1}', "invalid character '1' after object key"),
    (b'{"a":1 "b":2}', "invalid character '\"' after object key:value pair"),
    (b'{"a":1,}', "invalid character '}' looking for beginning of object key string"),
    (b"[1 2]", "invalid character '2' after array element"),
    (b"[1,]", "invalid character ']' looking for beginning of value"),
    (b"[01]", "invalid character '1' after array element"),
    (b"[NaN]", "invalid character 'N' looking for beginning of value"),
    (b"[-x]", "invalid character 'x' in numeric literal"),
    (b"[1.x]", "invalid character 'x' after decimal point in numeric literal"),
    (b"1.x", "invalid character 'x' after decimal point in numeric literal"),
    (b"[1e+x]", "invalid character 'x' in exponent of numeric literal"),
    (b'"a\nb"', "invalid character '\\n' in string literal"),
    (b'"\\x"', "invalid character 'x' in string escape code"),
    (b'"\\u12g4"', "invalid character 'g' in \\u hexadecimal character escape"),
    (b'"abc', "unexpected EOF"),
    (b"[" * 20_000, "exceeded max depth"),
]


@pytest.mark.parametrize(("data", "complaint"), COMPLAINTS)
def test_what_is_malformed_is_told_in_the_words_of_go(data: bytes, complaint: str) -> None:
    with pytest.raises(MalformedJson) as caught:
        gojson.loads(data)
    assert str(caught.value) == complaint


@pytest.mark.parametrize("data", [b"", b" \r\n\t"])
def test_a_body_without_a_value_is_empty(data: bytes) -> None:
    with pytest.raises(EmptyBody):
        gojson.loads(data)


def test_bytes_after_the_first_value_do_not_count() -> None:
    assert gojson.loads(b' {"model":"a"} {"model":"b"} garbage') == {"model": "a"}
    assert gojson.loads(b"5 x") == 5


def test_every_invalid_byte_becomes_a_replacement_character() -> None:
    assert gojson.loads(b'"a\xff\xe6\x97b\xc3\xa9"') == "a\ufffd\ufffd\ufffdbé"


def test_a_surrogate_without_its_partner_becomes_a_replacement_character() -> None:
    assert gojson.loads(rb'"\ud83d\ude00 \ud800 x \udc00 \\ud800"') == "😀 \ufffd x \ufffd \\ud800"


def test_field_names_match_without_regard_to_case_and_the_last_wins() -> None:
    assert gojson.read_object(b'{"MODEL":"a","Stream":false}') == {"model": "a", "stream": False}
    assert gojson.read_object(b'{"model":"a","Model":"b"}') == {"model": "b"}
    assert gojson.read_object(b'{"model":"a","MODEL":"b","model":"c"}') == {"model": "c"}
    assert gojson.read_object(b'{"me\xc5\xbf\xc5\xbfages":[],"to\xe2\x84\xaaen":1}') == {
        "messages": [],
        "token": 1,
    }


def test_only_an_object_or_null_has_fields() -> None:
    assert gojson.read_object(b"null") == {}
    with pytest.raises(MalformedJson, match="cannot unmarshal array"):
        gojson.read_object(b"[]")


def test_a_large_malformed_body_is_given_up_on_rather_than_searched_to_its_end() -> None:
    with pytest.raises(MalformedJson, match="malformed JSON"):
        gojson.loads(b"[" + b"[]," * gojson.MAX_TOKENS_TO_FAULT + b"}")


def test_printing_escapes_what_html_and_script_would_trip_over() -> None:
    assert gojson.encode({"b": "<b>&\u2028\u2029é", "a": 1}) == (
        '{"b":"\\u003cb\\u003e\\u0026\\u2028\\u2029é","a":1}'.encode()
    )
    assert gojson.encode_line({}) == b"{}\n"


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (5.0, "5"),
        (-0.0, "-0"),
        (0.5, "0.5"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1e-6, "0.000001"),
        (1.25e-6, "0.00000125"),
        (1e-7, "1e-7"),
        (-1.5e-10, "-1.5e-10"),
        (1.5e300, "1.5e+300"),
        (123456789.125, "123456789.125"),
    ],
)
def test_floats_print_as_go_prints_them(number: float, text: str) -> None:
    assert gojson.encode([number]) == f"[{text}]".encode()


texts = st.text(st.characters(codec="utf-8"), max_size=8)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
)
json_values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_what_is_printed_reads_back_the_same(value: Any) -> None:
    assert gojson.loads(gojson.encode(value)) == value


@given(json_values, st.sampled_from([b" x", b"]", b'"', b"\xff"]))
def test_the_careful_way_reads_what_the_fast_way_reads(value: Any, tail: bytes) -> None:
    text = json.dumps(value).encode()
    if text[-1:].isdigit():
        text += b" "
    assert gojson.loads(text + tail) == gojson.loads(text) == value


@given(st.binary(max_size=40) | st.text('{}[]":,\\ue1-. tn', max_size=12).map(str.encode))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    value: object = None
    with contextlib.suppress(MalformedJson):
        value = gojson.loads(data)
    assert gojson.kind(value) in ("null", "bool", "number", "string", "array", "object")
