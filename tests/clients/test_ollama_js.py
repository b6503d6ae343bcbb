"""ollama-js, run by node: each test runs one step of ``js/client.mjs`` and reads what it printed."""

import asyncio
import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from tests.support.fake_ollama.faults import Hang
from tests.support.installed_apart import MINUTES, node_modules
from tests.support.pair import ELSEWHERE, HERE, SENTENCE, Pair

pytestmark = [
    pytest.mark.asyncio(loop_scope="package"),
    pytest.mark.timeout(60 * (MINUTES + 1)),  # the first one installs
    pytest.mark.skipif(
        shutil.which("node") is None or shutil.which("npm") is None,
        reason="ollama-js is tested where node and npm are installed",
    ),
]

JS: Final = Path(__file__).parent / "js"
STEP_S: Final = 30.0
WORDS: Final = [f" {word}" for word in SENTENCE.split()]


class Script:
    def __init__(self, pair: Pair, folder: Path) -> None:
        self._pair = pair
        self._folder = folder

    async def run(self, step: str) -> Any:
        """The result of one step."""
        return (await self._printed(step))["result"]

    async def run_elsewhere(self, step: str) -> Any:
        """The result of a step of which every answer came from the other node."""
        printed = await self._printed(step)
        assert set(printed["nodes"]) == {"laptop"}
        return printed["result"]

    async def _printed(self, step: str) -> Any:
        process = await asyncio.create_subprocess_exec(
            *("node", str(JS / "client.mjs"), self._pair.url, step),
            cwd=self._folder,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(STEP_S):
                printed, complaints = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
        assert process.returncode == 0, complaints.decode()
        return json.loads(printed)


@pytest_asyncio.fixture(loop_scope="package")
async def script(pair: Pair) -> Script:
    return Script(pair, await asyncio.to_thread(node_modules, JS))


async def test_everybodys_models_are_listed(script: Script) -> None:
    assert set(await script.run("list")) == {f"{name}:latest" for name in (HERE, *ELSEWHERE)}


async def test_a_model_is_shown_by_who_has_it(script: Script) -> None:
    shown = await script.run_elsewhere("show")
    assert shown == {"capabilities": ["completion"], "architecture": "llama"}


async def test_text_whole_and_streamed(pair: Pair, script: Script) -> None:
    said = await script.run_elsewhere("generate")
    assert said == {"whole": SENTENCE, "reason": "stop", "streamed": [*WORDS, ""]}
    assert pair.was_served_elsewhere("/api/generate")
    assert "tiny:latest" in await script.run("ps")


async def test_chat_whole_and_streamed(pair: Pair, script: Script) -> None:
    said = await script.run_elsewhere("chat")
    assert said["whole"] == SENTENCE
    assert said["streamed"] == [*WORDS, ""]
    assert said["done"] == [False] * len(WORDS) + [True]
    assert pair.was_served_elsewhere("/api/chat")


async def test_what_is_said_arrives_letter_for_letter(script: Script) -> None:
    assert "".join(await script.run_elsewhere("unicode")) == "Grüße aus 東京 <b>& 🦙 end"


async def test_texts_become_vectors(pair: Pair, script: Script) -> None:
    known = pair.holder.ollama.book.vectors
    assert await script.run_elsewhere("embed") == [known["hello"], known["world"]]


async def test_a_copy_is_there_at_once_and_gone_at_once(script: Script) -> None:
    changed = await script.run("copy")
    assert changed["copied"] == changed["deleted"] == {"status": "success"}
    assert "ours:latest" in changed["between"]
    assert "ours:latest" not in changed["after"]


async def test_a_pull_is_of_the_node_that_was_asked(pair: Pair, script: Script) -> None:
    digest = pair.entry.ollama.book.rows[f"{HERE}:latest"]["digest"][:12]
    assert await script.run("pull") == [
        "pulling manifest",
        f"pulling {digest}",
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]


async def test_an_unknown_model_is_a_404_in_ollamas_words(script: Script) -> None:
    failures = await script.run("unknown")
    assert [(each["name"], each["status"]) for each in failures] == [("ResponseError", 404)] * 3
    assert [each["message"] for each in failures] == [
        "model 'none' not found",
        "model 'none' not found",
        "model 'none:latest' not found",  # what `show` calls it
    ]


async def test_a_stream_that_is_cut_raises(pair: Pair, script: Script) -> None:
    pair.fail(cut=True, at_token=3)
    failure = await script.run_elsewhere("cut")
    assert failure["said"] == WORDS[:3]
    assert failure["message"]


async def test_an_aborted_stream_is_closed_at_the_engine(pair: Pair, script: Script) -> None:
    pair.fail(hang=Hang.STREAM, at_token=2)
    aborted = await script.run_elsewhere("abort")
    assert (aborted["name"], aborted["said"]) == ("AbortError", WORDS[:2])
    await pair.until_client_left("/api/chat")
