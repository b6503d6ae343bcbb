"""Reading a node's models again, asked for at any node."""

from pathlib import Path
from typing import Any

from tests.integration.test_operations import ask
from tests.support.joined_nodes import JoinedNode, joined_nodes
from tests.support.wait import until


async def scrubbed(node: JoinedNode, name: str) -> dict[str, Any]:
    status, said = await ask(node, "POST", "scrub", {"node": name})
    assert (status, said["node"], said["state"]) == (200, name, "running")
    while said["state"] == "running":
        status, said = await ask(node, "GET", f"scrub?node={name}")
        assert status == 200
    return said


async def test_any_node_is_asked_at_any_node_and_names_what_is_wrong(tmp_path: Path) -> None:
    async with joined_nodes({"desk": [], "laptop": ["tiny"]}, folder=tmp_path) as nodes:
        keeper = nodes["laptop"].node.keeper
        assert keeper is not None
        await until(lambda: bool(keeper.store_id), what="the store's being found")
        said = await scrubbed(nodes["desk"], "laptop")
        assert said["files"] > 0
        assert (said["waiting"], said["corrupt"]) == (0, [])
        assert said["bytes_done"] == said["bytes_total"] > 0
        assert keeper.store is not None
        blob = max(map(keeper.store.blob, keeper.store.blobs()), key=lambda each: each.size)
        with blob.path.open("r+b") as file:
            file.write(b"rotten")
        said = await scrubbed(nodes["desk"], "laptop")
        assert said["corrupt"] == [{"digest": blob.digest, "models": ["tiny:latest"]}]
        assert (await ask(nodes["desk"], "GET", "scrub?node=cellar"))[0] == 404
        assert (await ask(nodes["desk"], "POST", "scrub", {"who": "laptop"}))[0] == 400


async def test_who_may_not_read_its_models_says_so() -> None:
    async with joined_nodes({"desk": ["tiny"], "laptop": []}) as nodes:
        status, said = await ask(nodes["laptop"], "POST", "scrub", {"node": "desk"})
        assert (status, said["code"]) == (503, "store_unreadable")
