from dataclasses import replace

import pytest

from ollama_dist.backends.local import Snapshot
from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import Engine, EngineKind, EngineState, InstalledModel, MemberState
from ollama_dist.node.problems import Moving, Seeds, find_problems
from tests.support.views import node, view

FINE = Snapshot(Engine(EngineKind.OLLAMA, "0.33.0-rc2", EngineState.READY))


def codes(*nodes: object, engine: Snapshot = FINE) -> list[str]:
    return [problem.code for problem in find_problems(view(*(nodes or (node(1),))), engine)]  # type: ignore[arg-type]


def test_where_all_is_well_nothing_is_said() -> None:
    assert codes(node(1, ["tiny"]), node(2, ["tiny"])) == []


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("0.17.0", ["ollama_unsafe"]),
        ("0.5.13", ["ollama_unsafe"]),
        ("0.17.1", []),
        ("0.33.0-rc2", []),
        ("0.0.0", []),
        ("", []),
    ],
)
def test_an_ollama_that_tells_its_memory_is_named(version: str, expected: list[str]) -> None:
    assert codes(engine=replace(FINE, engine=replace(FINE.engine, version=version))) == expected


def test_an_engine_that_does_not_answer_is_an_error_and_comes_first() -> None:
    gone = Snapshot(Engine(EngineKind.OLLAMA, "0.33.0", EngineState.UNREACHABLE), "refused")
    found = find_problems(view(node(1), node(2, state=MemberState.DEAD, reason="probe failed")), gone)
    assert [(problem.severity, problem.code) for problem in found] == [
        ("error", "engine_unreachable"),
        ("warning", "member_dead"),
    ]
    assert "refused" in found[0].message
    assert all(problem.fix for problem in found)


def test_members_that_are_doubtful_gone_or_half_deaf_are_named() -> None:
    suspect = node(2, state=MemberState.SUSPECT)
    deaf = node(3, reachable=False)
    left = node(4, state=MemberState.LEFT)
    assert codes(node(1), suspect, deaf, left) == ["member_suspect", "member_one_way"]


def test_one_name_for_two_contents_is_named_once() -> None:
    assert codes(node(1, ["tiny"]), node(2, ["tiny"], digest="b"), node(3, ["tiny"])) == ["model_conflict"]


def test_a_machine_without_an_engine_is_told_what_to_do() -> None:
    assert codes(engine=Snapshot(error="none found")) == ["engine_none"]
    assert codes(engine=Snapshot(error="told to have none", is_meant=True)) == []


def test_a_seed_of_another_cluster_is_an_error_with_the_way_in() -> None:
    seeds = Seeds(strangers={"10.0.0.5:11436": "it does not take this node for a member"})
    found = find_problems(view(node(1), node(2)), FINE, seeds)
    assert [(problem.severity, problem.code) for problem in found] == [("error", "seed_refused")]
    assert "10.0.0.5:11436" in found[0].message
    assert "ollama-dist join CODE" in found[0].fix


def test_a_seed_where_nobody_is_matters_to_a_node_that_is_alone() -> None:
    seeds = Seeds(silent={"10.0.0.5:11436": "nobody listens at 10.0.0.5:11436"})
    alone = find_problems(view(node(1)), FINE, seeds)
    assert [problem.code for problem in alone] == ["seed_silent"]
    assert find_problems(view(node(1), node(2)), FINE, seeds) == []


def test_who_has_an_older_key_is_told_once_how_to_come_back() -> None:
    rotated = {"10.0.0.1:1": "the cluster's key was rotated", "10.0.0.2:1": "the cluster's key was rotated"}
    (found,) = find_problems(view(node(1)), FINE, Seeds(rotated=rotated))
    assert (found.severity, found.code) == ("error", "seed_refused")
    assert found.message == "10.0.0.1:1 refuses this node: the cluster's key was rotated"
    assert "ollama-dist join CODE" in found.fix


def test_who_was_revoked_is_told_and_for_the_others_it_is_no_problem() -> None:
    (found,) = find_problems(view(node(1)), FINE, revoked_by="desk")
    assert (found.severity, found.code) == ("error", "revoked")
    assert "revoked by desk" in found.message
    assert codes(node(1), node(2, state=MemberState.DEAD, reason="revoked by desk")) == []


def test_a_model_whose_files_rotted_is_an_error_with_a_way_out() -> None:
    (found,) = find_problems(view(node(1)), FINE, corrupt=["tiny:latest"])
    assert (found.severity, found.code) == ("error", "model_corrupt")
    assert "tiny:latest" in found.message
    assert "pull it again" in found.fix


def test_what_keeps_models_from_moving_is_named_with_a_way_out() -> None:
    moving = Moving(unreadable="/srv/models cannot be read: Permission denied", closed="port 80 is taken")
    tiny = InstalledModel("tiny:latest", "0" * 64, 1)
    engine = replace(FINE, models={ModelKey("tiny"): tiny})
    found = find_problems(view(node(1)), engine, moving=moving)
    assert [each.code for each in found] == ["registry_closed", "store_unreadable"]
    assert "Permission denied" in found[1].message
    assert "only the digest" not in found[1].message
    assert "--registry-listen" in found[0].fix
    unread = find_problems(view(node(1, ["tiny"])), engine, moving=moving)
    assert "of tiny:latest only the digest is known" in unread[1].message
    assert codes(engine=engine) == codes(engine=FINE) == []
