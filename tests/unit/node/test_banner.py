from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.view import EngineKind, EngineState
from ollama_dist.node.banner import Banner, SeenCluster, banner_text
from ollama_dist.node.reports import Reach
from ollama_dist.node.setting_values import Address

FULL = Banner(
    version="0.1.0",
    name="desk",
    client=Address("127.0.0.1", 11434),
    is_second_choice=False,
    reach=Reach.MACHINE,
    engine=EngineKind.OLLAMA,
    engine_state=EngineState.READY,
    engine_version="0.33.0",
    engine_address="127.0.0.1:40111",
    models=("llama3:8b", "qwen3:4b"),
    cluster="9f2c41d0",
    peers=("laptop", "attic"),
)


def test_a_node_in_a_cluster_says_all_there_is_to_know() -> None:
    assert banner_text(FULL) == (
        "ollama-dist 0.1.0, node desk\n"
        "  clients  http://127.0.0.1:11434  (reachable by this machine only)\n"
        "  engine   Ollama 0.33.0 at 127.0.0.1:40111, 2 models (llama3:8b, qwen3:4b)\n"
        "  cluster  9f2c41d0: with laptop, attic\n"
        "  next     ollama run llama3:8b\n"
    )


def test_another_port_comes_with_the_line_a_client_needs() -> None:
    text = banner_text(replace(FULL, client=Address("127.0.0.1", 11435), is_second_choice=True))
    assert "port 11434 was taken; tell clients: export OLLAMA_HOST=127.0.0.1:11435\n" in text
    assert "next     OLLAMA_HOST=127.0.0.1:11435 ollama run llama3:8b\n" in text


def test_a_port_that_was_asked_for_is_not_excused() -> None:
    text = banner_text(replace(FULL, client=Address("127.0.0.1", 12000)))
    assert "\n           tell clients: export OLLAMA_HOST=127.0.0.1:12000\n" in text


def test_a_key_made_by_this_start_is_shown_as_clients_need_it() -> None:
    text = banner_text(replace(FULL, reach=Reach.KEYED, client_key="odc1-abc"))
    assert "reachable by the network, with a key" in text
    assert "\n  key      export OLLAMA_API_KEY=odc1-abc  (for clients elsewhere; shown once)\n" in text


def test_an_open_listener_is_shouted() -> None:
    assert "reachable by THE WHOLE NETWORK, WITHOUT A KEY" in banner_text(replace(FULL, reach=Reach.OPEN))


def test_without_an_engine_and_peers_the_next_step_is_to_get_one() -> None:
    bare = replace(FULL, engine=EngineKind.NONE, engine_state=EngineState.UNREACHABLE, models=(), peers=())
    text = banner_text(bare)
    assert "engine   none: models run on the other nodes\n" in text
    assert "cluster  9f2c41d0: alone so far\n" in text
    assert text.splitlines()[-1].startswith("  next     start Ollama (`ollama serve`)")


def test_an_ollama_that_does_not_answer_yet_is_waited_for() -> None:
    text = banner_text(replace(FULL, engine_state=EngineState.UNREACHABLE, engine_version="", models=()))
    assert "engine   Ollama at 127.0.0.1:40111 does not answer; it is used as soon as it does\n" in text
    starting = banner_text(replace(FULL, engine_state=EngineState.STARTING, engine_version="", models=()))
    assert "engine   Ollama at 127.0.0.1:40111 is starting\n" in starting


def test_an_ollama_without_models_is_told_to_pull_one() -> None:
    text = banner_text(replace(FULL, models=(), peers=()))
    assert "40111, no models\n" in text
    assert "next     ollama pull llama3.2\n" in text
    assert "next     ollama-dist models\n" in banner_text(replace(FULL, models=()))


def test_a_lonely_node_hears_how_to_add_another() -> None:
    assert "next     ollama run llama3:8b; add a machine: ollama-dist invite\n" in banner_text(
        replace(FULL, peers=())
    )


def test_a_cluster_nearby_is_seen_and_not_joined() -> None:
    seen = (SeenCluster("aa11", ("10.0.0.3:11436",)), SeenCluster("bb22", ()))
    text = banner_text(replace(FULL, peers=(), seen=seen))
    assert (
        "seen     cluster aa11 at 10.0.0.3:11436 and 1 more, not joined: run `ollama-dist invite` there"
        in text
    )


def test_pass_through_says_so_and_no_more() -> None:
    last = banner_text(replace(FULL, distributed=False)).splitlines()[-1]
    assert last.endswith("everything is passed to the local Ollama (OLLAMA_DISTRIBUTED=false)")


@given(
    engine=st.sampled_from(EngineKind),
    state=st.sampled_from(EngineState),
    models=st.integers(0, 40),
    peers=st.integers(0, 40),
    seen=st.integers(0, 5),
    port=st.integers(1, 65535),
    token=st.booleans(),
)
def test_it_never_takes_more_than_twelve_lines(
    engine: EngineKind, state: EngineState, models: int, peers: int, seen: int, port: int, token: bool
) -> None:
    text = banner_text(
        replace(
            FULL,
            client=Address("127.0.0.1", port),
            engine=engine,
            engine_state=state,
            models=tuple(f"model{number}" for number in range(models)),
            peers=tuple(f"node{number}" for number in range(peers)),
            seen=(SeenCluster("aa11", ("10.0.0.3:11436",)),) * seen,
            admin_token_file="/state/admin.token" if token else "",
        )
    )
    assert 3 <= text.count("\n") <= 12
    assert max(map(len, text.splitlines())) <= 160
    assert ("admin.token" in text) == token
