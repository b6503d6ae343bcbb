from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.node.setting_values import (
    Address,
    EngineChoice,
    Listen,
    address_with,
    connectable_host,
    is_loopback,
    listed,
    listen_on,
    nearest,
    one_of,
    parse_bool,
    parse_cached_route,
    parse_ip,
    parse_node_name,
    parse_ollama_address,
    parse_path,
    parse_secret,
    whole_number,
)

listen = listen_on("127.0.0.1", 11434)
peer = address_with(11436)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", Listen("127.0.0.1", 11434, search=True)),
        ("0.0.0.0", Listen("0.0.0.0", 11434, search=True)),
        ("::", Listen("::", 11434, search=True)),
        ("[::1]", Listen("::1", 11434, search=True)),
        ("[::1]:80", Listen("::1", 80)),
        (":8080", Listen("127.0.0.1", 8080)),
        ("desk.local:0", Listen("desk.local", 0)),
        (" 192.168.1.20:11500 ", Listen("192.168.1.20", 11500)),
    ],
)
def test_listening_addresses(text: str, meant: Listen) -> None:
    assert listen(text) == meant


def test_only_an_address_without_a_port_looks_for_the_next_free_one() -> None:
    assert list(listen("127.0.0.1:11434").ports()) == [11434]
    assert list(listen("127.0.0.1").ports())[:3] == [11434, 11435, 11436]
    assert max(Listen("127.0.0.1", 65530, search=True).ports()) == 65535
    assert list(Listen("127.0.0.1", 0, search=True).ports()) == [0]


def test_who_can_reach_an_address_is_told_from_it() -> None:
    assert listen("127.0.0.1").is_loopback
    assert listen("127.8.8.8").is_loopback
    assert listen("::1").is_loopback
    assert is_loopback("localhost")
    assert not listen("0.0.0.0").is_loopback
    assert not listen("::").is_loopback
    assert not listen("desk").is_loopback


def test_every_interface_is_reached_over_loopback() -> None:
    assert connectable_host("0.0.0.0") == "127.0.0.1"
    assert connectable_host("::") == "::1"
    assert connectable_host("desk") == "desk"
    assert listen("0.0.0.0:1").reachable == Address("127.0.0.1", 1)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("desk", Address("desk", 11436)),
        ("desk:7946", Address("desk", 7946)),
        ("fe80::1", Address("fe80::1", 11436)),
        ("[fe80::1]:7946", Address("fe80::1", 7946)),
        ("my_container:1", Address("my_container", 1)),
    ],
)
def test_addresses_of_peers(text: str, meant: Address) -> None:
    assert peer(text) == meant


@pytest.mark.parametrize(
    "text", ["", ":1", "desk:", "desk:x", "desk:-1", "desk:65536", "desk:0", "a b:1", "http://desk:1"]
)
def test_what_is_no_address_of_a_peer(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        peer(text)


@given(st.text(max_size=40))
def test_any_text_is_an_address_or_a_plain_refusal(text: str) -> None:
    for parse in (listen, peer, parse_ollama_address):
        refusal = "must be plain"
        try:
            address: Address | Listen = parse(text)
        except ValueError as error:
            refusal = str(error)
        else:
            assert 0 <= address.port <= 65535
            assert address.host
        assert refusal.startswith("must ")


@given(
    st.ip_addresses().map(str) | st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True), st.integers(1, 65535)
)
def test_an_address_is_read_back_from_what_it_prints(host: str, port: int) -> None:
    assert peer(str(Address(host, port))) == Address(host, port)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", "127.0.0.1:11434"),
        ("127.0.0.1", "127.0.0.1:11434"),
        ("0.0.0.0", "127.0.0.1:11434"),
        (":56789", "127.0.0.1:56789"),
        ("localhost:1234", "localhost:1234"),
        ("http://desk", "desk:80"),
        ("http://desk:1234/", "desk:1234"),
        ("[::1]:1337", "[::1]:1337"),
        ("::1", "[::1]:11434"),
        ("::", "[::1]:11434"),
        (' "desk" ', "desk:11434"),
        ("'desk:5'", "desk:5"),
    ],
)
def test_an_ollama_is_named_as_ollama_names_its_host(text: str, meant: str) -> None:
    assert str(parse_ollama_address(text)) == meant


@pytest.mark.parametrize("text", ["https://desk", "ftp://desk", "desk/ollama", "desk:0", "desk:port"])
def test_an_ollama_that_could_not_be_spoken_to_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must "):
        parse_ollama_address(text)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("1", True), (" ON ", True), ("no", False), ("0", False)]
)
def test_switches(text: str, value: bool) -> None:
    assert parse_bool(text) is value


@pytest.mark.parametrize("text", ["", "ture", "2", "enabled"])
def test_a_switch_is_never_guessed(text: str) -> None:
    with pytest.raises(ValueError, match="true or false"):
        parse_bool(text)


def test_numbers_keep_their_bounds() -> None:
    slots = whole_number(0, 256)
    assert slots("0") == 0
    assert slots("256") == 256
    for text in ("-1", "257", "4.5", "four"):
        with pytest.raises(ValueError, match="from 0 to 256"):
            slots(text)


def test_a_misspelt_choice_is_met_with_the_nearest() -> None:
    engine = one_of(EngineChoice)
    assert engine("Llama.cpp") is EngineChoice.LLAMACPP
    with pytest.raises(ValueError, match=r"auto, ollama, llama\.cpp, none; did you mean 'llama\.cpp'"):
        engine("llamacpp")
    with pytest.raises(ValueError, match=r"none$"):
        engine("xyz")


def test_lists_skip_empty_parts_and_keep_their_bound() -> None:
    peers = listed(peer, at_most=2)
    assert peers("a:1, b:2,") == (Address("a", 1), Address("b", 2))
    assert peers(" , ") == ()
    with pytest.raises(ValueError, match="at most 2, it names 3"):
        peers("a,b,c")


@pytest.mark.parametrize("text", ["desk", "gpu-1.lan", "A_1", "x" * 63])
def test_names_of_nodes(text: str) -> None:
    assert parse_node_name(f" {text} ") == text


@pytest.mark.parametrize("text", ["", "-desk", "two words", "büro", "x" * 64, "a\nb"])
def test_a_name_that_would_not_fit_a_header_or_a_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^must be 1 to 63"):
        parse_node_name(text)


def test_paths_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert parse_path("~/models") == Path("/home/ada/models")


def test_a_secret_is_one_word() -> None:
    assert parse_secret(" odk1-x ").reveal() == "odk1-x"
    for text in ("", "two words", "a\nb", "schl\u00fcssel"):
        with pytest.raises(ValueError, match="one word"):
            parse_secret(text)


def test_interfaces_are_named_by_address() -> None:
    assert parse_ip("127.0.0.1") == "127.0.0.1"
    with pytest.raises(ValueError, match="IP addresses"):
        parse_ip("eth0")


def test_nothing_is_suggested_for_what_resembles_nothing() -> None:
    assert nearest("lissten", ["listen", "join"]) == "listen"
    assert nearest("qqqq", ["listen", "join"]) is None


def test_answers_are_kept_where_requests_can_be_alike() -> None:
    assert parse_cached_route("/api/chat") == "/api/chat"
    for route in ("/v1/audio/transcriptions", "/api/tags"):
        with pytest.raises(ValueError, match="must be routes that infer from JSON"):
            parse_cached_route(route)
