from typing import Any

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.names import ModelKey, parse_model_name
from ollama_dist.core.requests import RunnerOption
from ollama_dist.core.view import EngineKind, EngineState, InstalledModel, Load, LoadedModel
from ollama_dist.node.announce import (
    MAX_VALUE_BYTES,
    MEMORY_UNIT,
    Cold,
    Hot,
    decode_cold,
    decode_hot,
    encode_cold,
    encode_hot,
    engine_of,
    resources_of,
)

ROW = {
    "name": "tiny:latest",
    "model": "tiny:latest",
    "size": 5,
    "digest": "a" * 64,
    "details": {"family": "llama"},
}
KEY = parse_model_name("tiny").key
COLD = Cold(
    name="desk",
    version="0.1.0",
    engine_kind=EngineKind.OLLAMA,
    engine_version="0.11.11",
    relay_port=11437,
    cpus=8,
    memory_bytes=2**34,
    gpus=(("one", 10 * MEMORY_UNIT), ("two", 10 * MEMORY_UNIT)),
    models={KEY: InstalledModel("tiny:latest", "a" * 64, 5, ROW)},
    loaded={KEY: LoadedModel("tiny:latest", "a" * 64, 2048, row={**ROW, "context_length": 2048})},
)


def test_what_is_told_is_what_is_heard() -> None:
    hot = Hot(Load(3, 1, 2, 71.3), 7 * MEMORY_UNIT, 3 * MEMORY_UNIT, EngineState.BUSY, draining=True)
    assert decode_hot(encode_hot(hot)) == hot
    heard = decode_cold(encode_cold(COLD))
    assert heard == COLD
    assert heard.models[KEY].row == ROW


def test_a_load_is_small() -> None:
    busy = Hot(Load(99_999, 99_999, 1024, 99_999.9), 2**40, 2**40, EngineState.READY)
    assert len(encode_hot(busy)) <= 64


def test_an_entry_that_is_too_large_is_not_announced() -> None:
    fat = InstalledModel(
        "fat:latest", "b" * 64, 1, {"name": "fat:latest", "digest": "b" * 64, "x": "y" * MAX_VALUE_BYTES}
    )
    entries = encode_cold(Cold(models={**COLD.models, parse_model_name("fat").key: fat}))
    assert set(decode_cold(entries).models) == {KEY}


def test_boasts_and_nonsense_are_clamped() -> None:
    boast = msgpack.packb([1, -5, 10**9, 0, -1, 2**60, 2**60, 0, 0])
    heard = decode_hot(boast)
    assert heard is not None
    assert heard.load == Load(in_flight=0, waiting=0, slots=1, tokens_per_s=0.0)
    assert heard.memory_free_bytes == 2**20 * MEMORY_UNIT


def test_free_gpu_memory_is_spread_over_the_gpus() -> None:
    resources = resources_of(COLD, Hot(vram_free_bytes=12 * MEMORY_UNIT))
    assert [gpu.memory_free_bytes // MEMORY_UNIT for gpu in resources.gpus] == [10, 2]
    assert engine_of(COLD, Hot(engine_state=EngineState.READY)).state is EngineState.READY


def test_a_load_of_a_later_format_is_not_guessed_at() -> None:
    assert decode_hot(msgpack.packb([2, 0, 0, 1, 0, 0, 0, 0, 0])) is None


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=9)
    | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(st.text(max_size=9), inner, max_size=9),
    max_leaves=20,
)
about_keys = st.sampled_from(
    ["name", "version", "engine", "relay", "cpus", "memory", "gpus", "size", "digest"]
)


@given(st.binary(max_size=80) | json_like.map(msgpack.packb))
def test_any_bytes_are_a_load_or_nothing(data: bytes) -> None:
    hot = decode_hot(data)
    assert hot is None or 0 <= hot.load.waiting <= hot.load.in_flight


@given(
    st.dictionaries(
        st.sampled_from(["node", "m:1", "m:2", "l:1", "x"]),
        st.binary(max_size=80) | st.dictionaries(about_keys, json_like).map(msgpack.packb),
    )
)
def test_any_entries_are_heard_without_harm(entries: dict[str, bytes]) -> None:
    cold: Any = decode_cold(entries)
    assert 0 <= cold.relay_port <= 65535
    assert all(isinstance(key, str) for key in (*cold.models, *cold.loaded))


def test_models_are_known_by_their_names_not_by_the_entries_key() -> None:
    entries = {"m:whatever": msgpack.packb({**ROW, "name": "TINY"})}
    assert decode_cold(entries).models.keys() == {ModelKey(KEY)}


def test_what_a_model_was_loaded_with_travels_beside_the_engines_own_fields() -> None:
    options = (RunnerOption("num_ctx", 8192), RunnerOption("shift", False))
    row = {"name": "a:latest", "size": 5}
    loaded = {ModelKey("a"): LoadedModel("a:latest", "", options=options, row=row)}
    [heard] = decode_cold(encode_cold(Cold(loaded=loaded))).loaded.values()
    assert (heard.options, heard.row) == (options, row)


def test_labels_are_told_and_what_is_none_is_left_out() -> None:
    cold = Cold(name="desk", labels={"gpu": "yes", "room": "office"})
    assert decode_cold(encode_cold(cold)).labels == cold.labels
    odd = {"node": msgpack.packb({"name": "desk", "labels": {"gpu": 1, "room": "x" * 100}})}
    assert decode_cold(odd).labels == {"room": "x" * 64}
    assert decode_cold({"node": msgpack.packb({"name": "desk", "labels": "gpu"})}).labels == {}
