"""Models of a few hundred kilobytes, made up on the spot: for the demonstration and the tests.

A scripted one says its sentence and stops, at any temperature; a random one babbles, the same for the same
seed at temperature 0. Written without a library, so that the demonstration needs none.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, Final

TEMPLATE: Final = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

_WIDTH: Final = 128
_KV_WIDTH: Final = 64
_FEED_FORWARD: Final = 128
_BLOCKS: Final = 2
_HEADS: Final = 4
_CONTEXT: Final = 2048

_SPACE: Final = "\N{LOWER ONE EIGHTH BLOCK}"
"""How vocabularies of this kind write a space before a word."""

_UNKNOWN, _BEGIN, _END = 0, 1, 2
_CONTROLS: Final = ("<|user|>", "<|assistant|>", "<|system|>", "<|end|>")

_NORMAL_TYPE, _UNKNOWN_TYPE, _CONTROL_TYPE, _BYTE_TYPE = 1, 2, 3, 6


def write_tiny_model(path: Path, sentence: str, *, endless: bool = False) -> None:
    """Write a model that answers anything with ``sentence``, over and over if it is ``endless``.

    Raises ValueError if a word is in it twice.
    """
    words = sentence.split()
    if not words or len(set(words)) != len(words):
        raise ValueError("a scripted model needs a sentence in which no word comes twice")
    vocabulary = _vocabulary(words)
    _write(path, "tiny-scripted", vocabulary, _scripted(vocabulary, words, Random(sentence), endless))


def write_random_model(path: Path, *, seed: int = 1, words: Sequence[str] = ("hello", "world")) -> None:
    """Write a model that answers with noise made of ``words``, letters and their beginnings."""
    vocabulary = _vocabulary(words)
    _write(path, "tiny-random", vocabulary, _random(vocabulary, Random(seed)))


# The vocabulary


@dataclass(frozen=True, slots=True)
class _Vocabulary:
    tokens: list[str]
    scores: list[float]
    types: list[int]

    def index(self, token: str) -> int:
        return self.tokens.index(token)


def _vocabulary(words: Sequence[str]) -> _Vocabulary:
    """Special tokens, every byte, single characters, and each word with all its beginnings.

    The beginnings are there for reading: the tokenizer joins pieces pair by pair, and must find each step.
    """
    found = _Vocabulary([], [], [])

    def add(token: str, score: float, kind: int) -> None:
        if token not in known:
            known.add(token)
            found.tokens.append(token)
            found.scores.append(score)
            found.types.append(kind)

    known: set[str] = set()
    add("<unk>", 0.0, _UNKNOWN_TYPE)
    add("<s>", 0.0, _CONTROL_TYPE)
    add("</s>", 0.0, _CONTROL_TYPE)
    for byte in range(256):
        add(f"<0x{byte:02X}>", 0.0, _BYTE_TYPE)
    for control in _CONTROLS:
        add(control, 0.0, _CONTROL_TYPE)
    add(_SPACE, -50.0, _NORMAL_TYPE)
    for char in sorted({char for word in words for char in word} | set(_ASCII)):
        add(char, -50.0, _NORMAL_TYPE)
    for word in words:
        spelt = _SPACE + word
        add(spelt, -1.5, _NORMAL_TYPE)
        for length in range(2, len(spelt)):
            add(spelt[:length], -3.0 + length / 100, _NORMAL_TYPE)
    return found


_ASCII: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,:;!?'\"-()"


# The weights

_Matrix = list[list[float]]


@dataclass(frozen=True, slots=True)
class _Weights:
    embeddings: _Matrix
    output: _Matrix
    attention_output: _Matrix
    feed_forward_down: _Matrix
    rng: Random
    """For the matrices that only have to be there."""


def _noise(rng: Random, rows: int, columns: int) -> _Matrix:
    scale = 1 / math.sqrt(columns)
    return [[rng.gauss(0.0, scale) for _ in range(columns)] for _ in range(rows)]


def _zeros(rows: int, columns: int) -> _Matrix:
    return [[0.0] * columns for _ in range(rows)]


def _scripted(vocabulary: _Vocabulary, words: Sequence[str], rng: Random, endless: bool) -> _Weights:
    """A chain: nothing but the last token counts, and each points at the next."""
    count = len(vocabulary.tokens)
    embeddings = [[rng.gauss(0.0, 1.0) for _ in range(_WIDTH)] for _ in range(count)]
    output = _zeros(count, _WIDTH)
    steps = [vocabulary.index(_SPACE + word) for word in words]
    before_first = [_BEGIN, _END, vocabulary.index("<|end|>"), vocabulary.index("<|assistant|>")]
    follows = [(token, steps[0]) for token in before_first]
    follows += [*pairwise(steps), (steps[-1], steps[0] if endless else _END)]
    for current, following in follows:
        norm = math.sqrt(sum(value * value for value in embeddings[current]))
        row = output[following]
        for column, value in enumerate(embeddings[current]):
            row[column] += _CERTAINTY * value / norm
    blank = _zeros(_WIDTH, _WIDTH)
    return _Weights(embeddings, output, blank, _zeros(_WIDTH, _FEED_FORWARD), rng)


_CERTAINTY: Final = 4.0
"""How much louder the next word is than all others: enough at any temperature people use."""


def _random(vocabulary: _Vocabulary, rng: Random) -> _Weights:
    output = _noise(rng, len(vocabulary.tokens), _WIDTH)
    for token, kind in enumerate(vocabulary.types):
        if kind == _BYTE_TYPE:  # single bytes are no text
            output[token] = [0.0] * _WIDTH
    return _Weights(
        _noise(rng, len(vocabulary.tokens), _WIDTH),
        output,
        _noise(rng, _WIDTH, _WIDTH),
        _noise(rng, _WIDTH, _FEED_FORWARD),
        rng,
    )


# The file

_F32, _F16 = 0, 1
_ALIGNMENT: Final = 32


@dataclass(frozen=True, slots=True)
class _TensorData:
    name: str
    shape: tuple[int, ...]
    """Columns first, as the format has it."""
    type: int
    data: bytes


def _write(path: Path, name: str, vocabulary: _Vocabulary, weights: _Weights) -> None:
    entries = list(_entries(name, vocabulary))
    tensors = list(_tensors(weights))
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(entries)), *entries]
    offset = 0
    for tensor in tensors:
        head += [_text(tensor.name), struct.pack("<I", len(tensor.shape))]
        head += [struct.pack("<Q", length) for length in tensor.shape]
        head.append(struct.pack("<IQ", tensor.type, offset))
        offset += len(_padded(tensor.data))
    body = _padded(b"".join(head)) + b"".join(_padded(tensor.data) for tensor in tensors)
    path.write_bytes(body)


def _tensors(weights: _Weights) -> Iterable[_TensorData]:
    yield _half("token_embd.weight", weights.embeddings)
    yield _ones("output_norm.weight")
    yield _half("output.weight", weights.output)
    for block in range(_BLOCKS):
        yield _ones(f"blk.{block}.attn_norm.weight")
        yield _ones(f"blk.{block}.ffn_norm.weight")
        yield _half(f"blk.{block}.attn_q.weight", _noise(weights.rng, _WIDTH, _WIDTH))
        yield _half(f"blk.{block}.attn_k.weight", _noise(weights.rng, _KV_WIDTH, _WIDTH))
        yield _half(f"blk.{block}.attn_v.weight", _noise(weights.rng, _KV_WIDTH, _WIDTH))
        yield _half(f"blk.{block}.attn_output.weight", weights.attention_output)
        yield _half(f"blk.{block}.ffn_gate.weight", _noise(weights.rng, _FEED_FORWARD, _WIDTH))
        yield _half(f"blk.{block}.ffn_up.weight", _noise(weights.rng, _FEED_FORWARD, _WIDTH))
        yield _half(f"blk.{block}.ffn_down.weight", weights.feed_forward_down)


def _half(name: str, matrix: _Matrix) -> _TensorData:
    columns = len(matrix[0])
    data = b"".join(struct.pack(f"<{columns}e", *row) for row in matrix)
    return _TensorData(name, (columns, len(matrix)), _F16, data)


def _ones(name: str) -> _TensorData:
    return _TensorData(name, (_WIDTH,), _F32, struct.pack(f"<{_WIDTH}f", *[1.0] * _WIDTH))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


def _entries(name: str, vocabulary: _Vocabulary) -> Iterable[bytes]:
    yield _entry("general.architecture", "llama")
    yield _entry("general.name", name)
    yield _entry("general.file_type", 1)
    yield _entry("llama.context_length", _CONTEXT)
    yield _entry("llama.embedding_length", _WIDTH)
    yield _entry("llama.block_count", _BLOCKS)
    yield _entry("llama.feed_forward_length", _FEED_FORWARD)
    yield _entry("llama.attention.head_count", _HEADS)
    yield _entry("llama.attention.head_count_kv", _KV_WIDTH * _HEADS // _WIDTH)
    yield _entry("llama.attention.layer_norm_rms_epsilon", 1e-5)
    yield _entry("llama.rope.dimension_count", _WIDTH // _HEADS)
    yield _entry("llama.vocab_size", len(vocabulary.tokens))
    yield _entry("tokenizer.ggml.model", "llama")
    yield _entry("tokenizer.ggml.pre", "default")
    yield _array("tokenizer.ggml.tokens", vocabulary.tokens)
    yield _array("tokenizer.ggml.scores", vocabulary.scores)
    yield _array("tokenizer.ggml.token_type", vocabulary.types)
    yield _entry("tokenizer.ggml.bos_token_id", _BEGIN)
    yield _entry("tokenizer.ggml.eos_token_id", _END)
    yield _entry("tokenizer.ggml.unknown_token_id", _UNKNOWN)
    yield _entry("tokenizer.ggml.eot_token_id", vocabulary.index("<|end|>"))
    yield _entry("tokenizer.ggml.add_bos_token", True)
    yield _entry("tokenizer.ggml.add_eos_token", False)
    yield _entry("tokenizer.chat_template", TEMPLATE)


def _entry(name: str, value: str | int | float | bool) -> bytes:
    kind, data = _scalar(value)
    return _text(name) + struct.pack("<I", kind) + data


def _array(name: str, values: Sequence[Any]) -> bytes:
    scalars = [_scalar(value, signed=True) for value in values]
    head = struct.pack("<IIQ", 9, scalars[0][0], len(scalars))
    return _text(name) + head + b"".join(data for _, data in scalars)


def _scalar(value: str | int | float | bool, *, signed: bool = False) -> tuple[int, bytes]:
    match value:
        case bool():
            return 7, struct.pack("<?", value)
        case int():
            return (5, struct.pack("<i", value)) if signed else (4, struct.pack("<I", value))
        case float():
            return 6, struct.pack("<f", value)
        case str():
            return 8, _text(value)


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data
