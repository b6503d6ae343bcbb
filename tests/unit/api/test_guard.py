import pytest

from ollama_dist.api.guard import DEFAULT_ORIGINS, Guard, Judgement

GUARD = Guard(hosts=frozenset({"desk"}), addresses=frozenset({"203.0.113.7", "2001:db8::7"}))


@pytest.mark.parametrize(
    "host",
    [
        None,
        "localhost",
        "localhost.",
        "localhost:",
        "LOCALHOST:11434",
        "desk",
        "Desk:80",
        "desk.local",
        "a.b.internal:1",
        "x.localhost",
        "127.0.0.1:11434",
        "127.1.2.3",
        "[::1]:11434",
        "0.0.0.0",
        "192.168.1.20:11434",
        "10.0.0.1",
        "172.31.255.1",
        "[fd00::1]",
        "203.0.113.7:11434",
        "[2001:db8::7]:11434",
        "[2001:0db8:0::7]",
        "[::ffff:127.0.0.1]",
    ],
)
def test_names_and_addresses_of_this_machine_and_its_network_are_known(host: str | None) -> None:
    assert GUARD.judge("GET", host, "").judgement is Judgement.PASS


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:11434",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "8.8.8.8",
        "[2001:db8::8]:1",
        "172.32.0.1",
        "169.254.169.254",
        "desk.evil",
        "local",
        "100.64.0.1",
        "2130706433",
        "[::ffff:8.8.8.8]",
    ],
)
def test_a_rebound_name_is_refused_on_every_bind(host: str) -> None:
    assert GUARD.judge("GET", host, "").judgement is Judgement.WRONG_HOST


@pytest.mark.parametrize(
    "host",
    [
        "",
        "user@localhost",
        "localhost/x",
        "localhost?x",
        "localhost#x",
        "localhost:evil",
        "localhost:99999",
        "localhost:\u00b2",
        "localhost, localhost",
        "[::1",
        "::1",
        "[fe80::1%eth0]",
        "[1:2]",
        ".local",
        "a..local",
        "loc%61lhost",
    ],
)
def test_a_host_that_is_none_is_malformed(host: str) -> None:
    assert GUARD.judge("GET", host, "").judgement is Judgement.BAD_HOST


@pytest.mark.parametrize(
    ("target", "judgement"),
    [
        ("http://localhost/api/tags", Judgement.PASS),
        ("http://LOCALHOST?x", Judgement.PASS),
        ("http://localhost:80/api/tags", Judgement.BAD_HOST),
        ("http://user@localhost/", Judgement.BAD_HOST),
        ("http://evil.example/api/tags", Judgement.BAD_HOST),
        ("evil.example:443", Judgement.BAD_HOST),
        ("*", Judgement.PASS),
    ],
)
def test_a_request_line_may_name_no_other_host(target: str, judgement: Judgement) -> None:
    assert GUARD.judge("GET", "localhost", "", target=target).judgement is judgement


@pytest.mark.parametrize(
    ("method", "origin", "site", "judgement"),
    [
        ("POST", "", "cross-site", Judgement.WRONG_ORIGIN),
        ("DELETE", "", "cross-site", Judgement.WRONG_ORIGIN),
        ("GET", "", "cross-site", Judgement.PASS),
        ("POST", "", "same-site", Judgement.PASS),
        ("POST", "", "none", Judgement.PASS),
        ("POST", "app://obsidian.md", "cross-site", Judgement.PASS),
        ("POST", "http://localhost", "cross-site", Judgement.PASS),
    ],
)
def test_another_sites_doing_without_an_origin_changes_nothing(
    method: str, origin: str, site: str, judgement: Judgement
) -> None:
    assert GUARD.judge(method, "localhost", origin, site=site).judgement is judgement


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost",
        "https://localhost:8443",
        "http://127.0.0.1:3000",
        "http://0.0.0.0:1",
        "app://obsidian.md",
        "file://",
        "tauri://localhost",
        "vscode-webview://abc",
        "vscode-file://vscode-app",
    ],
)
def test_local_pages_are_let_in_and_told_so(origin: str) -> None:
    verdict = GUARD.judge("POST", "127.0.0.1:11434", origin)
    assert verdict.judgement is Judgement.PASS
    assert verdict.headers == (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://localhost.evil.example",
        "chrome-extension://abc",
        "ftp://localhost",
        "http://localhost:1, http://evil.example",
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "OPTIONS", "HEAD"])
def test_other_pages_can_do_nothing(origin: str, method: str) -> None:
    assert GUARD.judge(method, "127.0.0.1:11434", origin).judgement is Judgement.WRONG_ORIGIN


def test_a_page_of_our_own_is_no_stranger_but_its_host_must_be_ours() -> None:
    assert GUARD.judge("POST", "192.168.1.20:11434", "http://192.168.1.20:11434").judgement is Judgement.PASS
    rebound = GUARD.judge("POST", "evil.example:11434", "http://evil.example:11434")
    assert rebound.judgement is Judgement.WRONG_HOST


def test_a_preflight_is_answered_with_what_is_allowed() -> None:
    verdict = GUARD.judge("OPTIONS", "localhost", "http://localhost:3000")
    assert verdict.judgement is Judgement.PREFLIGHT
    assert dict(verdict.headers)["Access-Control-Allow-Methods"] == "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"


def test_a_star_lets_everybody_in_without_naming_them() -> None:
    verdict = Guard(origins=(*DEFAULT_ORIGINS, "*")).judge("GET", "localhost", "http://anyone.example")
    assert dict(verdict.headers)["Access-Control-Allow-Origin"] == "*"


def test_one_star_stands_for_anything_between_its_ends() -> None:
    guard = Guard(origins=("https://*.example.org",))
    assert guard.judge("GET", "localhost", "https://a.example.org").judgement is Judgement.PASS
    assert guard.judge("GET", "localhost", "https://.example.org.evil").judgement is Judgement.WRONG_ORIGIN
