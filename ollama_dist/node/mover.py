"""What brings models onto this node: the registry its Ollama pulls from, and all that stands behind it."""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import structlog

from ollama_dist.backends.local import LocalEngine
from ollama_dist.backends.target import Target
from ollama_dist.core.errors import DistError, NoCandidate, UpstreamFailed
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.view import ClusterView, EngineKind, EngineState
from ollama_dist.replication.copier import Copier
from ollama_dist.replication.disk.keeper import Keeper
from ollama_dist.replication.disk.store import Store
from ollama_dist.replication.intake.copying import OllamaCopier, OpenSource
from ollama_dist.replication.intake.journal import Journal
from ollama_dist.replication.intake.lending import Lender
from ollama_dist.replication.intake.passing import Passing
from ollama_dist.replication.intake.registry import LOOPBACK, LoopbackRegistry, RegistryAddress
from ollama_dist.replication.intake.room import check_room
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.pulls.members import Members
from ollama_dist.replication.pulls.mirror import Mirror, MirrorSettings
from ollama_dist.replication.pulls.pulling import Installer, Pulling
from ollama_dist.replication.pulls.turns import Turns
from ollama_dist.replication.pulls.upstream import Upstream
from ollama_dist.replication.transfer.sharing import Share
from ollama_dist.runtime.tasks import background, end

log = structlog.get_logger()

TIDY_S: Final = 5.0
"""Between two looks at the journal for names that an earlier life has left."""

LENT_FOLDER: Final = "lent"
JOURNAL: Final = "names-in-passing.json"


@dataclass(frozen=True, slots=True)
class MoverSettings:
    """How models come onto this node."""

    address: RegistryAddress = LOOPBACK
    pull_hosts: Collection[str] = ("registry.ollama.ai", "hf.co")
    """Registries that the node asks itself; all others are the engine's business."""
    disk_reserve: int = 0
    """Bytes that stay free."""
    mirror: MirrorSettings | None = None
    """None: this node's models are for members alone."""


class InstallingCopier(Copier, Installer, Protocol):
    """Copies from members, and takes in what comes from elsewhere."""


MakeCopier = Callable[[OpenSource, Callable[[Manifest], Awaitable[None]]], InstallingCopier]
"""Makes the copier of an engine that is no Ollama, from where it gets its bytes and what makes room."""


class Mover:
    """From `start` to `stop`. ``view`` and ``reach`` are the node's: what it sees, and where members are."""

    def __init__(
        self,
        settings: MoverSettings,
        state_dir: Path,
        engine: LocalEngine,
        keeper: Keeper,
        view: Callable[[], ClusterView],
        reach: Callable[[NodeId], Target | None],
        make_copier: MakeCopier | None = None,
    ) -> None:
        self.settings = settings
        self.turns = Turns()
        self.trouble = ""
        """Why models cannot be brought in; empty when they can."""
        self._engine = engine
        self._keeper = keeper
        self._registry = LoopbackRegistry(settings.address)
        self._passing = Passing(lambda: self._engine.target, Journal(state_dir / JOURNAL))
        self._upstream = Upstream()
        self._task: asyncio.Task[None] | None = None
        self._lender = Lender(self._passing, self._registry, state_dir / LENT_FOLDER, settings.disk_reserve)
        share = Share(lambda: view().self_id, keeper.giver.offer, self._where_it_comes)
        members = Members(view, reach, keeper.pace_in, share)
        self.copier: InstallingCopier = (
            make_copier(members.open, self._make_room)
            if make_copier is not None
            else OllamaCopier(
                self._passing, self._registry, members.open, self._make_room, keeper.identities.learn
            )
        )
        self.mirror = (
            Mirror(settings.mirror, keeper.giver, keeper.needing) if settings.mirror is not None else None
        )
        self.pulling = Pulling(members, self.copier, self._upstream, self.turns)

    @property
    def lender(self) -> Lender | None:
        """What makes this node's models readable for others; None where they are, or where nothing can."""
        is_ollama = self._engine.snapshot.engine.kind is EngineKind.OLLAMA
        return self._lender if is_ollama and self._keeper.store is None and not self.trouble else None

    @property
    def open_to(self) -> str:
        """Whom the mirror serves and what, for people; empty without one."""
        mirror = self.settings.mirror
        if mirror is None:
            return ""
        return f"{', '.join(mirror.models)} to {', '.join(map(str, mirror.clients))}"

    async def start(self) -> None:
        """A node that cannot be brought models is of use all the same, and says so.

        Raises `ConfigError` for a mirror that somebody asked for and that cannot be.
        """
        if self.mirror is not None:
            await self.mirror.start()
        try:
            await self._registry.start()
        except DistError as error:
            self.trouble = str(error)
            log.error("no_registry", error=str(error))
            return
        self._keeper.lent = self._lender.store
        self._task = background(self._keep_tidy(), "tidy-names")

    async def stop(self) -> None:
        await end(self._task)
        await self._lender.stop()
        await self._registry.stop()
        if self.mirror is not None:
            await self.mirror.stop()
        await self._upstream.close()

    async def _keep_tidy(self) -> None:
        given = 0
        while True:
            engine = self._engine.snapshot.engine
            if engine.kind is EngineKind.OLLAMA and engine.state is EngineState.READY:
                try:
                    await self._passing.tidy()
                except (UpstreamFailed, NoCandidate, OSError) as error:
                    log.warning("names_not_tidied", error=str(error))
            if self._keeper.giver.given != given:
                given = self._keeper.giver.given
                self._lender.note_use()
            await self._lender.sweep()
            await asyncio.sleep(TIDY_S)

    def _where_it_comes(self, digest: Digest) -> Path | None:
        store = self._keeper.store
        return store.coming(digest) if store is not None else None

    async def _make_room(self, manifest: Manifest) -> None:
        store = self._keeper.store
        if store is not None:
            await asyncio.to_thread(_check, store, manifest, self.settings.disk_reserve)


def _check(store: Store, manifest: Manifest, reserve: int) -> None:
    missing = sum(size for digest, size in manifest.blobs.items() if not _has(store, digest))
    check_room(missing, shutil.disk_usage(store.root).free, reserve)


def _has(store: Store, digest: Digest) -> bool:
    try:
        store.blob(digest)
    except DistError:
        return False
    return True
