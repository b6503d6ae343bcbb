import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.errors import Busy
from ollama_dist.core.names import ModelKey
from ollama_dist.core.requests import Place, Priority
from ollama_dist.scheduling.queue import NodeQueue, Ticket

A, B = ModelKey("a"), ModelKey("b")
NORMAL, BATCH, INTERACTIVE = Priority.NORMAL, Priority.BATCH, Priority.INTERACTIVE


def fill(queue: NodeQueue, *priorities: Priority, service_s: float = 4.0) -> list[Ticket]:
    return [
        queue.enter(A, priority, service_s, now=float(second)) for second, priority in enumerate(priorities)
    ]


def order(queue: NodeQueue, running: Ticket) -> list[Ticket]:
    """In which order all that wait get their slot, one after the other."""
    served = []
    while admitted := queue.leave(running):
        [running] = admitted
        served.append(running)
    return served


def test_as_many_run_as_there_are_slots_and_the_rest_waits_in_order_of_arrival() -> None:
    queue = NodeQueue(slots=2, max_waiting=8)
    first, second, third, fourth = fill(queue, *[NORMAL] * 4)
    assert [queue.place(each).position for each in (first, second, third, fourth)] == [0, 0, 1, 2]
    assert (queue.in_flight, queue.waiting) == (4, 2)
    assert queue.leave(second) == [third]
    assert queue.place(fourth).position == 1


def test_each_model_has_its_own_slots_and_its_own_bound() -> None:
    queue = NodeQueue(slots=1, max_waiting=1)
    fill(queue, NORMAL, NORMAL)
    with pytest.raises(Busy, match=r"server busy, please try again\.  maximum pending requests exceeded"):
        queue.enter(A, NORMAL, 1.0, now=2.0)
    assert queue.place(queue.enter(B, NORMAL, 1.0, now=2.0)).position == 0


def test_what_is_urgent_goes_before_what_is_not() -> None:
    queue = NodeQueue(slots=1, max_waiting=8)
    running, batch, normal, interactive = fill(queue, NORMAL, BATCH, NORMAL, INTERACTIVE)
    assert order(queue, running) == [interactive, normal, batch]


def test_a_short_answer_goes_before_a_long_one() -> None:
    queue = NodeQueue(slots=1, max_waiting=8)
    [running] = fill(queue, NORMAL)
    long, short = queue.enter(A, NORMAL, 15.0, now=1.0), queue.enter(A, NORMAL, 1.0, now=2.0)
    assert order(queue, running) == [short, long]


@given(st.floats(0, 1e6), st.floats(0, 1e5), st.floats(0, 1e5))
def test_nobody_starves(began: float, its_service: float, other_service: float) -> None:
    """Whatever has waited for 64 seconds goes before the most urgent that has just come."""
    queue = NodeQueue(slots=1, max_waiting=8)
    running = queue.enter(A, NORMAL, 1.0, now=began)
    old = queue.enter(A, BATCH, its_service, now=began)
    queue.enter(A, INTERACTIVE, other_service, now=began + 64.1)
    assert queue.leave(running) == [old]


def test_the_expected_wait_is_what_those_ahead_will_take() -> None:
    queue = NodeQueue(slots=2, max_waiting=8)
    *_, last = fill(queue, *[NORMAL] * 4, service_s=4.0)
    # two in their slots, half way on average; one whole answer ahead; two slots
    assert queue.place(last) == Place(position=2, expected_s=(2.0 + 2.0 + 4.0) / 2)


def test_one_that_gives_up_waiting_moves_the_others_forward() -> None:
    queue = NodeQueue(slots=1, max_waiting=8)
    _, impatient, patient = fill(queue, *[NORMAL] * 3)
    assert queue.leave(impatient) == []
    assert queue.place(patient).position == 1


def test_more_slots_let_more_in_and_fewer_throw_nobody_out() -> None:
    queue = NodeQueue(slots=1, max_waiting=8)
    first, second, third, fourth = fill(queue, *[NORMAL] * 4)
    assert queue.set_slots(3) == [second, third]
    assert queue.set_slots(1) == []
    assert queue.leave(first) == []
    assert queue.leave(second) == []
    assert queue.leave(third) == [fourth]


@given(
    st.lists(st.tuples(st.sampled_from([A, B]), st.sampled_from(list(Priority)), st.booleans()), max_size=40)
)
def test_no_slot_stays_empty_while_somebody_waits(events: list[tuple[ModelKey, Priority, bool]]) -> None:
    queue, inside = NodeQueue(slots=2, max_waiting=5), list[Ticket]()
    for number, (model, priority, leaves) in enumerate(events):
        if leaves and inside:
            queue.leave(inside.pop(0))
        else:
            try:
                inside.append(queue.enter(model, priority, 1.0, now=float(number)))
            except Busy:
                assert sum(each.model == model for each in inside) == 2 + 5
        for each in (A, B):
            positions = sorted(queue.place(ticket).position for ticket in inside if ticket.model == each)
            assert positions == [0, 0, *range(1, 100)][: len(positions)]
        assert queue.in_flight == len(inside)
