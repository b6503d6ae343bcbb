"""litellm, in an environment of its own: its many packages want an older openai than the tests have.

One test, since importing the library takes longer than all of ``litellm_steps.py``: several would be spread
over processes that each run it.
"""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.installed_apart import MINUTES, ROOT, python_of
from tests.support.pair import SENTENCE, Pair
from tests.support.real_nodes import RealNode, environment_of

pytestmark = [
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.timeout(60 * (MINUTES + 2)),  # the first one installs
]

LOCK: Final = ROOT / "requirements" / "litellm.txt"
STEPS: Final = Path(__file__).parent / "litellm_steps.py"
STEPS_S: Final = 90.0
WORDS: Final = [f" {word}" for word in SENTENCE.split()]


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


async def test_litellm_gets_from_the_other_node_what_it_would_get_from_one_ollama(
    pair: Pair, tmp_path: Path
) -> None:
    python = await asyncio.to_thread(python_of, LOCK)
    pair.fail(model="tiny-uni", cut=True, at_token=3)
    steps = await _run(python, pair.url, tmp_path)
    results = {name: outcome["result"] for name, outcome in steps.items() if "result" in outcome}
    failures = {name: outcome for name, outcome in steps.items() if "error" in outcome}
    known = pair.holder.ollama.book.vectors
    assert results == {
        "completion": [SENTENCE, "stop", len(WORDS) + 1],
        "generated": SENTENCE,
        "streamed": [*WORDS, ""],
        "streamed_async": [*WORDS, ""],
        "generated_streamed": [*WORDS, ""],
        "openai": [*WORDS, ""],
        "embedded": [known["hello"], known["world"]],
    }, failures
    _are_not_found([failures["unknown"], failures["unknown_openai"]])
    _broke_off([failures["cut"], failures["cut_openai"]])
    nobodys = {"none"}  # any engine may say so
    assert _models(pair.holder) - nobodys == {"tiny", "tiny-embed", "tiny-uni"}
    assert _models(pair.entry) - nobodys == set()


def _are_not_found(failures: list[dict[str, Any]]) -> None:
    for failure in failures:
        assert failure["error"] == "NotFoundError"
        assert "model 'none' not found" in failure["message"]


def _broke_off(failures: list[dict[str, Any]]) -> None:
    for failure in failures:
        assert failure["said"] == ["Grüße", " aus", " 東京"]
        assert "broke off" in failure["message"]


def _models(node: RealNode) -> set[str]:
    """The models that the engine of ``node`` was asked for."""
    return {seen.model for seen in node.ollama.journal.requests if seen.model}
