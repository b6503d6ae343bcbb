import orjson

from ollama_dist.core.ids import RequestId
from ollama_dist.core.outcomes import Attempt, Outcome, Result
from ollama_dist.scheduling.decision import (
    Candidate,
    Decision,
    DecisionLog,
    Record,
    Rejection,
    Stage,
)
from tests.support.views import node_id

AT = 1795168800.0

DECISION = Decision(
    node_id(1),
    Stage.SCORED,
    "loaded, 2 ahead, 71 tok/s",
    (Candidate(node_id(1), 0.4123, 0.18, 0.0, 0.24, 3.9, "loaded, 2 ahead, 71 tok/s"),),
    (Rejection(node_id(2), "memory", "needs 5.1 GB, has 2.0 GB in all"),),
)


def record(number: int = 1) -> Record:
    names = {node_id(1): "desk", node_id(2): "laptop"}
    return Record(RequestId(f"{number:024x}"), AT, "llama3:8b", "/api/chat", DECISION, names)


def test_a_record_reads_as_promised() -> None:
    log = DecisionLog()
    log.add(ended := record())
    attempts = (Attempt(node_id(1), Result.OK),)
    ended.outcome = Outcome(
        ended.request_id, ended.route, ended.model, "desk", 200, Result.OK, attempts, 0.251, 3.712, 264
    )
    found = log.get(f"{1:024x}")
    assert found is not None
    assert orjson.loads(orjson.dumps(found.render())) == {
        "request_id": f"{1:024x}",
        "at": "2026-11-20T10:00:00.000Z",
        "model": "llama3:8b",
        "route": "/api/chat",
        "stage": "scored",
        "winner": "desk",
        "reason": "loaded, 2 ahead, 71 tok/s",
        "candidates": [
            {
                "node": "desk",
                "score": 0.412,
                "wait_ms": 180,
                "load_ms": 0,
                "first_token_ms": 240,
                "total_ms": 3900,
            }
        ],
        "rejected": [{"node": "laptop", "filter": "memory", "reason": "needs 5.1 GB, has 2.0 GB in all"}],
        "attempts": [{"node": "desk", "result": "ok", "detail": ""}],
        "outcome": {"status": 200, "result": "ok", "first_token_ms": 251, "total_ms": 3712, "tokens": 264},
    }


def test_a_request_still_under_way_has_no_outcome() -> None:
    rendered = record().render()
    assert rendered["outcome"] is None
    assert rendered["attempts"] == []


def test_the_oldest_record_makes_room() -> None:
    log = DecisionLog(kept=3)
    for number in range(5):
        log.add(record(number))
    assert [int(each.request_id, 16) for each in log.newest()] == [4, 3, 2]
    assert log.get(f"{0:024x}") is None
