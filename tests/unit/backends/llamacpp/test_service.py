"""The engine as its clients see it, with real runners behind it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.support.wait import until
from tests.unit.backends.llamacpp.conftest import ENDLESS, SENTENCE, Serve
from tests.unit.backends.llamacpp.talking import read_on

HELLO = [{"role": "user", "content": "hello"}]


def runners() -> list[int]:
    """The runner processes of this one."""
    found = []
    for child in psutil.Process().children():
        try:
            if any("llamacpp.runner" in part for part in child.cmdline()):
                found.append(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found


def kill_and_see_it_dead(pid: int) -> None:
    """The loop stands still meanwhile, so nothing on it has noticed yet.

    A process that is killed loses its command line first and its sockets later.
    """
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


async def test_a_prompt_is_answered_token_by_token(serve: Serve) -> None:
    async with serve() as (_, client):
        answer = await client.post("/api/generate", model="tiny", prompt="hello")
        assert answer.status == 200
        assert answer.content_type == "application/x-ndjson"
        assert answer.text == f" {SENTENCE}"
        assert [line["done"] for line in answer.lines] == [False] * len(SENTENCE.split()) + [True]
        last = answer.lines[-1]
        assert last["done_reason"] == "stop"
        assert last["eval_count"] == len(SENTENCE.split()) + 1
        assert last["total_duration"] >= last["load_duration"] > 0


async def test_a_chat_in_one_piece_says_the_same_as_its_stream(serve: Serve) -> None:
    async with serve() as (_, client):
        whole = await client.post("/api/chat", model="tiny", messages=HELLO, stream=False)
        stream = await client.post("/api/chat", model="tiny", messages=HELLO)
        assert whole.json["message"]["content"] == f" {SENTENCE}"
        assert "".join(line["message"]["content"] for line in stream.lines) == f" {SENTENCE}"


async def test_a_runner_killed_within_an_answer_ends_it_as_a_failure_and_is_replaced(serve: Serve) -> None:
    async with serve() as (_, client):
        async with client.session.post(
            client.url + "/api/generate", data=json.dumps({"model": "endless", "prompt": "hello"})
        ) as response:
            first = await response.content.readline()
            assert json.loads(first)["response"] == " round"
            [pid] = runners()
            kill_and_see_it_dead(pid)
            rest, is_clean = await read_on(response)
        assert not is_clean
        assert json.loads(rest.splitlines()[-1]) == {"error": "the model runner stopped unexpectedly"}
        assert b'"done":true' not in rest
        again = await client.post("/api/generate", model="endless", prompt="hi", options={"num_predict": 2})
        assert again.text == " round and"


async def test_who_comes_right_after_the_death_of_a_runner_gets_a_new_one(serve: Serve) -> None:
    async with serve() as (service, client):
        await client.post("/api/generate", model="endless")
        [pid] = runners()
        [model] = [each.model for each in service.supervisor.loaded]
        options = service.supervisor.loaded[0].options
        kill_and_see_it_dead(pid)
        async with service.supervisor.lease(model, options, None) as lease:
            assert await lease.client.is_healthy()


async def test_an_answer_in_one_piece_whose_runner_dies_is_an_error(serve: Serve) -> None:
    async with serve() as (_, client):
        await client.post("/api/generate", model="endless")
        [pid] = runners()
        asking = asyncio.create_task(client.post("/api/chat", model="endless", messages=HELLO, stream=False))
        await until(lambda: psutil.Process(pid).cpu_percent(interval=0.05) > 20, what="work of the runner")
        os.kill(pid, signal.SIGKILL)
        answer = await asking
        assert answer.status == 500
        assert answer.json == {"error": "the model runner stopped unexpectedly"}


async def test_a_client_that_leaves_frees_its_place_at_once(serve: Serve) -> None:
    async with serve(slots=1) as (_, client):
        async with client.session.post(
            client.url + "/api/generate", data=json.dumps({"model": "endless", "prompt": "hello"})
        ) as response:
            await response.content.readline()
        answer = await client.post("/api/generate", model="endless", prompt="hi", options={"num_predict": 3})
        assert answer.text == " round and on"


async def test_a_client_that_does_not_wait_for_the_whole_answer_frees_its_place(serve: Serve) -> None:
    async with serve(slots=1) as (_, client):
        await client.post("/api/generate", model="endless")
        [pid] = runners()
        asking = asyncio.create_task(client.post("/api/generate", model="endless", prompt="hi", stream=False))
        await until(lambda: psutil.Process(pid).cpu_percent(interval=0.05) > 20, what="work of the runner")
        asking.cancel()
        answer = await client.post("/api/generate", model="endless", prompt="hi", options={"num_predict": 3})
        assert answer.text == " round and on"


async def test_two_slots_answer_two_requests_at_once(serve: Serve) -> None:
    async with serve(slots=2) as (_, client):
        body = json.dumps({"model": "endless", "prompt": "hello"})
        async with client.session.post(client.url + "/api/generate", data=body) as first:
            await first.content.readline()
            second = await client.post(
                "/api/generate", model="endless", prompt="hi", options={"num_predict": 3}
            )
            assert second.text == " round and on"
            assert json.loads(await first.content.readline())["done"] is False


async def test_an_empty_prompt_loads_and_a_keep_alive_of_nothing_unloads(serve: Serve) -> None:
    async with serve() as (_, client):
        loaded = await client.post("/api/generate", model="tiny")
        assert loaded.json["done_reason"] == "load"
        assert await client.loaded() == ["tiny:latest"]
        unloaded = await client.post("/api/chat", model="tiny", keep_alive="0s")
        assert unloaded.json["done_reason"] == "unload"
        assert await client.loaded() == []
        await until(lambda: not runners(), what="the end of the runner")


async def test_a_model_leaves_when_its_time_is_up(serve: Serve) -> None:
    async with serve() as (service, client):
        await client.post("/api/generate", model="tiny", keep_alive=0.05)
        await until(lambda: not service.supervisor.loaded and not runners(), what="the end of its time")


async def test_a_model_asked_to_leave_while_it_answers_leaves_afterwards(serve: Serve) -> None:
    async with serve() as (service, client):
        body = json.dumps({"model": "endless", "prompt": "hello", "options": {"num_predict": 400}})
        async with client.session.post(client.url + "/api/generate", data=body) as response:
            await response.content.readline()
            await client.post("/api/generate", model="endless", keep_alive=0)
            assert await client.loaded() == ["endless:latest"]
            lines = (await response.content.read()).splitlines()
        assert json.loads(lines[-1])["done_reason"] == "length"
        await until(lambda: not service.supervisor.loaded, what="its leaving")


async def test_another_context_has_the_model_loaded_anew(serve: Serve) -> None:
    async with serve() as (_, client):
        await client.post("/api/generate", model="tiny")
        [before] = runners()
        await client.post("/api/generate", model="tiny", prompt="hi", options={"temperature": 0.1})
        assert runners() == [before]
        await client.post("/api/generate", model="tiny", options={"num_ctx": 256})
        [after] = runners()
        assert after != before
        assert (await client.get("/api/ps")).json["models"][0]["context_length"] == 256


async def test_the_idle_model_with_the_shortest_keep_alive_makes_room(serve: Serve) -> None:
    async with serve(max_loaded=2) as (_, client):
        await client.post("/api/generate", model="tiny", keep_alive=60)
        await client.post("/api/generate", model="twin", keep_alive=-1)
        await client.post("/api/generate", model="endless")
        assert sorted(await client.loaded()) == ["endless:latest", "twin:latest"]


async def test_a_model_too_large_for_the_machine_is_refused_as_an_ollama_would(serve: Serve) -> None:
    async with serve(memory_bytes=1000) as (_, client):
        answer = await client.post("/api/generate", model="tiny", prompt="hello")
        assert answer.status == 500
        assert answer.json["error"].startswith(
            "model requires more system memory (0.0 GiB) than is available"
        )


async def test_requests_beyond_those_that_may_wait_for_a_load_are_refused(serve: Serve) -> None:
    async with serve(max_waiting=0) as (_, client):
        answer = await client.post("/api/generate", model="tiny", prompt="hello")
        assert answer.status == 503
        assert answer.json["error"] == ("server busy, please try again.  maximum pending requests exceeded")


async def test_a_long_chat_loses_its_oldest_messages_but_not_its_system_prompt(serve: Serve) -> None:
    async with serve() as (_, client):
        old = [{"role": "user", "content": "words " * 60}, {"role": "assistant", "content": "yes"}]
        messages = [{"role": "system", "content": "be brief"}, *old * 4, *HELLO]
        answer = await client.post("/api/chat", model="tiny", messages=messages, stream=False)
        assert answer.json["message"]["content"] == f" {SENTENCE}"
        assert answer.json["prompt_eval_count"] < 512
        refused = await client.post("/api/chat", model="tiny", messages=messages, truncate=False)
        assert refused.status == 400
        assert "exceeds the available context size" in refused.json["error"]


async def test_a_prompt_longer_than_the_context_is_cut(serve: Serve) -> None:
    async with serve() as (_, client):
        answer = await client.post("/api/generate", model="tiny", prompt="words " * 600, stream=False)
        assert answer.json["response"] == f" {SENTENCE}"
        chat = [{"role": "user", "content": "words " * 600}]
        answer = await client.post("/api/chat", model="tiny", messages=chat, stream=False)
        assert answer.json["message"]["content"] == f" {SENTENCE}"


async def test_a_file_that_llama_cpp_refuses_is_told_in_one_line(
    serve: Serve, tiny_models: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    known = (tiny_models / "tiny.gguf").read_bytes()
    (folder / "odd.gguf").write_bytes(known.replace(b"llama", b"lemur"))
    async with serve(models_dir=folder) as (_, client):
        answer = await client.post("/api/generate", model="odd", prompt="hello")
        assert answer.status == 500
        assert answer.json["error"].startswith("llama.cpp cannot load it: ")
        assert "\n" not in answer.json["error"]
        assert not runners()


@pytest.mark.parametrize("headers", [{"Origin": "http://localhost"}, {"Host": "evil.example"}])
async def test_web_pages_are_refused(serve: Serve, headers: dict[str, str]) -> None:
    async with serve() as (_, client):
        answer = await client.get("/api/tags", **headers)
        assert (answer.status, answer.body) == (403, b"")


async def test_each_dialect_gets_its_own_kind_of_error(serve: Serve) -> None:
    async with serve() as (_, client):
        native = await client.post("/api/chat", model="none", messages=HELLO)
        assert (native.status, native.json) == (404, {"error": "model 'none' not found"})
        openai = await client.post("/v1/chat/completions", model="none", messages=HELLO)
        assert openai.status == 404
        assert openai.json["error"]["type"] == "not_found_error"
        anthropic = await client.post("/v1/messages", model="none", max_tokens=5, messages=HELLO)
        assert anthropic.status == 404
        assert anthropic.json["error"] == {"type": "not_found_error", "message": "model 'none' not found"}


async def test_what_needs_a_store_is_refused_in_a_sentence(serve: Serve) -> None:
    async with serve() as (_, client):
        answer = await client.post("/api/pull", model="llama3")
        assert answer.status == 501
        assert answer.json["error"].startswith("the embedded engine has no pull:")


async def test_a_broken_stream_of_another_dialect_says_so_too(serve: Serve) -> None:
    async with serve() as (_, client):
        body = json.dumps({"model": "endless", "messages": HELLO, "stream": True})
        async with client.session.post(client.url + "/v1/chat/completions", data=body) as response:
            await response.content.readline()
            os.kill(runners()[0], signal.SIGKILL)
            rest, is_clean = await read_on(response)
        assert not is_clean
        assert b'data: {"error":{"message":"the model runner stopped unexpectedly"' in rest
        assert b"[DONE]" not in rest


async def test_the_key_of_a_runner_is_seen_by_nobody(serve: Serve) -> None:
    async with serve() as (service, client):
        await client.post("/api/generate", model="tiny")
        [pid] = runners()
        process = psutil.Process(pid)
        [resident] = service.supervisor._residents.values()
        assert resident.process is not None
        key = resident.process._job["key"]
        assert len(key) >= 32
        assert key not in " ".join(process.cmdline())
        assert key not in " ".join(process.environ().values())
        [port] = [each.laddr.port for each in process.net_connections("tcp") if each.status == "LISTEN"]
        async with client.session.post(f"http://127.0.0.1:{port}/completion", data=b"{}") as response:
            assert response.status == 401


async def test_stopping_leaves_no_runner_behind(serve: Serve) -> None:
    async with serve() as (service, client):
        await client.post("/api/generate", model="tiny")
        await client.post("/api/generate", model="twin")
        assert len(runners()) == 2
        await service.stop()
        assert runners() == []


PARENT = """
import asyncio, sys
from pathlib import Path
from ollama_dist.backends.llamacpp.service import EngineService
from ollama_dist.backends.llamacpp.settings import LlamaCppSettings
from ollama_dist.wire.llamacpp.options import RunnerOptions

async def main():
    service = EngineService(LlamaCppSettings(Path(sys.argv[1]), Path(sys.argv[2]), warmup=False))
    await service.start()
    model = next(iter(service.folder.models.values()))
    async with service.supervisor.lease(model, RunnerOptions(256), None):
        [resident] = service.supervisor._residents.values()
        print(resident.process.pid, flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_node_killed_on_the_spot_leaves_no_runner_behind(
    serve: Serve, tiny_models: Path, tmp_path: Path
) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tiny_models), str(tmp_path), stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    line = b""
    while not line.strip().isdigit():  # it also logs
        line = await parent.stdout.readline()
        assert line, "the parent died before it had a runner"
    pid = int(line)
    assert psutil.pid_exists(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not _is_running(pid), what="the end of the runner")


def _is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_the_sentence_of_an_endless_model_comes_round(serve: Serve) -> None:
    async with serve() as (_, client):
        words = len(ENDLESS.split())
        options = {"num_predict": 2 * words}
        answer = await client.post("/api/generate", model="endless", prompt="hi", options=options)
        assert answer.text == f" {ENDLESS}" * 2
        assert answer.lines[-1]["done_reason"] == "length"
