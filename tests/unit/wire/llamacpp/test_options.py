import pytest

from ollama_dist.wire.llamacpp.options import RunnerOptions, Sampling, WrongOption, read_options

RUNNER = RunnerOptions(num_ctx=4096)


def test_options_go_where_they_belong() -> None:
    runner, sampling = read_options(
        RUNNER, Sampling(), {"num_ctx": 1024.0, "temperature": 0, "stop": ["a"], "use_mmap": False}
    )
    assert runner == RunnerOptions(num_ctx=1024, use_mmap=False)
    assert sampling == Sampling(temperature=0.0, stop=("a",))


def test_null_and_unknown_options_change_nothing() -> None:
    options = {"num_ctx": None, "mirostat": 2, "shift": "no"}
    assert read_options(RUNNER, Sampling(), options) == (RUNNER, Sampling())


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"num_ctx": "many"}, 'option "num_ctx" must be of type integer'),
        ({"seed": True}, 'option "seed" must be of type integer'),
        ({"temperature": "warm"}, 'option "temperature" must be of type float32'),
        ({"use_mmap": 1}, 'option "use_mmap" must be of type boolean'),
        ({"stop": "x"}, 'option "stop" must be of type array'),
        ({"stop": ["x", 1]}, 'option "stop" must be of an array of strings'),
    ],
)
def test_a_wrong_type_is_told_in_ollamas_words(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(WrongOption, match=complaint) as refusal:
        read_options(RUNNER, Sampling(), options)
    assert refusal.value.status == 500


@pytest.mark.parametrize(("num_predict", "n_predict"), [(-1, 1000), (0, 1000), (7, 7), (5000, 1000)])
def test_no_answer_is_longer_than_ten_contexts(num_predict: int, n_predict: int) -> None:
    assert Sampling(num_predict=num_predict).as_body(100)["n_predict"] == n_predict


def test_numbers_are_kept_within_what_llama_cpp_counts() -> None:
    _, sampling = read_options(RUNNER, Sampling(), {"seed": 2**60})
    assert sampling.seed == 2**31 - 1
