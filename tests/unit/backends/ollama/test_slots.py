import pytest

from ollama_dist.backends.ollama.slots import MAX_SLOTS, UNSEEN_WIDTH, slots_of, width_of

RUNNER_0_9 = ["/usr/bin/ollama", "runner", "--model", "/m", "--parallel", "3", "--port", "4"]
RUNNER_0_11 = ["/usr/bin/ollama", "runner", "--model", "/m", "--port", "4"]
RUNNER_0_33 = ["/usr/lib/ollama/llama-server", "--model", "/m", "-c", "8192", "-np", "2", "--jinja"]
EMBEDDER_0_33 = ["/usr/lib/ollama/llama-server", "--model", "/e", "-np", "1"]
SERVER = {"OLLAMA_NUM_PARALLEL": "4"}


@pytest.mark.parametrize(
    ("lines", "environment", "started_with", "configured", "slots"),
    [
        ([RUNNER_0_9], SERVER, 5, 6, 3),
        ([RUNNER_0_33], {}, 0, 0, 2),
        ([EMBEDDER_0_33, RUNNER_0_33], {}, 0, 0, 2),
        ([RUNNER_0_11], SERVER, 5, 6, 4),
        ([], SERVER, 5, 6, 4),
        ([RUNNER_0_11], {}, 5, 6, 5),
        ([], {}, 0, 6, 6),
        ([], {}, 0, 0, 1),
        ([], {"OLLAMA_NUM_PARALLEL": "many"}, 0, 0, 1),
        ([["llama-server", "-np"]], {}, 0, 0, 1),
        ([["llama-server", "-np", "999999"]], {}, 0, 0, MAX_SLOTS),
    ],
)
def test_the_nearest_to_the_runner_is_believed(
    lines: list[list[str]], environment: dict[str, str], started_with: int, configured: int, slots: int
) -> None:
    found = slots_of(lines, environment, started_with=started_with, configured=configured)
    assert found == slots


def test_an_ollama_nobody_can_see_into_is_sent_more_than_one_at_once() -> None:
    assert width_of(1, {}, told=False) == UNSEEN_WIDTH
    assert width_of(8, {}, told=False) == 8
    assert width_of(1, {"PATH": "/bin"}, told=False) == 1
    assert width_of(1, {}, told=True) == 1
