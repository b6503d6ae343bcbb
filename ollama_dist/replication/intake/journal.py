"""The names that were made in passing, on disk before they are made: what a killed node has to clean up."""

import asyncio
from pathlib import Path

import orjson
import structlog

from ollama_dist.runtime.private_files import write_private

log = structlog.get_logger()


class Journal:
    """Names in a file. Nothing but what stands here is ever removed for being left over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._names = _read(path)
        self._writing = asyncio.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._names)

    async def add(self, *names: str) -> None:
        """On disk when this returns. Raises `OSError`: then they are not to be made."""
        async with self._writing:
            await self._write(dict.fromkeys([*self._names, *names]))

    async def remove(self, *names: str) -> None:
        """Raises `OSError`: they are looked for once more at the next start then."""
        async with self._writing:
            await self._write({name: None for name in self._names if name not in names})

    async def _write(self, names: dict[str, None]) -> None:
        await asyncio.to_thread(write_private, self._path, orjson.dumps({"names": list(names)}))
        self._names = names


def _read(path: Path) -> dict[str, None]:
    try:
        names = orjson.loads(path.read_bytes())["names"]
        return {str(name): None for name in names}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("journal_unreadable", path=str(path), error=str(error))
        return {}
