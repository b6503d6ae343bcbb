"""A code that does not do says why, in a sentence and in a word for programs."""

import json
import time
from dataclasses import replace

import pytest

from ollama_dist.gossip.invite_code import InviteCode
from tests.support.real_nodes import RealNode, RealNodes
from tests.support.wait import until


async def _invited(node: RealNode, **body: float) -> str:
    token = {"Authorization": f"Bearer {node.admin_token}"}
    status, _, answer = await node.post("/api/distributed/invite", body, **token)
    assert status == 200, answer
    return str(json.loads(answer)["code"])


async def _refusal(node: RealNode, code: str) -> tuple[int, str, str]:
    """Status, word and sentence of the node's answer."""
    token = {"Authorization": f"Bearer {node.admin_token}"}
    status, _, answer = await node.post("/api/distributed/join", {"code": code}, **token)
    said = json.loads(answer)
    return status, said.get("code", ""), said.get("error", "")


@pytest.fixture
async def desk(nodes: RealNodes) -> RealNode:
    return await nodes.add("desk", [], key="")


@pytest.fixture
async def laptop(nodes: RealNodes) -> RealNode:
    return await nodes.add("laptop", [], key="")


async def test_a_used_code(nodes: RealNodes, desk: RealNode, laptop: RealNode) -> None:
    code = await _invited(desk)
    assert (await laptop.cli("join", code))[0] == 0
    office = await nodes.add("office", [], key="")
    sentence = "the invitation was used already; each lets one machine in"
    assert await _refusal(office, code) == (409, "invite_used", sentence)
    ended, printed = await office.cli("join", code)
    assert ended != 0
    assert sentence in printed


@pytest.mark.parametrize("door_is_open", [True, False])
async def test_an_expired_code(desk: RealNode, laptop: RealNode, door_is_open: bool) -> None:
    code = await _invited(desk, lifetime_s=0.5)
    if door_is_open:
        await _invited(desk)
    began = time.monotonic()
    await until(lambda: time.monotonic() - began > 1.0, what="the code's being over")
    sentence = "the invitation has expired; make another with `ollama-dist invite`"
    assert await _refusal(laptop, code) == (410, "invite_expired", sentence)


async def test_a_foreign_code(nodes: RealNodes, desk: RealNode, laptop: RealNode) -> None:
    stranger = await nodes.add("stranger", [], key="")
    there = InviteCode.parse(await _invited(stranger)).port
    code = replace(InviteCode.parse(await _invited(desk)), port=there).text
    status, word, sentence = await _refusal(laptop, code)
    assert (status, word) == (409, "invite_foreign")
    assert sentence == "the node at 127.0.0.1 is of another cluster than the invitation"


async def test_a_mistyped_code(desk: RealNode, laptop: RealNode) -> None:
    code = await _invited(desk)
    typed = code[:20] + ("a" if code[20] != "a" else "b") + code[21:]
    for wrong in (typed, code[:-1]):
        status, word, sentence = await _refusal(laptop, wrong)
        assert (status, word) == (400, "invite_mistyped")
        assert sentence == "the invitation is mistyped or cut short; copy all of it"
    assert (await _refusal(laptop, "hello"))[1] == "invite_mistyped"
    assert (await laptop.cli("join", code))[0] == 0  # and the wrong tries have not used it up
