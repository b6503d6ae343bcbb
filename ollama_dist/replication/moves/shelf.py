"""Small JSON documents that survive a restart: one private file each, in one folder."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import structlog

from ollama_dist.core.errors import ConfigError
from ollama_dist.runtime.private_files import make_private_folder, read_private, write_private

log = structlog.get_logger()

_SUFFIX: Final = ".json"


class Shelf:
    """Documents by name. Without a folder they live as long as the process.

    Of several versions of one document the newest wins, whatever order writing them ends in.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._writing: dict[str, asyncio.Lock] = {}
        self._newest: dict[str, bytes | None] = {}

    def load(self) -> dict[str, Any]:
        """All documents; what cannot be read is left where it is, and a line in the log says so."""
        found: dict[str, Any] = {}
        if self._folder is None or not self._folder.is_dir():
            return found
        for path in sorted(self._folder.glob(f"*{_SUFFIX}")):
            try:
                found[path.name.removesuffix(_SUFFIX)] = orjson.loads(read_private(path) or b"null")
            except (ConfigError, orjson.JSONDecodeError) as error:
                log.warning("document_unreadable", path=str(path), error=str(error))
        return found

    async def save(self, name: str, document: Mapping[str, Any]) -> None:
        """On disk when this returns. Raises `OSError`."""
        await self._put(name, orjson.dumps(dict(document), option=orjson.OPT_INDENT_2))

    async def remove(self, name: str) -> None:
        """Raises `OSError`."""
        await self._put(name, None)

    async def _put(self, name: str, content: bytes | None) -> None:
        if self._folder is None:
            return
        self._newest[name] = content
        async with self._writing.setdefault(name, asyncio.Lock()):
            if name not in self._newest:
                return  # a later version was written while this one waited
            content = self._newest.pop(name)
            try:
                await asyncio.to_thread(self._write, self._folder, name, content)
            except ConfigError as error:
                raise OSError(str(error)) from error
        if name not in self._newest and content is None:
            self._writing.pop(name, None)

    @staticmethod
    def _write(folder: Path, name: str, content: bytes | None) -> None:
        path = folder / f"{name}{_SUFFIX}"
        if content is None:
            path.unlink(missing_ok=True)
            return
        make_private_folder(folder)
        write_private(path, content)
