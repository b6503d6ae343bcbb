from ollama_dist.backends.http1 import Head
from ollama_dist.core.outcomes import NO_USAGE, Attempt, Result, Usage
from ollama_dist.node.answers import Answer
from ollama_dist.node.load import EngineLoad
from ollama_dist.node.loads import Loads
from ollama_dist.node.notes import Notes
from ollama_dist.node.served import Served
from ollama_dist.scheduling.rates import NOTABLE_LOAD_S
from tests.support.views import SIZE, node, node_id, request

HERE, ASKED = node(1, ["tiny"]), request("tiny")


def notes() -> Notes:
    load = EngineLoad(1, 8, lambda: None, clock=lambda: 0.0)
    return Notes(load, Loads(lambda: HERE, lambda: None), lambda: 2.0, lambda *_: None)


def answered(usage: Usage = NO_USAGE, *tried: Attempt) -> Served:
    served = Served(ASKED, (), b"", None, None, 1.0, lambda *_: None)
    served.node, served.attempts = HERE, [*tried]
    served.answer = Answer(Head(200, ()), b"{}", usage=usage)
    return served


def test_an_answer_of_the_first_choice_that_breaks_off_is_no_fallback() -> None:
    taken, served = notes(), answered()
    assert served.answer is not None
    served.answer.result = Result.CUT
    taken.ended(served, None)
    assert (taken.stats.failed, taken.stats.fallbacks, taken.stats.retries) == (1, 0, 0)


def test_an_answer_of_the_second_choice_is_one() -> None:
    taken = notes()
    taken.ended(answered(NO_USAGE, Attempt(node_id(2), Result.REFUSED)), None)
    assert (taken.stats.served, taken.stats.fallbacks, taken.stats.retries) == (1, 1, 1)


def test_a_load_is_learned_of_an_answer_without_a_token() -> None:
    taken, load_s = notes(), NOTABLE_LOAD_S * 20
    before = taken.rates.load_s(HERE, SIZE)
    taken.ended(answered(Usage(load_s=load_s)), None)
    assert taken.rates.load_s(HERE, SIZE) != before
