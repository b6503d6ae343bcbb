"""The contract: each recorded request, in order, gets the recorded answer."""

import asyncio
import re
from typing import Final

import pytest

from tests.contract.compare import differences
from tests.contract.conftest import ServerUnderTest
from tests.contract.play import play
from tests.contract.targets import TARGETS, Target
from tests.support import recordings
from tests.support.recordings import Recorded

BEFORE: Final = {"delete-name": ("/api/copy", b'{"source":"tiny","destination":"me/tiny:x"}')}
"""What is not on record but must have happened before an exchange."""

SETTLING_S: Final = 5.0
"""How long an unloaded model may still be listed: runners are stopped in their own time."""


async def test_recorded_requests_get_the_recorded_answers(server_under_test: ServerUnderTest) -> None:
    target = server_under_test.target
    complaints = []
    for exchange in recordings.exchanges(target.age):
        if exchange.id in BEFORE:
            path, body = BEFORE[exchange.id]
            before = Recorded("", "POST", path, {"Content-Type": "application/json"}, body, 200, (), ())
            await play(server_under_test.host, server_under_test.port, before)
        found = await _differences(server_under_test, exchange)
        if found and target.reason_to_differ(exchange.id) is None:
            complaints += [f"{exchange.id}: {difference}" for difference in found]
    assert not complaints, "\n".join(complaints)


@pytest.mark.parametrize("target", [pytest.param(target, id=target.name) for target in TARGETS])
def test_a_difference_is_allowed_only_to_what_is_on_record_and_with_a_reason(target: Target) -> None:
    known = [exchange.id for exchange in recordings.exchanges(target.age)]
    for pattern, reason in target.allowed.items():
        assert any(re.fullmatch(pattern, name) for name in known)
        assert len(reason.split()) >= 3


async def _differences(server: ServerUnderTest, exchange: Recorded) -> list[str]:
    """Of the one answer; for what runs, of answers until they agree or time is up."""
    target = server.target
    give_up = asyncio.get_running_loop().time() + SETTLING_S
    while True:
        answer = await play(server.host, server.port, exchange)
        found = differences(
            answer, exchange, same_chunks=target.same_chunks, same_digests=target.same_digests
        )
        is_over = asyncio.get_running_loop().time() > give_up or target.reason_to_differ(exchange.id)
        if not found or exchange.path != "/api/ps" or is_over:
            return found
        await asyncio.sleep(0.05)
