import asyncio
import stat
from pathlib import Path

import pytest

from ollama_dist.replication.moves.shelf import Shelf


async def test_documents_survive(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "new")
    await shelf.save("one", {"a": 1})
    await shelf.save("two", {"b": 2})
    await shelf.remove("two")
    assert Shelf(tmp_path / "new").load() == {"one": {"a": 1}}
    assert stat.S_IMODE((tmp_path / "new" / "one.json").stat().st_mode) == 0o600


async def test_the_newest_of_many_wins(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    await asyncio.gather(*(shelf.save("one", {"n": number}) for number in range(30)))
    assert shelf.load() == {"one": {"n": 29}}
    await asyncio.gather(shelf.save("one", {"n": 1}), shelf.remove("one"))
    assert shelf.load() == {}


async def test_what_is_damaged_is_left_out_and_left_there(tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text("{")
    await Shelf(tmp_path).save("good", {})
    assert Shelf(tmp_path).load() == {"good": {}}
    assert (tmp_path / "bad.json").read_text() == "{"


async def test_without_a_folder_nothing_is_kept_and_nothing_fails() -> None:
    shelf = Shelf(None)
    await shelf.save("one", {})
    assert shelf.load() == {}


async def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot be made"):
        await Shelf(tmp_path / "file").save("one", {})
