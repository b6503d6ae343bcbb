from collections import Counter
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.errors import BadRequest, DistError, ModelNotFound, NoCandidate, NodeNotFound
from ollama_dist.core.modes import Mode
from ollama_dist.core.requests import InferenceRequest, Intent, RunnerOption
from ollama_dist.core.view import ClusterView, EngineState, LoadedModel, MemberState, NodeView
from ollama_dist.scheduling.breaker import Circuit
from ollama_dist.scheduling.decide import decide, unload_targets
from ollama_dist.scheduling.decision import Decision, Stage
from ollama_dist.scheduling.filters import Conditions
from ollama_dist.scheduling.ledger import Ledger
from ollama_dist.scheduling.rates import Rates
from tests.support.views import CPU, NO_ENGINE, key, node, node_id, request, view


def choose(
    cluster: ClusterView,
    asked: InferenceRequest | None = None,
    *,
    ledger: Ledger | None = None,
    seed: int = 1,
    **conditions: Any,
) -> Decision:
    return decide(
        asked or request(), cluster, Rates(), ledger or Ledger(), Conditions(**conditions), Random(seed)
    )


def winner(cluster: ClusterView, asked: InferenceRequest | None = None, **more: Any) -> str:
    return cluster.nodes[choose(cluster, asked, **more).winner].name


def filters(decision: Decision) -> dict[str, str]:
    return {f"n{int(each.node, 16)}": each.filter for each in decision.rejected}


def test_the_only_holder_gets_it() -> None:
    decision = choose(view(node(1), node(2), node(3, ["tiny"])))
    assert (decision.winner, decision.stage) == (node_id(3), Stage.SCORED)
    assert [each.node for each in decision.candidates] == [node_id(3)]


def test_this_nodes_own_load_counts_as_it_is_known_now() -> None:
    cluster = view(node(1, loaded=["tiny"]), node(2, loaded=["tiny"]))
    here = decide(request(), cluster, Rates(), Ledger(), Conditions(), Random(1), own_load=0)
    there = decide(request(), cluster, Rates(), Ledger(), Conditions(), Random(1), own_load=50)
    assert (here.winner, there.winner) == (node_id(1), node_id(2))
    assert there.expected is not None
    assert there.expected.reason.startswith("loaded, 0 ahead")


def test_what_follows_from_a_picture_is_worked_out_once_and_never_for_a_model_nobody_has() -> None:
    cluster = view(node(1), node(2, ["tiny"]))
    first, second = choose(cluster), choose(cluster)
    assert first == second
    assert len(cluster.worked_out) == 1
    for number in range(10):
        choose(cluster, replace(request(), model=key(f"invented-{number}")))
    assert len(cluster.worked_out) == 1
    assert winner(cluster.with_node(node(2))) == "n1"  # any engine: it has the words


def test_a_loaded_model_beats_a_cold_one_unless_its_queue_is_long() -> None:
    cold = node(1, ["tiny"])
    assert winner(view(cold, node(2, loaded=["tiny"], in_flight=1))) == "n2"
    assert winner(view(cold, node(2, loaded=["tiny"], in_flight=20))) == "n1"


def test_with_equal_queues_the_faster_node_is_taken() -> None:
    assert (
        winner(view(node(1), node(2, loaded=["tiny"], speed=20), node(3, loaded=["tiny"], speed=120))) == "n3"
    )


def test_a_gpu_is_guessed_to_be_faster_than_none() -> None:
    assert winner(view(node(1, loaded=["tiny"], resources=CPU), node(2, loaded=["tiny"]))) == "n2"


def test_this_node_takes_what_it_can_do_as_well_at_once() -> None:
    cluster = view(*(node(number, loaded=["tiny"]) for number in range(1, 9)))
    assert {winner(cluster, seed=seed) for seed in range(50)} == {"n1"}


def test_another_number_of_context_tokens_means_loading_again() -> None:
    def loaded_with(number: int, context: int) -> NodeView:
        holder = node(number, loaded=["tiny"])
        return replace(holder, loaded={key("tiny"): LoadedModel("tiny:latest", "a" * 64, context)})

    asked = request(runner_options=(RunnerOption("num_ctx", 8192),))
    cluster = view(node(1), loaded_with(2, 4096), loaded_with(3, 8192))
    assert winner(cluster, asked) == "n3"
    cold = {each.node: each.load_s for each in choose(cluster, asked).candidates}
    assert cold[node_id(2)] > 0 == cold[node_id(3)]


def test_a_model_loaded_under_another_name_is_loaded() -> None:
    holder = node(2, ["tiny", "alias"])
    holder = replace(holder, loaded={key("alias"): LoadedModel("alias:latest", "a" * 64)})
    assert choose(view(node(1), holder)).candidates[0].load_s == 0


def test_nodes_deciding_at_one_moment_on_equal_news_spread_out() -> None:
    holders = [node(number, loaded=["tiny"]) for number in range(1, 11)]
    entries = [node(number) for number in range(100, 120)]
    taken = Counter(
        winner(view(*holders, *entries, self_number=entry), seed=entry) for entry in range(100, 120)
    )
    assert len(taken) >= 7
    assert max(taken.values()) <= 6


def test_a_burst_spreads_before_any_gossip_arrives() -> None:
    cluster = view(node(1), *(node(number, loaded=["tiny"]) for number in (2, 3, 4)))
    ledger = Ledger()
    taken: Counter[str] = Counter()
    for seed in range(30):
        decision = choose(cluster, ledger=ledger, seed=seed)
        ledger.sent(cluster.nodes[decision.winner])
        taken[cluster.nodes[decision.winner].name] += 1
    assert min(taken[name] for name in ("n2", "n3", "n4")) >= 8


def test_a_third_candidate_does_not_change_the_order_of_two() -> None:
    two = [node(1, loaded=["tiny"], in_flight=3), node(2, ["tiny"])]
    order = [each.node for each in choose(view(*two)).candidates]
    with_third = choose(view(*two, node(3, loaded=["tiny"], in_flight=1))).candidates
    assert [each.node for each in with_third if each.node != node_id(3)] == order


def test_why_each_other_node_was_passed_over_is_said() -> None:
    decision = choose(
        view(
            node(1, loaded=["tiny"]),
            node(2, ["tiny"], state=MemberState.DEAD),
            node(3, ["tiny"], reachable=False),
            node(4, ["tiny"], engine=NO_ENGINE),
            node(5, ["tiny"], draining=True),
            node(6, ["tiny"]),
            node(7, ["tiny"]),
            node(8, ["tiny"], state=MemberState.SUSPECT),
            node(9, ["tiny"], digest="b"),
            node(10, ["tiny"], size=10**15),
            node(11),
        ),
        circuits={node_id(6): Circuit.OPEN},
        tried={node_id(7): "refused"},
    )
    assert filters(decision) == {
        "n2": "state",
        "n3": "reach",
        "n4": "engine",
        "n5": "drain",
        "n6": "breaker",
        "n7": "tried",
        "n8": "suspect",
        "n9": "conflict",
        "n10": "memory",
    }
    assert decision.winner == node_id(1)


def test_a_suspect_is_better_than_nobody() -> None:
    assert winner(view(node(1), node(2, ["tiny"], state=MemberState.SUSPECT))) == "n2"


def test_a_half_open_circuit_lets_a_request_try() -> None:
    assert winner(view(node(1), node(2, ["tiny"])), circuits={node_id(2): Circuit.HALF_OPEN}) == "n2"


@pytest.mark.parametrize("mode", [Mode.LOCAL, Mode.STANDALONE])
def test_without_peers_only_this_node_counts(mode: Mode) -> None:
    cluster = view(node(1, ["tiny"]), node(2, loaded=["tiny"]))
    assert winner(cluster, mode=mode) == "n1"
    with pytest.raises(NoCandidate, match=f"n2 is not asked: this node is in mode {mode}"):
        choose(view(node(1), node(2, loaded=["tiny"])), mode=mode)


def test_a_model_nobody_has_is_asked_of_this_nodes_engine_else_of_any() -> None:
    assert winner(view(node(1), node(2)), request("none")) == "n1"
    assert winner(view(node(1, engine=NO_ENGINE), node(2)), request("none")) == "n2"


def test_what_is_no_model_name_is_asked_of_an_engine() -> None:
    unnamed = replace(request(), model=None, model_text="a b")
    assert winner(view(node(1), node(2, ["tiny"])), unnamed) == "n1"


def test_a_model_whose_holders_are_gone_is_not_denied() -> None:
    gone = node(2, ["tiny"], state=MemberState.DEAD, reason="probe failed")
    with pytest.raises(NoCandidate, match="no node can serve 'tiny' now: n2 is dead: probe failed"):
        choose(view(node(1), gone))


def test_with_no_engine_at_all_that_is_said() -> None:
    with pytest.raises(NoCandidate, match="no engine answers: n1 its engine does not answer"):
        choose(view(node(1, engine=NO_ENGINE)))


def test_of_two_contents_the_own_one_is_meant_else_what_most_hold() -> None:
    own = node(1, ["tiny"], digest="b", in_flight=50)
    others = [node(number, loaded=["tiny"]) for number in (2, 3)]
    assert winner(view(own, *others)) == "n1"
    decision = choose(view(node(1), node(4, loaded=["tiny"], digest="b"), *others))
    assert filters(decision) == {"n4": "conflict"}


def test_a_pin_goes_there_and_nowhere_else() -> None:
    cluster = view(node(1, loaded=["tiny"]), node(2, ["tiny"]))
    decision = choose(cluster, request(pin="n2"))
    assert (decision.winner, decision.stage) == (node_id(2), Stage.PINNED)
    assert choose(cluster, request(pin=node_id(2))).winner == node_id(2)


@pytest.mark.parametrize(
    ("pin", "error", "words"),
    [
        ("n9", NodeNotFound, "no node is called 'n9'"),
        ("n2", ModelNotFound, "does not have 'tiny'"),
        ("n3", NoCandidate, "is dead"),
    ],
)
def test_a_pin_that_fits_nothing_says_why(pin: str, error: type[DistError], words: str) -> None:
    cluster = view(node(1, ["tiny"]), node(2), node(3, ["tiny"], state=MemberState.DEAD))
    with pytest.raises(error, match=words):
        choose(cluster, request(pin=pin))


def test_a_label_leaves_only_nodes_that_have_it() -> None:
    gpu = {"gpu": "yes"}
    cluster = view(node(1, loaded=["tiny"]), node(2, ["tiny"], labels=gpu), node(3, ["tiny"]))
    decision = choose(cluster, request(pin="label:gpu=yes"))
    assert (decision.winner, decision.stage) == (node_id(2), Stage.SCORED)
    assert filters(decision) == {"n1": "label", "n3": "label"}
    with pytest.raises(NoCandidate, match="n1 has no label room=office"):
        choose(cluster, request(pin="label:room=office"))
    nobody_has_it = choose(cluster, request("other", pin="label:gpu"))
    assert nobody_has_it.winner == node_id(2)
    with pytest.raises(BadRequest, match="X-Ollama-Node: after label:"):
        choose(cluster, request(pin="label:"))


def test_a_source_suffix_keeps_the_request_here() -> None:
    cluster = view(node(1, ["tiny"], in_flight=40), node(2, loaded=["tiny"]))
    assert winner(cluster, request(local_only=True)) == "n1"


def test_everybody_who_has_it_loaded_is_told_to_unload() -> None:
    gone = node(4, loaded=["tiny"], state=MemberState.DEAD)
    cluster = view(node(1, ["tiny"]), node(2, loaded=["tiny"]), node(3, loaded=["tiny"]), gone)
    assert unload_targets(key("tiny"), cluster, Conditions()) == [node_id(2), node_id(3)]


def test_an_embedding_costs_no_decoding() -> None:
    [candidate] = choose(view(node(1, loaded=["tiny"])), request(intent=Intent.EMBED)).candidates
    assert candidate.total_s == candidate.first_token_s


nodes = st.builds(
    node,
    st.integers(1, 6),
    st.sampled_from([(), ("tiny",), ("tiny", "other")]),
    st.sampled_from([(), ("tiny",)]),
    digest=st.sampled_from("ab"),
    in_flight=st.integers(0, 30),
    slots=st.integers(1, 4),
    speed=st.sampled_from([0.0, 3.0, 90.0]),
    state=st.sampled_from(MemberState),
    reachable=st.booleans(),
    draining=st.booleans(),
    engine=st.sampled_from([NO_ENGINE, node(1).engine]),
    age_s=st.sampled_from([0.1, 5.0]),
)


@given(
    st.lists(nodes, min_size=1, max_size=6, unique_by=lambda each: each.id),
    st.sets(st.integers(1, 6)),
    st.sampled_from([None, "n1", "n2"]),
    st.integers(),
)
def test_any_cluster_gives_a_sound_choice_or_a_clear_refusal(
    found: list[NodeView], tried: set[int], pin: str | None, seed: int
) -> None:
    cluster = view(*found)
    try:
        decision = choose(
            cluster, request(pin=pin), seed=seed, tried={node_id(each): "failed" for each in tried}
        )
    except DistError:
        return
    chosen = cluster.nodes[decision.winner]
    assert chosen.state in (MemberState.ALIVE, MemberState.SUSPECT)
    assert chosen.reachable
    assert chosen.engine.state is not EngineState.UNREACHABLE
    assert int(chosen.id, 16) not in tried
    holders = cluster.holders.get(key("tiny"), ())
    if pin is None and holders:
        assert decision.winner in [each.node for each in decision.candidates]
        looked_at = {each.node for each in decision.candidates} | {each.node for each in decision.rejected}
        assert looked_at == set(holders)
