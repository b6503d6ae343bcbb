import contextlib

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.wire.forms import MAX_HEAD_BYTES, MAX_PARTS, MAX_VALUE_BYTES, MalformedForm, read_form

TYPE = "multipart/form-data; boundary=xYz"
NAMES = ("model", "prompt")


def part(name: str, value: bytes, more: str = "") -> bytes:
    return f'--xYz\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"


def form(*parts: bytes) -> bytes:
    return b"".join(parts) + b"--xYz--\r\n"


MODEL = part("model", b"tiny")
FILE = part("file", bytes(range(256)) * 40, '; filename="a.wav"\r\nContent-Type: audio/wav')


@pytest.mark.parametrize("body", [form(MODEL, FILE), form(FILE, MODEL), b"preamble\r\n" + form(FILE, MODEL)])
def test_fields_are_found_beside_files(body: bytes) -> None:
    assert read_form(TYPE, body, NAMES) == {"model": "tiny"}


def test_only_what_is_asked_for_is_read() -> None:
    body = form(part("language", b"en"), MODEL, part("prompt", "Grüße".encode()), part("Model", b"other"))
    assert read_form(TYPE, body, NAMES) == {"model": "tiny", "prompt": "Grüße"}
    assert read_form(TYPE, form(part("model", b"")), NAMES) == {"model": ""}


def test_the_first_of_two_counts() -> None:
    assert read_form(TYPE, form(MODEL, part("model", b"other")), NAMES) == {"model": "tiny"}


def test_a_file_is_no_field() -> None:
    assert read_form(TYPE, form(part("model", b"tiny", '; filename="model"')), NAMES) == {}


def test_what_looks_like_a_delimiter_is_none_without_its_line_end() -> None:
    tricky = b"a\r\n--xYzZy\r\n--xY\r\n--xYz b\r\nc"
    assert read_form(TYPE, form(part("prompt", tricky), MODEL), NAMES)["prompt"] == tricky.decode()


def test_spaces_after_a_delimiter_and_heads_without_a_name_do_not_matter() -> None:
    body = b"--xYz  \r\n\r\nnothing\r\n" + MODEL.replace(b"--xYz", b"--xYz\t")
    assert read_form(TYPE, form(body), NAMES) == {"model": "tiny"}


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/mixed; boundary=xYz",
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "x" * 71,
        'multipart/form-data; boundary="x;y"',
        "multipart/form-data; boundary=другая",
    ],
)
def test_what_is_not_said_to_be_a_form_is_none(content_type: str) -> None:
    with pytest.raises(MalformedForm):
        read_form(content_type, form(MODEL), NAMES)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"--xYz",
        b"--xYz\r\n",
        MODEL,
        form(MODEL)[:-4],
        b"--xYz\r\nContent-Disposition: form-data\r\n--xYz--\r\n",
        form(part("x", b"", "x" * MAX_HEAD_BYTES)),
        form(*[MODEL] * (MAX_PARTS + 1)),
        form(part("model", b"x" * (MAX_VALUE_BYTES + 1))),
    ],
)
def test_what_is_no_form_is_said_to_be_none(body: bytes) -> None:
    with pytest.raises(MalformedForm):
        read_form(TYPE, body, NAMES)


def test_a_quoted_boundary_is_understood() -> None:
    assert read_form('Multipart/Form-Data; charset=utf-8; boundary="xYz"', form(MODEL), NAMES)


async def test_what_a_client_writes_is_read() -> None:
    writer = aiohttp.FormData({"model": "tiny:latest"})
    writer.add_field("file", b"RIFF" + bytes(1000), filename='a "b" ü.wav', content_type="audio/wav")
    writer.add_field("prompt", "names: Łukasz")
    payload = writer()
    body = await payload.as_bytes()
    found = read_form(str(payload.headers["Content-Type"]), body, NAMES)
    assert found == {"model": "tiny:latest", "prompt": "names: Łukasz"}


@given(st.binary(max_size=200), st.text(max_size=60))
def test_no_body_makes_it_fail_otherwise(body: bytes, content_type: str) -> None:
    for each_type in (TYPE, content_type):
        for each in (body, b"--xYz\r\n" + body, form(MODEL[:-2] + body)):
            with contextlib.suppress(MalformedForm):
                read_form(each_type, each, NAMES)


@given(st.binary(max_size=300).filter(lambda data: b"xYz" not in data))
def test_any_file_is_passed_over(content: bytes) -> None:
    body = form(part("file", content, '; filename="a"'), MODEL)
    assert read_form(TYPE, body, NAMES) == {"model": "tiny"}
