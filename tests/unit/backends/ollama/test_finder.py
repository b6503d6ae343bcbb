import pytest

from ollama_dist.backends.ollama.finder import (
    WELL_KNOWN,
    KeepLooking,
    Listening,
    Start,
    Use,
    choose,
    find_program,
    who_listens,
)
from tests.support.fake_ollama import FakeOllama, Fault
from tests.support.fake_ollama.faults import Hang
from tests.support.scripted_server import scripted
from tests.support.solo_node import solo_node


@pytest.mark.parametrize(
    ("told", "well_known", "program", "expected"),
    [
        (("10.0.0.5", 1234), Listening.OLLAMA, "/bin/ollama", Use("10.0.0.5", 1234)),
        (None, Listening.OLLAMA, "/bin/ollama", Use(*WELL_KNOWN)),
        (None, Listening.OUR_NODE, "/bin/ollama", Start("/bin/ollama")),
        (None, Listening.SOMEBODY, "/bin/ollama", Start("/bin/ollama")),
        (None, Listening.NOBODY, "/bin/ollama", Start("/bin/ollama")),
    ],
)
def test_what_is_used(
    told: tuple[str, int] | None, well_known: Listening, program: str | None, expected: object
) -> None:
    assert choose(told, well_known, program) == expected


@pytest.mark.parametrize("well_known", [Listening.OUR_NODE, Listening.SOMEBODY, Listening.NOBODY])
def test_where_there_is_nothing_it_says_so(well_known: Listening) -> None:
    plan = choose(None, well_known, None)
    assert isinstance(plan, KeepLooking)
    assert "no Ollama listens at 127.0.0.1:11434" in plan.reason


async def test_an_ollama_is_told_from_a_node_of_ours_and_from_anything_else() -> None:
    async with FakeOllama() as fake:
        assert await who_listens("127.0.0.1", fake.port) is Listening.OLLAMA
        async with solo_node(fake.port) as node:
            assert await who_listens("127.0.0.1", node.port) is Listening.OUR_NODE
    assert await who_listens("127.0.0.1", fake.port) is Listening.NOBODY
    async with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello") as server:
        assert await who_listens("127.0.0.1", server.port) is Listening.SOMEBODY
    async with scripted(b"220 mail.example ESMTP\r\n") as server:
        assert await who_listens("127.0.0.1", server.port) is Listening.SOMEBODY


async def test_one_that_hangs_is_somebody() -> None:
    async with FakeOllama() as fake:
        fake.faults.add(Fault(route="*", hang=Hang.ANSWER))
        assert await who_listens("127.0.0.1", fake.port) is Listening.SOMEBODY
        fake.clear_faults()


def test_a_program_is_found_by_name_or_not_at_all() -> None:
    assert find_program("sh") is not None
    assert find_program("no-such-program-anywhere") is None
