"""Every test here starts processes."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.real_nodes import RealNodes


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.cluster)


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[RealNodes]:
    running = RealNodes(tmp_path)
    yield running
    await running.stop()
