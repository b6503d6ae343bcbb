"""Models that come into the folder of an embedded engine from other members."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from ollama_dist.backends.llamacpp.folder import ModelFolder
from ollama_dist.backends.llamacpp.tiny import write_tiny_model
from ollama_dist.core.errors import ModelNotFound
from ollama_dist.core.ids import Digest, NodeId
from ollama_dist.core.names import ModelName, parse_model_name
from ollama_dist.replication.disk.gguf_manifest import Unsuitable
from ollama_dist.replication.disk.gguf_store import PARTIAL, GgufStore
from ollama_dist.replication.disk.pieces import PIECE
from ollama_dist.replication.intake.gguf_copying import KEPT_S, CopyFailed, GgufCopier
from ollama_dist.replication.intake.ollama_calls import DiskFull
from ollama_dist.replication.manifest import Manifest
from ollama_dist.replication.sources import BlobLost, Progress
from ollama_dist.replication.transfer.fetching import PeerSource
from tests.support.holders import Holder, holders, peer_source
from tests.support.model_store import noise
from tests.support.wait import until

TINY = parse_model_name("tiny")


class Target:
    """A node with an embedded engine that copies from ``held_by``."""

    def __init__(self, root: Path, folder: ModelFolder, held_by: Sequence[Holder]) -> None:
        self.root = root
        self.folder = folder
        self.store = GgufStore(root, lambda: folder.models)
        self.held_by = held_by
        self.told: list[Progress] = []
        self.sources: list[PeerSource] = []
        self.has_room = True
        self.copier = GgufCopier(root, folder, self.store, self._open, self._make_room)

    async def copy(self, name: str = "tiny", identity: Digest | None = None) -> None:
        await self.copier.copy(
            parse_model_name(name), identity, [each.id for each in self.held_by], self.told.append
        )

    @contextlib.asynccontextmanager
    async def _open(
        self, name: ModelName, identity: Digest | None, holders: Sequence[NodeId]
    ) -> AsyncIterator[PeerSource]:
        source = await peer_source(name.full, [each for each in self.held_by if each.id in holders], identity)
        self.sources.append(source)
        try:
            yield source
        finally:
            await source.close()

    async def _make_room(self, manifest: Manifest) -> None:
        if not self.has_room:
            raise DiskFull(f"{manifest.size} bytes are too many")


@contextlib.asynccontextmanager
async def target(folder: Path, held_by: Sequence[Holder]) -> AsyncIterator[Target]:
    models = ModelFolder(folder / "models", folder / "state")
    await models.start()
    try:
        yield Target(folder / "models", models, held_by)
    finally:
        await models.stop()


def weights(folder: Path, padding: int = 0) -> bytes:
    """A model that the engine could run; what follows its tensors is not looked at."""
    write_tiny_model(folder / "made.gguf", "it was copied whole")
    return (folder / "made.gguf").read_bytes() + noise(padding)


async def test_a_model_of_an_ollama_becomes_a_file_and_stays_the_same_model(tmp_path: Path) -> None:
    data = weights(tmp_path, 3 * PIECE)
    async with holders(tmp_path, 2) as held, target(tmp_path / "target", held) as node:
        installed = held[0].store.install("some/tiny:q4", data)
        held[1].store.install("some/tiny:q4", data)

        await node.copy("some/tiny:q4", installed.identity)

        name = parse_model_name("some/tiny:q4")
        assert (node.root / "some" / "tiny@q4.gguf").read_bytes() == data
        assert node.folder.models[name.key].weights == installed.layers[0].digest
        assert node.store.manifest(name).raw == installed.raw
        assert all(node.store.blob(digest).size == size for digest, size in installed.blobs.items())
        assert [node.told[-1].done, node.told[-1].total] == [installed.size] * 2
        assert [each.done for each in node.told] == sorted(each.done for each in node.told)


async def test_notes_changed_by_hand_make_it_another_model(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as held, target(tmp_path / "target", held) as node:
        installed = held[0].store.install("tiny", weights(tmp_path))
        await node.copy()
        (node.root / "tiny.json").write_text('{"system": "be kind"}')
        await node.folder.until(lambda: bool(node.folder.models[TINY.key].card.notes.system), 10)

        changed = node.store.manifest(TINY)

        assert changed.identity != installed.identity
        assert {layer.digest for layer in changed.layers} > {installed.layers[0].digest}
        assert all(node.store.blob(digest).size == size for digest, size in changed.blobs.items())


async def test_a_copy_that_was_broken_off_is_gone_on_with_where_it_stopped(tmp_path: Path) -> None:
    data = weights(tmp_path, 6 * PIECE)
    async with holders(tmp_path, 1) as held:
        installed = held[0].store.install("tiny", data)
        held[0].faults.bytes_per_s = 4e6
        async with target(tmp_path / "target", held) as node:
            copying = asyncio.create_task(node.copy())
            partial = node.root / PARTIAL / installed.layers[0].digest
            await until(
                lambda: partial.exists() and partial.stat().st_size >= 2 * PIECE, what="two pieces' arriving"
            )
            copying.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await copying
        kept = partial.stat().st_size
        assert not list(node.root.glob("*.gguf"))
        held[0].faults.bytes_per_s, held[0].sent = 0.0, 0

        async with target(tmp_path / "target", held) as node:
            await node.copy()

        assert (node.root / "tiny.gguf").read_bytes() == data
        assert kept >= 2 * PIECE
        assert node.sources[0].fetched <= installed.size - kept + PIECE
        assert not partial.exists()


async def test_what_lay_there_wrong_is_had_again_and_nobody_is_blamed(tmp_path: Path) -> None:
    data = weights(tmp_path, PIECE)
    async with holders(tmp_path, 1) as held, target(tmp_path / "target", held) as node:
        digest = held[0].store.install("tiny", data).layers[0].digest
        (node.root / PARTIAL).mkdir()
        (node.root / PARTIAL / digest).write_bytes(bytes(PIECE // 2))

        await node.copy()

        assert (node.root / "tiny.gguf").read_bytes() == data
        assert node.sources[0].quarantined == {}


async def test_a_blob_that_is_wrong_at_its_only_source_never_gets_a_name(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as held, target(tmp_path / "target", held) as node:
        digest = held[0].store.install("tiny", weights(tmp_path, 2 * PIECE)).layers[0].digest
        held[0].store.flip(digest, PIECE)

        with pytest.raises(BlobLost, match="what came is not sha256:"):
            await node.copy()

        assert not list(node.root.rglob("*.gguf"))
        assert not (node.root / PARTIAL / digest).exists()
        assert list(node.sources[0].quarantined) == [held[0].id]


async def test_a_file_that_is_here_under_another_name_is_not_sent(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as held, target(tmp_path / "target", held) as node:
        data = weights(tmp_path, PIECE)
        held[0].store.install("tiny", data)
        held[0].store.install("same", data, template=b"another template")
        await node.copy("tiny")
        held[0].sent = 0

        await node.copy("same")

        assert (node.root / "same.gguf").read_bytes() == data
        assert held[0].sent < 1000


async def test_what_the_engine_cannot_run_is_refused_before_it_is_fetched(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as held, target(tmp_path / "target", held) as node:
        held[0].store.install("hub.example/some/tiny", weights(tmp_path))
        with pytest.raises(Unsuitable, match="no place for a host"):
            await node.copy("hub.example/some/tiny")
        held[0].store.install("broken", b"no GGUF")
        with pytest.raises(CopyFailed, match="the embedded engine cannot use it"):
            await node.copy("broken")


async def test_a_disk_without_room_is_told_of_and_nothing_is_fetched(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as held, target(tmp_path / "target", held) as node:
        held[0].store.install("tiny", weights(tmp_path, PIECE))
        node.has_room = False
        with pytest.raises(DiskFull):
            await node.copy()
        assert held[0].sent < 1000


async def test_a_model_taken_off_leaves_nothing(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as held, target(tmp_path / "target", held) as node:
        for name in ("tiny", "other"):
            held[0].store.install(name, weights(tmp_path), template=name.encode())
            await node.copy(name)

        await node.copier.delete(TINY)

        assert [path.name for path in node.root.glob("*.*") if not path.name.startswith(".")] == [
            "other.gguf"
        ]
        other = node.store.manifest(parse_model_name("other"))
        assert set(node.store.blobs()) == set(other.blobs)
        with pytest.raises(ModelNotFound):
            await node.copier.delete(TINY)


async def test_files_that_nobody_goes_on_with_are_taken_away_at_the_next_copy(tmp_path: Path) -> None:
    async with holders(tmp_path, 1) as held, target(tmp_path / "target", held) as node:
        held[0].store.install("tiny", weights(tmp_path))
        folder = node.root / PARTIAL
        folder.mkdir()
        for name, age in (("old", KEPT_S + 60), ("young", KEPT_S - 60)):
            (folder / name).write_bytes(b"x")
            stamp = (folder / name).stat().st_mtime - age
            os.utime(folder / name, (stamp, stamp))

        await node.copy()

        assert [path.name for path in folder.iterdir()] == ["young"]


async def test_a_file_put_there_by_hand_can_be_given(tmp_path: Path) -> None:
    async with target(tmp_path / "target", []) as node:
        data = weights(tmp_path)
        (node.root / "ns").mkdir()
        (node.root / "ns" / "tiny@v1.gguf").write_bytes(data)
        name = parse_model_name("ns/tiny:v1")
        await node.folder.until(lambda: name.key in node.folder.models, 10)

        manifest = node.store.manifest(name)

        assert node.store.blob(manifest.layers[0].digest).path == node.root / "ns" / "tiny@v1.gguf"
        for digest in manifest.blobs:
            assert hashlib.sha256(node.store.blob(digest).path.read_bytes()).hexdigest() == digest
        assert set(node.store.blobs()) == set(manifest.blobs)
        assert node.store.id == node.store.id != ""
