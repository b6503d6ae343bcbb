"""Where this machine's Ollama keeps its models: said by its environment, by itself, or by custom.

A folder is believed once a manifest in it is what Ollama says it has. Customs of installers from Ollama's
``scripts/install.sh``, ``docs/faq`` and the packages of distributions.
"""

import asyncio
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from ollama_dist.backends.fetch import fetch
from ollama_dist.backends.ollama.slots import processes_behind
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import DistError, UpstreamFailed
from ollama_dist.core.names import parse_model_name
from ollama_dist.core.view import InstalledModel
from ollama_dist.replication.disk.store import OllamaStore, Store, StoreUnreadable

SHOW_S: Final = 5.0
SHOW_LIMIT: Final = 16 * 2**20
LOOKED_AT: Final = 5
"""Models whose manifests are looked for."""

CUSTOMARY: Final = (
    "/usr/share/ollama/.ollama/models",
    "/var/lib/ollama/.ollama/models",
    "/var/lib/ollama/models",
    "/var/snap/ollama/common/models",
    "/root/.ollama/models",
)
"""Of services and containers on Linux."""

_FROM: Final = re.compile(r"^FROM (.+[/\\]blobs[/\\]sha256-[0-9a-f]{64})\s*$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Found:
    """The store, or why there is none that could be read."""

    store: Store | None
    reason: str = ""


async def find_store(
    target: Target, models: Iterable[InstalledModel], environment: Mapping[str, str], home: Path
) -> Found:
    """The store of the Ollama at ``target``, which has ``models``; the rest is our own."""
    listed = sorted(models, key=lambda model: model.size)[:LOOKED_AT]
    _, its_own = await asyncio.to_thread(processes_behind, target.port)
    told = await _told_by_show(target, listed[0].name) if listed else None
    return await asyncio.to_thread(choose_store, candidates(its_own, told, environment, home), listed)


def candidates(
    its_own: Mapping[str, str], told: Path | None, environment: Mapping[str, str], home: Path
) -> list[Path]:
    """Folders that may be the store, the likelier first, each once. Pure."""
    folders = [
        told,
        *_of_environment(its_own),
        *_of_environment(environment),
        home / ".ollama" / "models",
        *map(Path, CUSTOMARY),
    ]
    return list(dict.fromkeys(folder for folder in folders if folder is not None))


def choose_store(folders: Iterable[Path], models: Iterable[InstalledModel]) -> Found:
    """The first folder that has one of ``models`` exactly; where none is listed, the first store."""
    listed, refused = list(models), ""
    for folder in folders:
        store = OllamaStore(folder)
        try:
            if any(_has(store, model) for model in listed) if listed else (folder / "blobs").is_dir():
                return Found(store)
        except (StoreUnreadable, OSError) as error:
            refused = refused or str(error)
    return Found(None, refused or "no folder has the models that the engine lists")


def _has(store: OllamaStore, model: InstalledModel) -> bool:
    try:
        return store.manifest(parse_model_name(model.name)).digest == model.digest
    except StoreUnreadable:
        raise
    except DistError:
        return False


def _of_environment(environment: Mapping[str, str]) -> list[Path]:
    """What a server with this environment takes for its store."""
    told, home = environment.get("OLLAMA_MODELS", "").strip("\"' "), environment.get("HOME", "")
    return ([Path(told)] if told else []) + ([Path(home) / ".ollama" / "models"] if home else [])


async def _told_by_show(target: Target, name: str) -> Path | None:
    """The store by the path of a model's weights; None where the model has none or is not told."""
    body = orjson.dumps({"model": name})
    headers = [("Content-Type", "application/json")]
    try:
        answer = await fetch(
            target, "POST", "/api/show", headers=headers, body=body, timeout=SHOW_S, limit=SHOW_LIMIT
        )
        modelfile = orjson.loads(answer.body).get("modelfile", "")
    except (UpstreamFailed, orjson.JSONDecodeError, AttributeError):
        return None
    match = _FROM.search(modelfile) if isinstance(modelfile, str) else None
    return Path(match[1].strip().strip('"')).parent.parent if match else None
