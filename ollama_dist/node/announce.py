"""What a node tells the others about itself, and how what they tell is read. Pure.

Two kinds travel by gossip: the load (HOT: small, positional, the last version wins) and everything that
changes seldom (COLD: one entry per thing). What comes in may be old, odd or hostile: figures are clamped,
entries that make no sense are left out, and whoever uses one ends up calling its owner anyway.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import msgpack

from ollama_dist.core.labels import LABELS_MAX
from ollama_dist.core.names import ModelKey, model_key
from ollama_dist.core.requests import RunnerOption
from ollama_dist.core.view import (
    Engine,
    EngineKind,
    EngineState,
    Gpu,
    InstalledModel,
    Load,
    LoadedModel,
    Resources,
)

HOT_FORMAT: Final = 1
MEMORY_UNIT: Final = 64 * 2**20
"""Free memory travels in steps of 64 MiB."""

MAX_VALUE_BYTES: Final = 4096
"""An entry that is larger is not announced (gossip's own limit)."""

_ENGINE_STATES: Final = tuple(EngineState)

_LOADED_WITH: Final = "loaded_with"
"""Beside the engine's own fields of a loaded model: the options that count when it is asked for again."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Hot:
    """The part that changes with every request."""

    load: Load = Load()
    memory_free_bytes: int = 0
    vram_free_bytes: int = 0
    engine_state: EngineState = EngineState.UNREACHABLE
    draining: bool = False


@dataclass(frozen=True, slots=True)
class Cold:
    """The part that changes when somebody installs, loads or upgrades something."""

    name: str = ""
    version: str = ""
    engine_kind: EngineKind = EngineKind.NONE
    engine_version: str = ""
    relay_port: int = 0
    """Port of the listener for relayed requests, on the same addresses as membership."""
    cpus: int = 0
    memory_bytes: int = 0
    gpus: tuple[tuple[str, int], ...] = ()
    """Name and memory of each, bytes."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    models: Mapping[ModelKey, InstalledModel] = field(default_factory=dict, hash=False)
    loaded: Mapping[ModelKey, LoadedModel] = field(default_factory=dict, hash=False)


def encode_hot(hot: Hot) -> bytes:
    load = hot.load
    packed: bytes = msgpack.packb(
        [
            HOT_FORMAT,
            load.in_flight,
            load.waiting,
            load.slots,
            round(load.tokens_per_s * 10),
            hot.memory_free_bytes // MEMORY_UNIT,
            hot.vram_free_bytes // MEMORY_UNIT,
            _ENGINE_STATES.index(hot.engine_state),
            int(hot.draining),
        ]
    )
    return packed


def decode_hot(data: bytes) -> Hot | None:
    """The load in ``data``, clamped to what is possible; None when it makes no sense."""
    values = _unpack(data)
    if not isinstance(values, list) or len(values) < 9 or values[0] != HOT_FORMAT:
        return None
    if not all(isinstance(value, int) for value in values[:9]):
        return None
    in_flight, waiting, slots, speed, memory, vram, state, draining = values[1:9]
    if not 0 <= state < len(_ENGINE_STATES):
        return None
    in_flight = _clamp(in_flight, 0, 100_000)
    return Hot(
        load=Load(
            in_flight=in_flight,
            waiting=_clamp(waiting, 0, in_flight),
            slots=_clamp(slots, 1, 1024),
            tokens_per_s=_clamp(speed, 0, 1_000_000) / 10,
        ),
        memory_free_bytes=_clamp(memory, 0, 2**20) * MEMORY_UNIT,
        vram_free_bytes=_clamp(vram, 0, 2**20) * MEMORY_UNIT,
        engine_state=_ENGINE_STATES[state],
        draining=bool(draining),
    )


def encode_cold(cold: Cold) -> dict[str, bytes]:
    """The entries to announce, by key: one for the node, one per installed and per loaded model."""
    entries = {
        "node": msgpack.packb(
            {
                "name": cold.name,
                "version": cold.version,
                "engine": cold.engine_kind.value,
                "engine_version": cold.engine_version,
                "relay": cold.relay_port,
                "cpus": cold.cpus,
                "memory": cold.memory_bytes,
                "gpus": [list(gpu) for gpu in cold.gpus],
                "labels": dict(cold.labels),
            }
        )
    }
    for key, model in cold.models.items():
        entries[_entry_key("m", key)] = msgpack.packb(dict(model.row))
    for key, loaded in cold.loaded.items():
        entries[_entry_key("l", key)] = msgpack.packb({**loaded.row, **_with_options(loaded)})
    return {key: value for key, value in entries.items() if len(value) <= MAX_VALUE_BYTES}


def decode_cold(entries: Mapping[str, bytes]) -> Cold:
    """What a node announced; what cannot be read is as if it had not been said."""
    said = _unpack(entries.get("node", b""))
    about = said if isinstance(said, dict) else {}
    kind = _text(about.get("engine"))
    return Cold(
        name=_text(about.get("name"))[:64],
        version=_text(about.get("version"))[:64],
        engine_kind=EngineKind(kind) if kind in set(EngineKind) else EngineKind.NONE,
        engine_version=_text(about.get("engine_version"))[:64],
        relay_port=_clamp(_number(about.get("relay")), 0, 65535),
        cpus=_clamp(_number(about.get("cpus")), 0, 65536),
        memory_bytes=_clamp(_number(about.get("memory")), 0, 2**50),
        gpus=_gpus(about.get("gpus")),
        labels=_labels(about.get("labels")),
        models=dict(_installed(_rows("m", entries))),
        loaded=dict(_loaded(_rows("l", entries))),
    )


def resources_of(cold: Cold, hot: Hot) -> Resources:
    """Totals from the one, what is free from the other; free GPU memory is told only as a sum."""
    gpus, left = [], hot.vram_free_bytes
    for name, memory in cold.gpus:
        free = min(left, memory)
        left -= free
        gpus.append(Gpu(name, memory, free))
    return Resources(cold.cpus, cold.memory_bytes, hot.memory_free_bytes, tuple(gpus))


def engine_of(cold: Cold, hot: Hot) -> Engine:
    return Engine(cold.engine_kind, cold.engine_version, hot.engine_state)


def _entry_key(kind: str, key: ModelKey) -> str:
    return f"{kind}:{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _rows(kind: str, entries: Mapping[str, bytes]) -> Iterable[dict[str, Any]]:
    for key, value in entries.items():
        if key.startswith(f"{kind}:"):
            row = _unpack(value)
            if isinstance(row, dict) and isinstance(row.get("name"), str):
                yield row


def _installed(rows: Iterable[dict[str, Any]]) -> Iterable[tuple[ModelKey, InstalledModel]]:
    for row in rows:
        key, digest = model_key(row["name"]), _text(row.get("digest"))
        if key is not None and _DIGEST.fullmatch(digest):
            yield key, InstalledModel(row["name"], digest, max(0, _number(row.get("size"))), row)


def _loaded(rows: Iterable[dict[str, Any]]) -> Iterable[tuple[ModelKey, LoadedModel]]:
    for row in rows:
        key = model_key(row["name"])
        if key is not None:
            context = max(0, _number(row.get("context_length")))
            options = _options(row.pop(_LOADED_WITH, None))
            yield key, LoadedModel(row["name"], _text(row.get("digest")), context, options=options, row=row)


def _with_options(loaded: LoadedModel) -> dict[str, Any]:
    if loaded.options is None:
        return {}
    return {_LOADED_WITH: [[option.name, option.value] for option in loaded.options]}


def _options(said: object) -> tuple[RunnerOption, ...] | None:
    if not isinstance(said, list):
        return None
    pairs = [pair for pair in said[:16] if isinstance(pair, list) and len(pair) == 2]
    known = [(name, value) for name, value in pairs if isinstance(value, (int, float))]
    return tuple(RunnerOption(_text(name)[:64], value) for name, value in known)


def _gpus(said: object) -> tuple[tuple[str, int], ...]:
    if not isinstance(said, list):
        return ()
    pairs = (gpu for gpu in said[:64] if isinstance(gpu, list) and len(gpu) == 2)
    return tuple((_text(name)[:80], _clamp(_number(memory), 0, 2**50)) for name, memory in pairs)


def _labels(said: object) -> dict[str, str]:
    if not isinstance(said, dict):
        return {}
    pairs = [
        (name, value) for name, value in said.items() if isinstance(name, str) and isinstance(value, str)
    ]
    return {name[:64]: value[:64] for name, value in pairs[:LABELS_MAX]}


def _unpack(data: bytes) -> Any:
    try:
        return msgpack.unpackb(data, strict_map_key=True)
    except (ValueError, msgpack.UnpackException):
        return None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _clamp(value: int, low: int, high: int) -> int:
    return max(low, min(value, high))
