from collections.abc import AsyncIterator

import pytest

from ollama_dist.backends.poller import EnginePoller, Look, installed_models, loaded_models, state_after
from ollama_dist.backends.target import Target
from ollama_dist.core.view import EngineKind, EngineState
from tests.support.fake_ollama import FakeOllama, Fault
from tests.support.fake_ollama.faults import Hang
from tests.support.scripted_server import scripted
from tests.support.views import key, node_id
from tests.support.wait import until

GOOD = Look("0.33.0", b"{}", b"{}")
SLOW_PS = Look("0.33.0", b"{}", None, "slow")
SILENT = Look(None, None, None, "took too long")
REFUSED = Look(None, None, None, "refused", refused=True)


@pytest.mark.parametrize(
    ("look", "before", "slow_rounds", "after"),
    [
        (GOOD, EngineState.UNREACHABLE, 0, EngineState.READY),
        (GOOD, EngineState.BUSY, 0, EngineState.READY),
        (SLOW_PS, EngineState.READY, 0, EngineState.BUSY),
        (SILENT, EngineState.READY, 1, EngineState.BUSY),
        (SILENT, EngineState.BUSY, 2, EngineState.BUSY),
        (SILENT, EngineState.BUSY, 3, EngineState.UNREACHABLE),
        (SILENT, EngineState.UNREACHABLE, 1, EngineState.UNREACHABLE),
        (REFUSED, EngineState.READY, 1, EngineState.UNREACHABLE),
    ],
)
def test_slow_is_busy_and_refused_is_gone(
    look: Look, before: EngineState, slow_rounds: int, after: EngineState
) -> None:
    assert state_after(look, before, slow_rounds) is after


def test_rows_that_make_no_sense_are_left_out() -> None:
    body = (
        b'{"models":[{"name":"a","digest":"' + b"0" * 64 + b'","size":1},{"name":"b","digest":"x","size":1},'
        b'{"name":"c d","digest":"'
        + b"0" * 64
        + b'","size":1},{"name":5},7,{"name":"e","digest":"'
        + b"1" * 64
        + b'","size":"big"}]}'
    )
    assert list(installed_models(body)) == [key("a")]
    assert set(loaded_models(body)) == {key("a"), key("b"), key("e")}
    assert installed_models(b'{"models":null}') == {}


@pytest.mark.parametrize("body", [b"[]", b"<html>", b'{"models":5}', b""])
def test_a_body_that_makes_no_sense_is_said(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        installed_models(body)


@pytest.fixture
async def fake() -> AsyncIterator[FakeOllama]:
    async with FakeOllama(models=("tiny",)) as server:
        yield server


def state(poller: EnginePoller) -> EngineState:
    return poller.snapshot.engine.state


def poller_of(port: int, changes: list[EngineState]) -> EnginePoller:
    poller = EnginePoller(
        Target(node_id(1), "127.0.0.1", port),
        EngineKind.OLLAMA,
        lambda: changes.append(poller.snapshot.engine.state),
    )
    return poller


async def test_an_engine_is_known_with_its_version_and_models(fake: FakeOllama) -> None:
    poller = poller_of(fake.port, [])
    await poller.look()
    assert state(poller) is EngineState.READY
    assert poller.snapshot.engine.version == "0.33.0-rc2"
    assert poller.snapshot.models[key("tiny")].row["details"]["family"] == "llama"
    assert poller.snapshot.error == ""
    await poller.stop()


async def test_nothing_is_told_while_nothing_changes(fake: FakeOllama) -> None:
    changes: list[EngineState] = []
    poller = poller_of(fake.port, changes)
    for _ in range(3):
        await poller.look()
    assert changes == [EngineState.READY]
    await poller.stop()


async def test_a_slow_listing_of_what_runs_is_busy_not_gone(fake: FakeOllama) -> None:
    poller = poller_of(fake.port, [])
    await poller.look()
    fake.faults.add(Fault(route="/api/ps", hang=Hang.ANSWER))
    await poller.look()
    assert state(poller) is EngineState.BUSY
    assert "/api/ps took longer" in poller.snapshot.error
    assert poller.snapshot.models
    fake.clear_faults()
    await poller.look()
    assert state(poller) is EngineState.READY
    await poller.stop()


async def test_it_notices_by_itself_that_an_engine_goes_and_comes(fake: FakeOllama) -> None:
    changes: list[EngineState] = []
    poller = poller_of(fake.port, changes)
    poller.start()
    await until(lambda: changes == [EngineState.READY], what="being ready")
    await fake.stop()
    poller.nudge()
    await until(lambda: changes[-1] is EngineState.UNREACHABLE, what="being gone")
    assert poller.snapshot.error
    await fake.start()
    seconds = await until(lambda: changes[-1] is EngineState.READY, what="being back")
    assert seconds < 3
    await poller.stop()


async def test_nonsense_is_reported_and_what_was_known_is_kept() -> None:
    async with scripted(b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{"version":"1"}') as server:
        poller = poller_of(server.port, [])
        await poller.look()
        assert poller.snapshot.engine.version == "1"
        assert poller.snapshot.models == {}
        await poller.stop()
    async with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>") as server:
        poller = poller_of(server.port, [])
        await poller.look()
        assert state(poller) is EngineState.UNREACHABLE
        assert poller.snapshot.error
        await poller.stop()
