import json
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.errors import BadRequest
from ollama_dist.wire import gojson
from ollama_dist.wire.llamacpp.vectors import normalized, packed_vector, printed, shortened

floats32 = st.floats(-1, 1, width=32)


def test_a_vector_is_brought_to_length_one() -> None:
    assert normalized([3.0, 4.0]) == [0.6, 0.8]
    assert shortened([3.0, 4.0, 12.0], 2) == [0.6, 0.8]
    assert shortened([3.0, 4.0], 5) == [0.6, 0.8]
    assert normalized([0.0, 0.0]) == [0.0, 0.0]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_has_no_length_is_refused(value: float) -> None:
    with pytest.raises(BadRequest, match="NaN or Inf"):
        normalized([value])


@given(st.lists(floats32))
def test_printed_digits_tell_all_of_a_32_bit_float(values: list[float]) -> None:
    read = json.loads(gojson.encode({"values": printed(values)}))["values"]
    assert [struct.pack("<f", value) for value in read] == [
        struct.pack("<f", value + 0.0) for value in values
    ]


def test_packed() -> None:
    assert packed_vector([1.0]) == "AACAPw=="
