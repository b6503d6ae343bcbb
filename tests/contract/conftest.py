"""The server under test: one of the rows of `tests.contract.targets`, started on an empty store."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from tests.contract.targets import TARGETS, Target


@dataclass(frozen=True)
class ServerUnderTest:
    target: Target
    host: str
    port: int


def _row(target: Target) -> ParameterSet:
    marks = [pytest.mark.real_ollama] if target.name == "real-ollama" else []
    return pytest.param(target, id=target.name, marks=marks)


@pytest.fixture(params=[_row(target) for target in TARGETS])
async def server_under_test(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ServerUnderTest]:
    target: Target = request.param
    if target.needs:
        pytest.skip(target.needs)
    async with target.serving(tmp_path) as (host, port):
        yield ServerUnderTest(target, host, port)
