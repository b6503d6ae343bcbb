import re

import pytest

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire import gojson, structs
from ollama_dist.wire.failures import error_text
from ollama_dist.wire.gotypes import decode
from tests.support import recordings

OF_THE_DECODER = re.compile(
    r"json: .*|invalid character .*|unexpected EOF|time: .*|illegal base64 .*|invalid think value: .*"
)
YOUNGER_THAN_0_5 = {"gen-think-bad"}
CHUNKED = {"gen-chunked-body"}


@pytest.mark.parametrize("age", recordings.VERSIONS)
def test_recorded_bodies_are_taken_or_refused_in_the_words_of_the_server(age: str) -> None:
    for exchange in recordings.exchanges(age):
        struct = structs.BY_ROUTE.get(exchange.path)
        if (
            struct is None
            or not exchange.body
            or exchange.id in CHUNKED
            or exchange.answer.startswith(b"404")
        ):
            continue
        said = error_text(exchange.answer) if exchange.status == 400 else ""
        expected = said if OF_THE_DECODER.fullmatch(said) else ""
        if age != "0.33.0-rc2":  # where the levels of thinking have one more
            expected = expected.replace('"low", true', '"low", "max", true')
        if age == "0.5.13" and exchange.id in YOUNGER_THAN_0_5:
            continue
        try:
            decode(exchange.body, struct)
            complaint = ""
        except BadRequest as error:
            complaint = str(error)
        assert (exchange.id, complaint) == (exchange.id, expected)


def test_an_empty_body_is_empty_to_every_struct() -> None:
    for struct in structs.BY_ROUTE.values():
        with pytest.raises(gojson.EmptyBody):
            decode(b" ", struct)
