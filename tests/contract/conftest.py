"""The server under test: one of the rows of `tests.contract.targets`, started on an empty store."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.contract.targets import TARGETS, Target


@dataclass(frozen=True)
class ServerUnderTest:
    target: Target
    host: str
    port: int


@pytest.fixture(params=[pytest.param(target, id=target.name) for target in TARGETS])
async def server_under_test(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    target: Target = request.param
    if target.needs:
        pytest.skip(target.needs)
    async with target.serving(tmp_path) as (host, port):
        yield ServerUnderTest(target, host, port)
