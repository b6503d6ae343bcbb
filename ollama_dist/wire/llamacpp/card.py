"""What Ollama's listings tell of a model, worked out from the head of its GGUF file and the notes beside it.

Notes are what a Modelfile says elsewhere, as JSON: ``parameters``, ``system``, ``template`` (Jinja, in place
of the file's own), ``messages``, ``license``. Sources: Ollama's ``server/images.go`` (capabilities) and
``format/format.go``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from ollama_dist.core.errors import BadRequest, DistError
from ollama_dist.wire.gotypes import ANY, MAP, STRING, Struct, decode
from ollama_dist.wire.llamacpp.gguf import Gguf
from ollama_dist.wire.llamacpp.options import RunnerOptions, Sampling, WrongOption, read_options
from ollama_dist.wire.structs import CHAT

_NOTES: Final = Struct(
    "Notes",
    {
        "parameters": MAP,
        "system": STRING,
        "template": STRING,
        "license": ANY,
        "messages": CHAT.fields["messages"],
    },
    package="notes",
)


class BadNotes(DistError):
    """The notes beside a model cannot be used; the message says why in one line."""

    code = "bad_notes"


@dataclass(frozen=True, slots=True)
class Notes:
    """What the person who put the model there has to say about it."""

    parameters: Mapping[str, Any] = field(default_factory=dict)
    system: str = ""
    template: str = ""
    license: str = ""
    messages: tuple[Mapping[str, Any], ...] = ()


NO_NOTES: Final = Notes()


def read_notes(data: bytes) -> Notes:
    """The notes in ``data``. Raises `BadNotes`."""
    try:
        fields = decode(data, _NOTES)
    except BadRequest as error:
        raise BadNotes(str(error)) from error
    _check_parameters(fields.get("parameters", {}))
    told = fields.get("license", [])
    licenses = [told] if isinstance(told, str) else told
    if not isinstance(licenses, list) or not all(isinstance(text, str) for text in licenses):
        raise BadNotes("license must be a text or a list of texts")
    return Notes(
        fields.get("parameters", {}),
        fields.get("system", ""),
        fields.get("template", ""),
        "\n".join(licenses),
        tuple(fields.get("messages", ())),
    )


def _check_parameters(parameters: Mapping[str, Any]) -> None:
    try:
        read_options(RunnerOptions(num_ctx=1), Sampling(), parameters)
    except WrongOption as error:
        raise BadNotes(str(error)) from error


@dataclass(frozen=True, slots=True)
class Card:
    """A model as listings and requests need to know it."""

    family: str
    parameter_count: int
    quantization: str
    context_length: int
    """What it was trained for; 0 where the file does not say."""
    embedding_length: int
    capabilities: tuple[str, ...]
    template: str
    """The Jinja template in use: the notes' or the file's own; empty where there is neither."""
    adds_bos: bool
    """Whether its tokenizer puts a token of its own before every text."""
    cache_bytes_per_token: int
    """Key-value cache of one token of context, in 16-bit values."""
    notes: Notes = NO_NOTES

    @property
    def details(self) -> dict[str, Any]:
        """The ``details`` object as ``ps`` and ``show`` have it."""
        return {
            "parent_model": "",
            "format": "gguf",
            "family": self.family,
            "families": [self.family],
            "parameter_size": human_number(self.parameter_count),
            "quantization_level": self.quantization,
        }

    @property
    def listed_details(self) -> dict[str, Any]:
        """The ``details`` object as ``tags`` has it."""
        lengths = {"context_length": self.context_length, "embedding_length": self.embedding_length}
        return self.details | {name: length for name, length in lengths.items() if length}


def make_card(gguf: Gguf, notes: Notes = NO_NOTES) -> Card:
    own_template = gguf.values.get("tokenizer.chat_template")
    template = notes.template or (own_template if isinstance(own_template, str) else "")
    file_type = gguf.values.get("general.file_type")
    return Card(
        family=gguf.architecture,
        parameter_count=gguf.parameter_count,
        quantization=_FILE_TYPES.get(file_type, "unknown") if isinstance(file_type, int) else "unknown",
        context_length=gguf.own_int("context_length"),
        embedding_length=gguf.own_int("embedding_length"),
        capabilities=_capabilities(gguf, template),
        template=template,
        adds_bos=_adds_bos(gguf),
        cache_bytes_per_token=_cache_bytes_per_token(gguf),
        notes=notes,
    )


def human_number(count: int) -> str:
    """A count of parameters as Ollama shows it: ``8.0B``, ``135.00M`` without needless zeros, ``305K``."""
    for unit, letter, digits in ((10**9, "B", 1), (10**6, "M", 2)):
        if count >= unit:
            return f"{count // unit}{letter}" if count % unit == 0 else f"{count / unit:.{digits}f}{letter}"
    return f"{count / 1000:.0f}K" if count >= 1000 else str(count)


def _capabilities(gguf: Gguf, template: str) -> tuple[str, ...]:
    """What the file lets it do; pictures would need a second file, and are not claimed."""
    found = ["completion" if gguf.own("pooling_type") is None else "embedding"]
    if "tools" in template or "tool_call" in template:
        found.append("tools")
    if _thinks(template):
        found.append("thinking")
    if gguf.values.get("tokenizer.ggml.fim_pre_token_id", gguf.values.get("tokenizer.ggml.prefix_token_id")):
        found.append("insert")
    return tuple(found)


def _thinks(template: str) -> bool:
    if "<think>" in template and "</think>" in template:
        return True
    strips = "content.split('</think>')" in template or 'content.split("</think>")' in template
    return strips and "reasoning_content" not in template and "<SPECIAL_12>" not in template


def _adds_bos(gguf: Gguf) -> bool:
    told = gguf.values.get("tokenizer.ggml.add_bos_token")
    return told is True or (told is None and gguf.values.get("tokenizer.ggml.model") in ("llama", "bert"))


def _cache_bytes_per_token(gguf: Gguf) -> int:
    heads = gguf.own_int("attention.head_count")
    kv_heads = gguf.own_int("attention.head_count_kv") or heads
    width = gguf.own_int("embedding_length") // heads if heads else 0
    key = gguf.own_int("attention.key_length") or width
    value = gguf.own_int("attention.value_length") or width
    return gguf.own_int("block_count") * kv_heads * (key + value) * 2


_FILE_TYPES: Final[Mapping[int, str]] = {
    0: "F32",
    1: "F16",
    2: "Q4_0",
    3: "Q4_1",
    7: "Q8_0",
    8: "Q5_0",
    9: "Q5_1",
    10: "Q2_K",
    11: "Q3_K_S",
    12: "Q3_K_M",
    13: "Q3_K_L",
    14: "Q4_K_S",
    15: "Q4_K_M",
    16: "Q5_K_S",
    17: "Q5_K_M",
    18: "Q6_K",
    19: "IQ2_XXS",
    20: "IQ2_XS",
    21: "Q2_K_S",
    22: "IQ3_XS",
    23: "IQ3_XXS",
    24: "IQ1_S",
    25: "IQ4_NL",
    26: "IQ3_S",
    27: "IQ3_M",
    28: "IQ2_S",
    29: "IQ2_M",
    30: "IQ4_XS",
    31: "IQ1_M",
    32: "BF16",
    36: "TQ1_0",
    37: "TQ2_0",
    38: "MXFP4_MOE",
    39: "NVFP4",
    40: "Q1_0",
}
"""``llama_ftype`` of llama.cpp's ``include/llama.h``."""
