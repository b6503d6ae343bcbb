import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.names import InvalidModelName, Source, model_key, parse_model_name, parse_model_ref


@pytest.mark.parametrize(
    ("text", "short", "key"),
    [
        ("llama3", "llama3:latest", "registry.ollama.ai/library/llama3:latest"),
        ("library/llama3", "llama3:latest", "registry.ollama.ai/library/llama3:latest"),
        ("registry.ollama.ai/library/LLAMA3:8B", "LLAMA3:8B", "registry.ollama.ai/library/llama3:8b"),
        ("Registry.Ollama.ai/library/llama3", "llama3:latest", "registry.ollama.ai/library/llama3:latest"),
        ("ns/named", "ns/named:latest", "registry.ollama.ai/ns/named:latest"),
        ("hf.co/user/repo:Q4_K_M", "hf.co/user/repo:Q4_K_M", "hf.co/user/repo:q4_k_m"),
        (
            "127.0.0.1:5000/x7f3a/llama3:8b",
            "127.0.0.1:5000/x7f3a/llama3:8b",
            "127.0.0.1:5000/x7f3a/llama3:8b",
        ),
        ("http://localhost/ns/m:t", "localhost/ns/m:t", "localhost/ns/m:t"),
        ("localhost:1/ns/m", "localhost:1/ns/m:latest", "localhost:1/ns/m:latest"),
    ],
)
def test_defaults_are_filled_in_and_left_out_again(text: str, short: str, key: str) -> None:
    name = parse_model_name(text)
    assert name.short == short
    assert name.key == key
    assert parse_model_name(name.full) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a b",
        "/m",
        "ns/",
        "m:",
        ":t",
        "-m",
        ".m",
        "n.s/m",
        "127.0.0.1:5000/llama3",
        "a/b/c/d",
        "http://m",
        "[::1]/ns/m",
        "m@sha256:00",
        "m%2f",
        "mü",
        "m:" + "t" * 81,
        "h" * 351 + "/ns/m",
        "m\n",
    ],
)
def test_what_is_no_name(text: str) -> None:
    assert model_key(text) is None
    with pytest.raises(InvalidModelName, match="invalid model name"):
        parse_model_name(text)


@pytest.mark.parametrize(
    ("text", "short", "source"),
    [
        ("gpt-oss:20b:cloud", "gpt-oss:20b", Source.CLOUD),
        ("gpt-oss:20b-cloud", "gpt-oss:20b", Source.CLOUD),
        ("qwen3:Cloud", "qwen3:latest", Source.CLOUD),
        ("qwen3:local", "qwen3:latest", Source.LOCAL),
        (" qwen3:8b:LOCAL ", "qwen3:8b", Source.LOCAL),
        ("my-cloud-model", "my-cloud-model:latest", Source.ANY),
        ("localhost:11434/library/foo:cloud", "localhost:11434/library/foo:latest", Source.CLOUD),
    ],
)
def test_where_a_request_insists_on_running(text: str, short: str, source: Source) -> None:
    name, found = parse_model_ref(text)
    assert (name.short, found) == (short, source)


def test_one_source_at_a_time() -> None:
    with pytest.raises(InvalidModelName, match="use either :local or :cloud, not both"):
        parse_model_ref("foo:cloud:local")


def test_an_installed_stub_keeps_its_suffix() -> None:
    assert parse_model_name("gpt-oss:20b-cloud").short == "gpt-oss:20b-cloud"


@given(st.text(max_size=60) | st.from_regex(r"[a-zA-Z0-9_./:@-]{0,60}", fullmatch=True))
def test_any_text_is_a_name_or_a_clear_refusal(text: str) -> None:
    try:
        name = parse_model_name(text)
    except InvalidModelName:
        return
    assert parse_model_name(name.short).key == name.key
    assert parse_model_name(name.full.upper()).key == name.key
