from dataclasses import replace

import pytest

from ollama_dist.core.requests import Intent, RunnerOption
from ollama_dist.core.view import LoadedModel, NodeView
from ollama_dist.scheduling.estimate import Holding, estimate, loaded_as_asked, service_s
from ollama_dist.scheduling.rates import Rates
from tests.support.views import key, node, request

TINY = key("tiny")
Options = tuple[RunnerOption, ...]


def options(**values: int) -> Options:
    return tuple(RunnerOption(name, value) for name, value in values.items())


def holding(had: Options | None, context: int = 4096) -> NodeView:
    """A node with tiny in memory, asked for with ``had``."""
    return replace(
        node(1, ["tiny"]), loaded={TINY: LoadedModel("tiny:latest", "a" * 64, context, options=had)}
    )


@pytest.mark.parametrize(
    ("had", "context", "asked", "fits"),
    [
        ((), 4096, {}, True),
        ((), 4096, {"num_ctx": 4096}, True),
        ((), 4096, {"num_ctx": 8192}, False),
        ((), 4096, {"num_batch": 64}, False),
        (options(num_ctx=8192), 8192, {"num_ctx": 8192}, True),
        (options(num_ctx=8192), 8192, {}, False),
        (options(num_ctx=131072), 2048, {"num_ctx": 131072}, True),
        (options(num_gpu=0, num_ctx=8192), 8192, {"num_ctx": 8192, "num_gpu": 0}, True),
        (options(num_gpu=0), 4096, {}, False),
        (None, 4096, {}, True),
        (None, 4096, {"num_ctx": 4096}, True),
        (None, 4096, {"num_ctx": 8192}, False),
        (None, 0, {"num_ctx": 8192}, True),
    ],
)
def test_a_model_is_ready_only_as_it_was_loaded(
    had: Options | None, context: int, asked: dict[str, int], fits: bool
) -> None:
    wanted = request(runner_options=options(**asked))
    assert (loaded_as_asked(wanted, TINY, holding(had, context)) is not None) is fits


def test_a_reload_waits_for_all_that_is_under_way() -> None:
    wanted = request(runner_options=options(num_ctx=8192))
    idle, busy = (
        estimate(wanted, Holding.of(TINY, holding(()), is_self=True), ahead, Rates()) for ahead in (0, 3)
    )
    assert idle.reason.startswith("loaded with other options, 0 ahead")
    assert busy.load_s > idle.load_s > 0


def test_another_name_of_the_same_content_is_in_memory_too() -> None:
    both = replace(
        node(1, ["tiny", "copy"]), loaded={key("copy"): LoadedModel("copy:latest", "a" * 64, options=())}
    )
    assert loaded_as_asked(request(), TINY, both) is not None


def test_a_slot_is_kept_for_the_prompt_and_for_the_answer() -> None:
    rates, place = Rates(), node(1, loaded=["tiny"])
    short = service_s(request(max_tokens=10), TINY, place, rates)
    assert service_s(request(max_tokens=100), TINY, place, rates) > short
    assert service_s(request(max_tokens=10, prompt_bytes=40_000), TINY, place, rates) > short
    assert service_s(request(intent=Intent.EMBED), TINY, place, rates) < short
