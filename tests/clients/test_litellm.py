"""litellm, in an environment of its own: its many packages want an older openai than the tests have.

One run of ``litellm_steps.py`` takes all steps, since importing the library takes longer than they do.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.support.installed_apart import MINUTES, ROOT, python_of
from tests.support.pair import SENTENCE, Pair
from tests.support.real_nodes import environment_of

pytestmark = [
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.timeout(60 * (MINUTES + 2)),  # the first one installs
]

LOCK: Final = ROOT / "requirements" / "litellm.txt"
STEPS: Final = Path(__file__).parent / "litellm_steps.py"
STEPS_S: Final = 90.0
WORDS: Final = [f" {word}" for word in SENTENCE.split()]


@dataclass(frozen=True)
class Told:
    steps: dict[str, dict[str, Any]]
    asked_elsewhere: set[str]
    """The models that the engine of the other node was asked for."""
    asked_here: set[str]

    def result(self, step: str) -> Any:
        assert "error" not in self.steps[step], self.steps[step]
        return self.steps[step]["result"]


@pytest_asyncio.fixture(scope="module", loop_scope="package")
async def told(started_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Told]:
    python = await asyncio.to_thread(python_of, LOCK)
    await started_pair.heal()
    started_pair.fail(model="tiny-uni", cut=True, at_token=3)
    steps = await _run(python, started_pair.url, tmp_path_factory.mktemp("litellm"))
    yield Told(
        steps, _models(started_pair.seen.requests), _models(started_pair.entry.ollama.journal.requests)
    )


async def _run(python: Path, url: str, home: Path) -> dict[str, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        *(str(python), "-W", "ignore", str(STEPS), url),
        env=environment_of(home) | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"},  # it asks the internet else
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(STEPS_S):
            printed, complaints = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, complaints.decode()
    steps: dict[str, dict[str, Any]] = json.loads(printed.splitlines()[-1])
    return steps


def _models(requests: list[Any]) -> set[str]:
    return {seen.model for seen in requests if seen.model}


async def test_a_completion_is_what_the_model_says(told: Told) -> None:
    assert told.result("completion") == [SENTENCE, "stop", len(WORDS) + 1]
    assert told.result("generated") == SENTENCE


@pytest.mark.parametrize("step", ["streamed", "streamed_async", "generated_streamed", "openai"])
async def test_a_stream_is_what_the_model_says_word_by_word(told: Told, step: str) -> None:
    assert told.result(step) == [*WORDS, ""]


async def test_texts_become_vectors(told: Told, pair: Pair) -> None:
    known = pair.holder.ollama.book.vectors
    assert told.result("embedded") == [known["hello"], known["world"]]


async def test_all_of_it_came_from_the_other_node(told: Told) -> None:
    nobodys = {"none"}  # any engine may say so
    assert told.asked_elsewhere - nobodys == {"tiny", "tiny-embed", "tiny-uni"}
    assert told.asked_here - nobodys == set()


@pytest.mark.parametrize("step", ["unknown", "unknown_openai"])
async def test_an_unknown_model_is_not_found(told: Told, step: str) -> None:
    assert told.steps[step]["error"] == "NotFoundError"
    assert "model 'none' not found" in told.steps[step]["message"]


@pytest.mark.parametrize("step", ["cut", "cut_openai"])
async def test_a_cut_stream_raises(told: Told, step: str) -> None:
    assert told.steps[step]["said"] == ["Grüße", " aus", " 東京"]
    assert "broke off" in told.steps[step]["message"]
