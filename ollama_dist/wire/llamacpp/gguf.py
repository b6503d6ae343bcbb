"""The head of a GGUF file: its metadata and the list of its tensors, without reading the tensors.

Format: ggml's ``docs/gguf.md``, versions 2 and 3, little-endian. Everything is bounded, so that a broken or
hostile file costs a moment and a line.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, BinaryIO, Final

from ollama_dist.core.errors import DistError

MAX_HEAD_BYTES: Final = 256 * 2**20
"""The largest vocabularies take about 20 MiB."""

MAX_ENTRIES: Final = 100_000
MAX_TENSORS: Final = 200_000
MAX_STRING_BYTES: Final = 16 * 2**20
MAX_NAME_BYTES: Final = 64 * 1024

_READ_BYTES: Final = 256 * 1024

Value = str | int | float | bool | None


class BadGguf(DistError):
    """The file is no GGUF this engine can read; the message says why in one line."""

    code = "bad_gguf"


@dataclass(frozen=True, slots=True)
class Tensor:
    name: str
    type: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Gguf:
    """The head of a file. ``values`` holds None where the file has an array: vocabularies are not kept."""

    values: Mapping[str, Value]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        return str(self.values.get("general.architecture", ""))

    @property
    def parameter_count(self) -> int:
        return sum(prod(tensor.shape) for tensor in self.tensors)

    def own(self, name: str) -> Value:
        """The value under ``<architecture>.<name>``."""
        return self.values.get(f"{self.architecture}.{name}")

    def own_int(self, name: str) -> int:
        """As `own`, zero where there is no whole number."""
        value = self.own(name)
        return value if isinstance(value, int) else 0


def read_gguf(stream: BinaryIO, size: int) -> Gguf:
    """The head of the file in ``stream``, which is ``size`` bytes long.

    Raises `BadGguf`, also when the file ends before its tensors do, as one still being copied does.
    """
    cursor = _Cursor(stream)
    try:
        gguf, data_end = _read(cursor)
    except UnicodeDecodeError as error:
        raise BadGguf("a text in its head is not UTF-8") from error
    if data_end > size:
        raise BadGguf(f"it ends after {size} of at least {data_end} bytes")
    return gguf


class _Cursor:
    """Reads a stream from its beginning, in large steps and never beyond `MAX_HEAD_BYTES`."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self._offset = 0
        self.position = 0
        """Bytes taken since the beginning."""

    def take(self, count: int) -> bytes:
        end = self._offset + count
        if end > len(self._buffer):
            self._fill(count)
            end = count
        taken = self._buffer[self._offset : end]
        self._offset = end
        self.position += count
        return taken

    def skip(self, count: int) -> None:
        left = count
        while left > 0:
            step = min(left, _READ_BYTES)
            self.take(step)
            left -= step

    def unpack(self, shape: struct.Struct) -> Any:
        return shape.unpack(self.take(shape.size))[0]

    def text(self, limit: int = MAX_STRING_BYTES) -> str:
        return self.take(self._length(limit)).decode()

    def skip_texts(self, count: int) -> None:
        """Pass over ``count`` texts: a vocabulary has hundreds of thousands, so only lengths are read."""
        while count:
            buffer, offset = self._buffer, self._offset
            last = len(buffer) - _U64.size
            while count and offset <= last:
                after = offset + _U64.size + _U64.unpack_from(buffer, offset)[0]
                if after > len(buffer):
                    break
                offset = after
                count -= 1
            self.position += offset - self._offset
            self._offset = offset
            if count:
                self.skip(self._length(MAX_STRING_BYTES))
                count -= 1

    def count(self, limit: int, what: str) -> int:
        number = int(self.unpack(_U64))
        if number > limit:
            raise BadGguf(f"it claims to have {number} {what}")
        return number

    def _length(self, limit: int) -> int:
        return self.count(limit, "bytes in one text")

    def _fill(self, count: int) -> None:
        if self.position + count > MAX_HEAD_BYTES:
            raise BadGguf(f"its head is longer than {MAX_HEAD_BYTES} bytes")
        rest = self._buffer[self._offset :]
        missing = count - len(rest)
        more = self._stream.read(max(missing, _READ_BYTES))
        if len(more) < missing:
            raise BadGguf("it ends within its head")
        self._buffer = rest + more
        self._offset = 0


_U32: Final = struct.Struct("<I")
_U64: Final = struct.Struct("<Q")

_STRING: Final = 8
_ARRAY: Final = 9
_SCALARS: Final = {
    0: struct.Struct("<B"),
    1: struct.Struct("<b"),
    2: struct.Struct("<H"),
    3: struct.Struct("<h"),
    4: _U32,
    5: struct.Struct("<i"),
    6: struct.Struct("<f"),
    7: struct.Struct("<?"),
    10: _U64,
    11: struct.Struct("<q"),
    12: struct.Struct("<d"),
}


def _read(cursor: _Cursor) -> tuple[Gguf, int]:
    """The head, and where the last tensor ends in the file."""
    if cursor.take(4) != b"GGUF":
        raise BadGguf("it does not begin with GGUF")
    version = cursor.unpack(_U32)
    if version not in (2, 3):
        raise BadGguf(f"its format is version {version}, not 2 or 3")
    tensor_count = cursor.count(MAX_TENSORS, "tensors")
    entries = cursor.count(MAX_ENTRIES, "entries")
    values = dict(_entry(cursor) for _ in range(entries))
    if not isinstance(values.get("general.architecture"), str):
        raise BadGguf("it names no architecture")
    tensors = []
    end = 0
    for _ in range(tensor_count):
        tensor, offset, length = _tensor(cursor)
        tensors.append(tensor)
        end = max(end, offset + length)
    alignment = values.get("general.alignment")
    step = alignment if isinstance(alignment, int) and 0 < alignment <= 2**20 else 32
    data_begins = -(-cursor.position // step) * step
    return Gguf(values, tuple(tensors)), data_begins + end if tensors else cursor.position


def _entry(cursor: _Cursor) -> tuple[str, Value]:
    name = cursor.text(MAX_NAME_BYTES)
    return name, _value(cursor, cursor.unpack(_U32))


def _value(cursor: _Cursor, kind: int) -> Value:
    if kind == _STRING:
        return cursor.text()
    if kind == _ARRAY:
        _skip_array(cursor)
        return None
    scalar = _SCALARS.get(kind)
    if scalar is None:
        raise BadGguf(f"it holds a value of the unknown type {kind}")
    value: Value = cursor.unpack(scalar)
    return value


def _skip_array(cursor: _Cursor) -> None:
    kind = cursor.unpack(_U32)
    count = cursor.count(MAX_HEAD_BYTES, "values in one array")
    if kind == _STRING:
        cursor.skip_texts(count)
    elif scalar := _SCALARS.get(kind):
        cursor.skip(count * scalar.size)
    else:
        raise BadGguf(f"it holds an array of the unknown type {kind}")


def _tensor(cursor: _Cursor) -> tuple[Tensor, int, int]:
    """A tensor, where it begins in the data, and how many bytes it takes (0 where its type is not known)."""
    name = cursor.text(MAX_NAME_BYTES)
    dimensions = cursor.unpack(_U32)
    if dimensions > 8:
        raise BadGguf(f"it has a tensor of {dimensions} dimensions")
    shape = tuple(cursor.unpack(_U64) for _ in range(dimensions))
    kind = cursor.unpack(_U32)
    offset = cursor.unpack(_U64)
    label, block, size = _TENSOR_TYPES.get(kind, (str(kind), 1, 0))
    return Tensor(name, label, shape), offset, prod(shape) // block * size


_TENSOR_TYPES: Final[Mapping[int, tuple[str, int, int]]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""Per ``ggml_type``: its name, the values in one block, the bytes of one block (ggml's ``ggml.c``)."""
