import json

import pytest

from ollama_dist.api.changes import Change, Told, read_change, verdict
from ollama_dist.core.names import model_key
from tests.support.views import node, view

TINY, MINE = model_key("tiny"), model_key("mine")


def told(name: str, status: int, error: str = "") -> Told:
    return Told(name, status, json.dumps({"error": error}).encode() if error else b"")


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/api/copy", b'{"source": "tiny", "destination": "Mine"}', Change(TINY, MINE)),  # type: ignore[arg-type]
        ("/api/copy", b'{"source": "tiny"}', None),
        ("/api/copy", b'{"destination": "mine"}', None),
        ("/api/delete", b'{"model": "tiny"}', Change(TINY)),  # type: ignore[arg-type]
        ("/api/delete", b'{"name": "tiny:latest"}', Change(TINY)),  # type: ignore[arg-type]
        ("/api/delete", b'{"model": "", "name": "tiny"}', Change(TINY)),  # type: ignore[arg-type]
        ("/api/delete", b'{"model": 3}', None),
        ("/api/delete", b"{}", None),
        ("/api/delete", b"nonsense", None),
    ],
)
def test_what_a_body_asks_for(path: str, body: bytes, expected: Change | None) -> None:
    assert read_change(path, body) == expected


def test_all_done_is_an_empty_200() -> None:
    assert verdict([told("desk", 200), told("laptop", 200)], is_deletion=True) == (200, b"", None)


def test_one_that_was_faster_to_delete_is_no_failure() -> None:
    answers = [told("desk", 200), told("laptop", 404, "model 'tiny' not found")]
    assert verdict(answers, is_deletion=True)[0] == 200
    assert verdict(answers, is_deletion=False)[0] == 502


def test_none_done_is_told_in_the_first_engines_words() -> None:
    status, body, _ = verdict([told("desk", 500, "no room"), told("laptop", 404, "?")], is_deletion=False)
    assert (status, json.loads(body)) == (500, {"error": "no room"})


def test_some_done_says_what_was_done_where() -> None:
    answers = [
        told("desk", 200),
        told("attic", 502, "attic could not be told: refused"),
        Told("den", 500, b"oops"),
    ]
    status, body, _ = verdict(answers, is_deletion=True)
    assert status == 502
    assert json.loads(body)["error"] == (
        "done on desk, but not everywhere: attic: could not be told: refused; den: oops"
    )


def test_a_change_is_visible_when_every_node_that_was_told_shows_it() -> None:
    before, copied = (
        view(node(1, ["tiny"]), node(2, ["tiny"])),
        view(node(1, ["tiny", "mine"]), node(2, ["tiny"])),
    )
    nodes = list(before.nodes.values())
    assert TINY is not None
    assert not Change(TINY, MINE).is_visible(before, nodes)
    assert not Change(TINY, MINE).is_visible(copied, nodes)
    assert Change(TINY, MINE).is_visible(copied, nodes[:1])
    assert not Change(TINY).is_visible(copied, nodes)
    assert Change(TINY).is_visible(view(node(1), node(2)), nodes)
    assert Change(TINY).is_visible(view(node(1)), nodes)
