"""Lists of pieces: made once, kept, and true of the file they were made of."""

from pathlib import Path

import pytest
from blake3 import blake3

from ollama_dist.replication.disk.pieces import HASH_BYTES, PIECE, PieceLists, piece_count, piece_size
from ollama_dist.replication.disk.store import StoreUnreadable
from tests.support.model_store import ModelStore, noise

DATA = noise(3 * PIECE + 5)
LIST = b"".join(blake3(DATA[at : at + PIECE]).digest() for at in range(0, len(DATA), PIECE))


def test_the_last_piece_is_the_rest() -> None:
    assert [piece_count(size) for size in (0, 1, PIECE, PIECE + 1)] == [0, 1, 1, 2]
    assert [piece_size(len(DATA), index) for index in range(4)] == [PIECE, PIECE, PIECE, 5]


async def test_parts_of_a_list_are_the_list(tmp_path: Path) -> None:
    store, lists = ModelStore(tmp_path / "models"), PieceLists(tmp_path / "pieces")
    blob = store.blob(store.put(DATA))

    assert await lists.hashes(blob, 1, 3) == LIST[HASH_BYTES : 3 * HASH_BYTES]
    assert not (tmp_path / "pieces").exists()
    assert await lists.hashes(blob, 0, 4) == LIST
    assert (tmp_path / "pieces" / blob.digest).exists()


async def test_a_kept_list_is_used_while_the_file_is_the_same(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "models")
    blob = store.blob(store.put(DATA))
    await PieceLists(tmp_path / "pieces").hashes(blob, 0, 4)
    kept = tmp_path / "pieces" / blob.digest
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")

    assert (await PieceLists(tmp_path / "pieces").hashes(blob, 0, 4))[-1:] == b"!"

    store.flip(blob.digest, PIECE)
    changed = store.blob(blob.digest)
    again = await PieceLists(tmp_path / "pieces").hashes(changed, 0, 4)
    assert [again[at : at + 32] == LIST[at : at + 32] for at in range(0, 128, 32)] == [
        True,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize("kept", [b"", b"nonsense", b"[1,2,3]\nabc"])
async def test_a_kept_list_that_is_none_is_made_again(tmp_path: Path, kept: bytes) -> None:
    store = ModelStore(tmp_path / "models")
    blob = store.blob(store.put(DATA))
    (tmp_path / "pieces").mkdir()
    (tmp_path / "pieces" / blob.digest).write_bytes(kept)
    assert await PieceLists(tmp_path / "pieces").hashes(blob, 0, 4) == LIST


async def test_lists_of_blobs_that_are_gone_go(tmp_path: Path) -> None:
    store, lists = ModelStore(tmp_path / "models"), PieceLists(tmp_path / "pieces")
    blobs = [store.blob(store.put(noise(size))) for size in (PIECE, 2 * PIECE)]
    for blob in blobs:
        await lists.hashes(blob, 0, piece_count(blob.size))

    await lists.forget_all_but({blobs[0].digest})

    assert [path.name for path in (tmp_path / "pieces").iterdir()] == [blobs[0].digest]


async def test_a_file_that_has_shrunk_is_an_error(tmp_path: Path) -> None:
    store, lists = ModelStore(tmp_path / "models"), PieceLists(tmp_path / "pieces")
    blob = store.blob(store.put(DATA))
    store.blob_path(blob.digest).write_bytes(DATA[:PIECE])
    with pytest.raises(StoreUnreadable, match="shorter"):
        await lists.hashes(blob, 0, 4)
