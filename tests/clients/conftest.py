"""One pair of nodes for all the tests here, on one loop: starting it takes longer than most of them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.pair import ELSEWHERE, HERE, Pair
from tests.support.real_nodes import RealNodes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest_asyncio.fixture(scope="package", loop_scope="package")
async def started_pair(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    nodes = RealNodes(tmp_path_factory.mktemp("pair"))
    try:
        await nodes.joined({"desk": [HERE], "laptop": ELSEWHERE}, slots=4, folder=None)
        yield Pair(nodes)
    finally:
        await nodes.stop()


@pytest_asyncio.fixture(loop_scope="package")
async def pair(started_pair: Pair) -> Pair:
    """As new: what the test before did to it is undone."""
    await started_pair.heal()
    return started_pair
