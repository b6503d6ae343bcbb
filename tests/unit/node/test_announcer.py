from ollama_dist.core.names import ModelKey
from ollama_dist.core.view import InstalledModel, Load
from ollama_dist.node.announce import Cold, Hot, decode_cold, decode_hot
from ollama_dist.node.announcer import ENTRIES_LIMIT, Announcer


class Told:
    """What was published, and how often."""

    def __init__(self) -> None:
        self.loads: list[bytes] = []
        self.state: dict[str, bytes] = {}
        self.writes = 0
        self.announcer = Announcer(self.loads.append, self._set)

    def _set(self, key: str, value: bytes | None) -> None:
        self.writes += 1
        if value is None:
            del self.state[key]
        else:
            self.state[key] = value


def models(*names: str) -> dict[ModelKey, InstalledModel]:
    rows = {name: {"name": f"{name}:latest", "digest": "a" * 64, "size": 1} for name in names}
    return {
        ModelKey(f"registry.ollama.ai/library/{name}:latest"): InstalledModel(row["name"], "a" * 64, 1, row)  # type: ignore[arg-type]
        for name, row in rows.items()
    }


def test_a_load_is_told_only_when_it_changed() -> None:
    told = Told()
    for in_flight in (1, 1, 2, 2, 1):
        told.announcer.announce_load(Hot(Load(in_flight=in_flight)))
    assert len(told.loads) == 3


def test_only_what_changed_is_written_and_what_is_gone_is_withdrawn() -> None:
    told = Told()
    told.announcer.announce_state(Cold(name="desk", models=models("a", "b")))
    assert told.writes == 3
    told.announcer.announce_state(Cold(name="desk", models=models("b", "c")))
    assert told.writes == 5
    assert {model.name for model in decode_cold(told.state).models.values()} == {"b:latest", "c:latest"}
    told.announcer.announce_state(Cold(name="desk", models=models("b", "c")))
    assert told.writes == 5


def test_what_does_not_fit_is_left_out_and_counted_but_never_the_node_itself() -> None:
    told = Told()
    told.announcer.announce_state(Cold(name="desk", models=models(*(f"m{n}" for n in range(2000)))))
    assert decode_cold(told.state).name == "desk"
    assert len(told.state) <= ENTRIES_LIMIT
    assert told.announcer.left_out == 2001 - len(told.state)
    assert sum(len(key) + len(value) for key, value in told.state.items()) <= 64 * 1024


def test_what_is_free_is_told_when_it_changed_by_much_or_something_else_did() -> None:
    told = Told()
    gib = 2**30
    for load, memory, disk in (
        (Load(), 32 * gib, 160 * gib),
        (Load(), 31 * gib, 155 * gib),
        (Load(in_flight=1), 31 * gib, 155 * gib),
        (Load(in_flight=1), 30 * gib, 155 * gib),
        (Load(in_flight=1), 29 * gib, 155 * gib),
        (Load(in_flight=1), 29 * gib, 100 * gib),
        (Load(in_flight=1), 29 * gib, None),
    ):
        told.announcer.announce_load(Hot(load, memory_free_bytes=memory, disk_free_bytes=disk))
    heard = [hot for data in told.loads if (hot := decode_hot(data)) is not None]
    assert [hot.memory_free_bytes // gib for hot in heard] == [32, 31, 29, 29, 29]
    assert [hot.disk_free_bytes for hot in heard] == [160 * gib, 155 * gib, 155 * gib, 100 * gib, None]
