from pathlib import Path

from ollama_dist.backends.llamacpp.residency import Impossible, Occupant, next_to_go

GB = 10**9


def occupant(name: str, keep_alive_s: float = 300.0, in_use: int = 0, size: int = GB) -> Occupant:
    return Occupant(Path(name), keep_alive_s, in_use, size)


def test_nobody_has_to_go_while_there_is_room() -> None:
    assert next_to_go([occupant("a")], needed=GB, budget=4 * GB, max_loaded=2) is None


def test_the_shortest_keep_alive_goes_when_all_places_are_taken() -> None:
    loaded = [occupant("a", 300), occupant("b", 60), occupant("c", float("inf"))]
    assert next_to_go(loaded, needed=1, budget=100 * GB, max_loaded=3) == loaded[1]


def test_an_idle_one_goes_before_a_busy_one_with_a_shorter_keep_alive() -> None:
    loaded = [occupant("busy", 1, in_use=1), occupant("idle", 900)]
    assert next_to_go(loaded, needed=1, budget=100 * GB, max_loaded=2) == loaded[1]


def test_the_name_settles_a_tie() -> None:
    loaded = [occupant("b"), occupant("a")]
    assert next_to_go(loaded, needed=1, budget=100 * GB, max_loaded=2) == loaded[1]


def test_somebody_goes_when_the_memory_does_not_suffice_though_there_are_places() -> None:
    loaded = [occupant("a", size=3 * GB)]
    assert next_to_go(loaded, needed=2 * GB, budget=4 * GB, max_loaded=3) == loaded[0]


def test_a_model_larger_than_the_whole_budget_makes_nobody_go() -> None:
    assert next_to_go([occupant("a")], needed=5 * GB, budget=4 * GB, max_loaded=3) == Impossible(
        5 * GB, 4 * GB
    )
