import json
from collections.abc import Sequence
from typing import Any

import pytest

from ollama_dist.api.making import HeldBack, Wish, places, read_wish
from ollama_dist.core.errors import BadRequest, ModelNotFound, NoCandidate, NodeNotFound
from ollama_dist.core.view import ClusterView, Engine, EngineKind, EngineState, MemberState
from tests.support.views import key, node, view

TINY, MINE = key("tiny"), key("mine")
WISH = Wish(TINY, MINE)
EMBEDDED = Engine(EngineKind.LLAMACPP, "1", EngineState.READY)


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/api/create", {"model": "Mine", "from": "tiny"}, WISH),
        ("/api/create", {"name": "mine", "model": "", "from": "tiny:latest"}, WISH),
        ("/api/create", {"model": "mine", "files": {"a": "b"}}, Wish(None, MINE, is_bound=True)),
        ("/api/create", {"model": "mine", "from": "tiny", "files": {}}, WISH),
        ("/api/create", {"model": "mine", "from": "tiny", "adapters": {"a": "b"}}, Wish(TINY, MINE, True)),
        ("/api/create", {"model": "mine", "from": "tiny", "draft_files": {"a": "b"}}, Wish(TINY, MINE, True)),
        ("/api/create", {"model": "mine", "from": "tiny", "remote_host": "x"}, Wish(TINY, MINE, True)),
        ("/api/create", {"from": "tiny"}, Wish(TINY)),
        ("/api/create", {"model": "a b", "from": 5}, Wish()),
        ("/api/push", {"model": "tiny", "insecure": True}, Wish(TINY)),
        ("/api/push", {"name": "tiny"}, Wish(TINY)),
        ("/api/push", {}, Wish()),
        ("/api/push", [], Wish()),
    ],
)
def test_what_a_body_asks_for(path: str, body: Any, expected: Wish) -> None:
    assert read_wish(path, json.dumps(body).encode()) == expected


def test_nonsense_asks_for_nothing() -> None:
    assert read_wish("/api/create", b"{") == Wish()


def found(picture: ClusterView, wish: Wish = WISH, pin: str | None = None) -> list[str]:
    return [each.name for each in places(picture, wish, pin)]


def test_this_node_comes_first_if_it_has_it() -> None:
    assert found(view(node(1, ["tiny"], in_flight=9), node(2, ["tiny"]))) == ["n1"]


def test_else_the_least_busy_of_those_that_have_it() -> None:
    assert found(view(node(1), node(2, ["tiny"], in_flight=2), node(3, ["tiny"], in_flight=1))) == [
        "n3",
        "n2",
    ]
    assert found(view(node(1), node(2, ["tiny"], draining=True), node(3, ["tiny"], in_flight=1))) == [
        "n3",
        "n2",
    ]


def test_what_nobody_has_or_what_was_given_here_is_for_this_node() -> None:
    assert found(view(node(1), node(2))) == ["n1"]
    assert found(view(node(1), node(2, ["tiny"])), Wish()) == ["n1"]
    assert found(view(node(1), node(2, ["tiny"])), Wish(TINY, MINE, is_bound=True)) == ["n1"]


def test_only_the_content_that_is_meant_counts() -> None:
    most = view(node(1), node(2, ["tiny"], digest="b"), node(3, ["tiny"]), node(4, ["tiny"], digest="b"))
    assert found(most) == ["n2", "n4"]


def test_an_engine_that_can_make_models_is_preferred() -> None:
    assert found(view(node(1, ["tiny"], engine=EMBEDDED), node(2, ["tiny"]))) == ["n2"]
    assert found(view(node(1, ["tiny"], engine=EMBEDDED), node(2))) == ["n1"]


def test_holders_that_are_gone_are_named() -> None:
    with pytest.raises(NoCandidate, match=r"n2 \(dead\)"):
        found(view(node(1), node(2, ["tiny"], state=MemberState.DEAD)))


def test_a_pin_is_kept_or_refused() -> None:
    picture = view(node(1, ["tiny"]), node(2, ["tiny"]), node(3), node(4, ["tiny"], reachable=False))
    assert found(picture, pin="n2") == ["n2"]
    assert found(picture, Wish(MINE), pin="n3") == ["n3"]  # nobody has it: the engine there has the words
    assert found(picture, Wish(TINY, MINE, is_bound=True), pin="n1") == ["n1"]
    for pin, wish, error in (
        ("n3", WISH, ModelNotFound),
        ("n4", WISH, NoCandidate),
        ("n9", WISH, NodeNotFound),
        ("n2", Wish(TINY, MINE, is_bound=True), BadRequest),
    ):
        with pytest.raises(error):
            found(picture, wish, pin)


class Pieces:
    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = [*pieces, b""]

    async def more(self) -> bytes:
        return self._pieces.pop(0)


@pytest.mark.parametrize(
    ("pieces", "waits_before"),
    [
        ([b'{"status":"a"}\n', b'{"status":"success"}\n'], 1),
        ([b'{"status":"a"}\n{"status":"success"}\n'], 0),
        ([b'{"status":"succ', b'ess"}\n'], 1),
        ([b'{"status":"', b"success", b'"}\n'], 2),
        ([bytes([byte]) for byte in b'{"status":"success"}'], 18),
        ([b'{"status":"a"}\n', b'{"error":"no success"}\n'], None),
        ([b'{"status":"a"}\n'], None),
    ],
)
async def test_success_is_told_when_it_was_heard_of(pieces: list[bytes], waits_before: int | None) -> None:
    waited: list[int] = []
    passed: list[bytes] = []

    async def heard() -> None:
        waited.append(len(passed))

    source = HeldBack(Pieces(pieces), heard)
    while piece := await source.more():
        passed.append(piece)
    assert passed == pieces
    assert waited == ([] if waits_before is None else [waits_before])
