from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.errors import BadRequest
from ollama_dist.core.names import parse_model_name
from ollama_dist.replication.moves.operations import (
    Action,
    Kind,
    Operation,
    OperationId,
    State,
    Step,
    awaited,
    merged,
    read_operation,
    startable,
    tidied,
    to_document,
)
from tests.support.views import node_id

OWNER, TARGET, SOURCE = node_id(1), node_id(2), node_id(3)
TINY = parse_model_name("tiny")
COPY = Step(Action.COPY, TINY, "asked for", SOURCE, TARGET, "a" * 64, 1000)
DELETE = Step(Action.DELETE, TINY, "moved", SOURCE, TARGET, "a" * 64, after=(0,))
MOVE = Operation(
    OperationId(f"{OWNER}-0123456789ab"), Kind.MIGRATE, OWNER, 1.5, "admin", {"model": "tiny"}, (COPY, DELETE)
)


def at(*states: State, **more: object) -> Operation:
    steps = [replace(step, state=state) for step, state in zip(MOVE.steps, states, strict=True)]
    return replace(MOVE.with_steps(steps), **more)  # type: ignore[arg-type]


PLANNED, RUNNING, DONE, FAILED, CANCELLED = (
    State.PLANNED,
    State.RUNNING,
    State.SUCCEEDED,
    State.FAILED,
    State.CANCELLED,
)


def test_a_step_begins_at_its_doer_once_those_before_it_are_done() -> None:
    assert list(startable(MOVE, TARGET)) == [0]
    assert list(startable(MOVE, SOURCE)) == []
    assert list(startable(at(DONE, PLANNED), SOURCE)) == [1]
    assert list(startable(at(DONE, PLANNED, is_cancelled=True), SOURCE)) == []
    assert list(startable(MOVE, OWNER)) == []


def test_each_asks_only_those_it_needs() -> None:
    assert awaited(MOVE, OWNER) == {TARGET, SOURCE}
    assert awaited(MOVE, SOURCE) == {TARGET, OWNER}
    assert awaited(MOVE, TARGET) == {OWNER}
    assert awaited(at(DONE, RUNNING), OWNER) == {SOURCE}
    assert awaited(at(DONE, DONE), TARGET) == set()


@pytest.mark.parametrize(
    ("operation", "state"),
    [
        (MOVE, RUNNING),
        (at(DONE, DONE), DONE),
        (at(FAILED, CANCELLED), FAILED),
        (at(CANCELLED, CANCELLED, is_cancelled=True), CANCELLED),
        (at(DONE, DONE, is_cancelled=True), DONE),
        (at(DONE, DONE, is_open=True), RUNNING),
        (replace(MOVE, steps=()), DONE),
        (replace(MOVE, kind=Kind.DRAIN, steps=(), is_cancelled=True), CANCELLED),
    ],
)
def test_its_state_follows_from_its_steps(operation: Operation, state: State) -> None:
    assert operation.state is state


def test_what_cannot_begin_any_more_is_ended_by_its_doer_alone() -> None:
    failed = at(FAILED, PLANNED)
    assert tidied(failed, TARGET) is failed
    assert tidied(failed, SOURCE).steps[1].state is CANCELLED
    assert "did not succeed" in tidied(failed, SOURCE).steps[1].error
    given_up = at(DONE, PLANNED, finished_at=9.0)
    assert tidied(given_up, SOURCE).steps[1].state is CANCELLED
    assert tidied(given_up, OWNER) is given_up


def test_the_doer_is_believed_and_nobody_about_oneself() -> None:
    heard = at(RUNNING, RUNNING)
    assert merged(MOVE, heard, TARGET, OWNER).steps[0].state is RUNNING
    assert merged(MOVE, heard, TARGET, OWNER).steps[1].state is PLANNED
    assert merged(MOVE, heard, OWNER, TARGET).steps[0].state is PLANNED
    assert merged(MOVE, heard, OWNER, TARGET).steps[1].state is RUNNING
    assert merged(MOVE, replace(heard, is_cancelled=True), TARGET, OWNER).is_cancelled is False
    assert merged(MOVE, replace(heard, is_cancelled=True), OWNER, TARGET).is_cancelled is True


def test_an_end_stays_an_end_unless_the_owner_has_it_done_anew() -> None:
    ended, late = at(DONE, PLANNED), at(RUNNING, PLANNED)
    assert merged(ended, late, TARGET, OWNER).steps[0].state is DONE
    anew = late.with_step(0, replace(late.steps[0], attempt=1, target=OWNER))
    assert merged(ended, anew, OWNER, TARGET).steps[0] == anew.steps[0]
    assert merged(anew, ended, TARGET, OWNER).steps[0] == anew.steps[0]


def test_only_the_owner_adds_steps() -> None:
    longer = MOVE.with_steps([*MOVE.steps, COPY])
    assert len(merged(MOVE, longer, TARGET, SOURCE).steps) == 2
    assert len(merged(MOVE, longer, OWNER, SOURCE).steps) == 3
    assert len(merged(longer, MOVE, OWNER, SOURCE).steps) == 3


steps = st.builds(
    Step,
    action=st.sampled_from(Action),
    model=st.just(TINY),
    reason=st.text(max_size=20),
    source=st.sampled_from([None, SOURCE, TARGET]),
    target=st.sampled_from([None, OWNER, TARGET]),
    content=st.sampled_from(["", "b" * 64]),
    bytes_total=st.integers(0, 10**12),
    after=st.sampled_from([(), (0,)]),
    attempt=st.integers(0, 5),
    state=st.sampled_from(State),
    note=st.text(max_size=20),
    error=st.text(max_size=20),
)


@given(st.lists(steps, min_size=1, max_size=5), st.booleans(), st.booleans())
def test_what_is_written_is_read_again(found: list[Step], is_open: bool, is_cancelled: bool) -> None:
    operation = replace(MOVE, steps=tuple(found), is_open=is_open, is_cancelled=is_cancelled)
    assert read_operation(to_document(operation)) == operation


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


@given(st.sampled_from(sorted(to_document(MOVE))), json_like)
def test_what_makes_no_sense_is_refused_and_nothing_else_happens(name: str, value: object) -> None:
    document = {**to_document(MOVE), name: value}
    try:
        read_operation(document)
    except BadRequest as error:
        assert "operation" in str(error)  # noqa: PT017 - both ends are right
    else:
        assert name in (
            "created_at",
            "requested_by",
            "wish",
            "open",
            "cancelled",
            "finished_at",
            "steps",
            "owner",
        )


def test_a_step_after_one_that_is_not_there_is_refused() -> None:
    document = to_document(MOVE)
    document["steps"][1]["after"] = [7]
    with pytest.raises(BadRequest):
        read_operation(document)
