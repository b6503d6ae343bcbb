"""Where this machine's Ollama keeps its models: said by its environment, by itself, or by custom.

A folder is believed once a manifest in it is what Ollama says it has. Customs of installers from Ollama's
``scripts/install.sh``, ``docs/faq`` and the packages of distributions.
"""

import asyncio
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
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

WINDOWS: Final = "win32"
MACOS: Final = "darwin"

CUSTOMARY: Final[Mapping[str, tuple[str, ...]]] = {
    "linux": (
        "/usr/share/ollama/.ollama/models",
        "/var/lib/ollama/.ollama/models",
        "/var/lib/ollama/models",
        "/var/snap/ollama/common/models",
        "/root/.ollama/models",
    ),
    MACOS: ("/var/root/.ollama/models",),
    WINDOWS: (
        r"C:\Windows\System32\config\systemprofile\.ollama\models",
        r"C:\Windows\ServiceProfiles\LocalService\.ollama\models",
        r"C:\Windows\ServiceProfiles\NetworkService\.ollama\models",
    ),
}
"""Of services and containers, by ``sys.platform``."""

_FROM: Final = re.compile(r'^FROM "?(.+)[/\\]blobs[/\\]sha256-[0-9a-f]{64}"?\s*$', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Found:
    """The store, or why there is none that could be read."""

    store: Store | None
    reason: str = ""


async def find_store(
    target: Target,
    models: Iterable[InstalledModel],
    environment: Mapping[str, str],
    home: Path,
    said: Path | None = None,
) -> Found:
    """The store of the Ollama at ``target``, which has ``models``; ``environment`` and ``home`` are our own.

    Where a person has ``said`` where it is, it is looked for nowhere else.
    """
    listed = sorted(models, key=lambda model: model.size)[:LOOKED_AT]
    if said is not None:
        found = await asyncio.to_thread(choose_store, [said], listed)
        return found if found.store is not None else Found(None, f"{said} (engine_store): {found.reason}")
    _, its_own = await asyncio.to_thread(processes_behind, target.port)
    told = await _told_by_show(target, listed[0].name) if listed else ""
    folders = candidates(its_own, told, environment, str(home), sys.platform)
    return await asyncio.to_thread(choose_store, map(Path, folders), listed)


def candidates(
    its_own: Mapping[str, str], told: str, environment: Mapping[str, str], home: str, platform: str
) -> list[str]:
    """Folders that may be the store, the likelier first, each once. Pure.

    ``told`` is the store by the engine's own words, empty where it has none.
    """
    path = PureWindowsPath if platform == WINDOWS else PurePosixPath
    folders = [
        *([told] if told else []),
        *_of_environment(its_own, platform),
        *_of_environment(environment, platform),
        *_below(home),
        *CUSTOMARY.get(platform, CUSTOMARY["linux"]),
    ]
    # As paths, since one may be written in two ways: on Windows case and the kind of slash say nothing.
    return [str(folder) for folder in dict.fromkeys(map(path, folders))]


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


def _of_environment(environment: Mapping[str, str], platform: str) -> list[str]:
    """What a server with this environment takes for its store."""
    # Names of variables are the same in any case on Windows; where the home is, is Go's ``os.UserHomeDir``.
    known = (
        {name.upper(): value for name, value in environment.items()} if platform == WINDOWS else environment
    )
    told = known.get("OLLAMA_MODELS", "").strip("\"' ")
    home = known.get("USERPROFILE" if platform == WINDOWS else "HOME", "")
    return ([told] if told else []) + _below(home)


def _below(home: str) -> list[str]:
    return [f"{home}/.ollama/models"] if home else []


def store_in(modelfile: str) -> str:
    """The store by the path of a model's weights; empty where none is told. Pure."""
    match = _FROM.search(modelfile)
    return match[1].strip() if match else ""


async def _told_by_show(target: Target, name: str) -> str:
    body = orjson.dumps({"model": name})
    headers = [("Content-Type", "application/json")]
    try:
        answer = await fetch(
            target, "POST", "/api/show", headers=headers, body=body, timeout=SHOW_S, limit=SHOW_LIMIT
        )
        modelfile = orjson.loads(answer.body).get("modelfile", "")
    except (UpstreamFailed, orjson.JSONDecodeError, AttributeError):
        return ""
    return store_in(modelfile) if isinstance(modelfile, str) else ""
