"""Models that an Ollama pushes to its own node, which may not read them."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from ollama_dist.backends.target import Target
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.intake import lending
from ollama_dist.replication.intake.journal import Journal
from ollama_dist.replication.intake.lending import Lender, Taking
from ollama_dist.replication.intake.ollama_calls import DiskFull, PullFailed
from ollama_dist.replication.intake.passing import Passing
from ollama_dist.replication.intake.registry import LoopbackRegistry
from ollama_dist.replication.manifest import Manifest
from tests.support.fake_ollama import FakeOllama, Fault
from tests.support.store_source import StoreSource
from tests.support.views import node_id

NAME = parse_model_name("tiny")


@dataclass
class Lent:
    fake: FakeOllama
    lender: Lender
    registry: LoopbackRegistry
    journal: Journal

    @property
    def original(self) -> Manifest:
        assert self.fake.store is not None
        return StoreSource(self.fake.store.folder, "tiny").manifest


@asynccontextmanager
async def lent(folder: Path, *, age: str = "0.33.0-rc2", reserve: int = 0) -> AsyncIterator[Lent]:
    registry = LoopbackRegistry()
    await registry.start()
    async with FakeOllama(age, models=("tiny",), folder=folder / "its") as fake:
        assert fake.catalogue.puller is not None
        fake.catalogue.puller.timing.part_bytes = 100_000
        target = Target(node_id(1), "127.0.0.1", fake.port)
        journal = Journal(folder / "journal.json")
        lender = Lender(Passing(lambda: target, journal), registry, folder / "lent", reserve)
        yield Lent(fake, lender, registry, journal)
        await lender.stop()
        target.close()
    await registry.stop()
    assert not (folder / "lent").exists()


@pytest.mark.parametrize("age", ["0.11.11", "0.33.0-rc2"])
async def test_what_is_lent_is_the_model_itself(age: str, tmp_path: Path) -> None:
    async with lent(tmp_path, age=age) as at:
        manifest = await at.lender.lend(NAME)
        assert manifest.raw == at.lender.store.manifest(NAME).raw == at.original.raw
        for digest, size in manifest.blobs.items():
            blob = at.lender.store.blob(digest)
            assert blob.size == size
            assert hashlib.sha256(blob.path.read_bytes()).hexdigest() == digest
        assert at.journal.names == ()
        assert [model.name.short for model in at.fake.catalogue._newest_first()] == ["tiny:latest"]


async def test_asked_at_once_it_is_pushed_once_and_blobs_that_are_here_are_not_sent_again(
    tmp_path: Path,
) -> None:
    async with lent(tmp_path) as at:
        await asyncio.gather(*(at.lender.lend(NAME) for _ in range(3)))
        assert len(at.fake.journal.on("/api/push")) == 1
        await at.lender.lend(NAME)
        assert len(at.fake.journal.on("/api/push")) == 2


async def test_what_cannot_be_lent_says_why(tmp_path: Path) -> None:
    async with lent(tmp_path) as at:
        with pytest.raises(PullFailed, match="does not list none"):
            await at.lender.lend(parse_model_name("none"))
        at.fake.faults.add(Fault(route="/api/push", status=500, message="it is broken"))
        with pytest.raises(PullFailed, match="it is broken"):
            await at.lender.lend(NAME)
    async with lent(tmp_path / "full", reserve=2**60) as at:
        with pytest.raises(DiskFull):
            await at.lender.lend(NAME)
        assert at.fake.journal.on("/api/push") == []


async def test_what_nobody_reads_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with lent(tmp_path) as at:
        await at.lender.lend(NAME)
        await at.lender.sweep()
        assert (tmp_path / "lent").exists()
        monkeypatch.setattr(lending, "KEPT_S", -1.0)
        await at.lender.sweep()
        assert not (tmp_path / "lent").exists()


async def test_what_an_earlier_life_has_lent_is_gone(tmp_path: Path) -> None:
    (tmp_path / "lent" / "blobs").mkdir(parents=True)
    async with lent(tmp_path):
        assert not (tmp_path / "lent").exists()


async def test_bytes_that_are_not_what_they_should_be_are_not_taken(tmp_path: Path) -> None:
    async with lent(tmp_path) as at:
        (tmp_path / "blobs").mkdir()
        taking = Taking(tmp_path / "blobs")
        async with aiohttp.ClientSession() as session:
            with at.registry.take(NAME, taking) as alias:
                base = f"http://{alias.host}/v2/{alias.namespace}/{alias.model}"

                async def ask(method: str, url: str, body: bytes = b"", **headers: str) -> tuple[int, str]:
                    async with session.request(method, url, data=body, headers=headers) as answer:
                        return answer.status, answer.headers.get("Location", "")

                digest = f"sha256:{hashlib.sha256(b'right').hexdigest()}"
                _, place = await ask("POST", f"{base}/blobs/uploads/")
                assert await ask("PATCH", place, b"wrong", **{"Content-Range": "0-4"}) == (202, place)
                assert (await ask("PUT", f"{place}?digest={digest}"))[0] == 400
                assert (await ask("HEAD", f"{base}/blobs/{digest}"))[0] == 404
                assert (await ask("PATCH", place, b"too long", **{"Content-Range": "0-4"}))[0] == 400
                assert (await ask("PATCH", place, b"short", **{"Content-Range": "0-9"}))[0] == 400
                assert (await ask("PATCH", place, b"x"))[0] == 416
                assert (await ask("PUT", f"{place}?digest=nonsense"))[0] == 400
                for upload in ("..", "upload-0-0", "%2e%2e%2fescaped"):
                    assert (await ask("PUT", f"{base}/blobs/uploads/{upload}?digest={digest}"))[0] == 404
                assert taking.manifest is None
            assert (await ask("POST", f"{base}/blobs/uploads/"))[0] == 404
