import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.api.routes import ROUTES
from ollama_dist.api.table import Elsewhere, Matched, NoRoute, RouteTable, WrongMethod

TABLE = RouteTable(ROUTES)


def test_a_path_leads_to_its_row_whatever_the_query() -> None:
    found = TABLE.find("GET", "/api/tags?ts=1700000000")
    assert isinstance(found, Matched)
    assert found.route.key == "GET /api/tags"


@pytest.mark.parametrize(
    ("path", "params"),
    [
        ("/api/blobs/sha256:00", {"digest": "sha256:00"}),
        ("/api/blobs/sha256%3A00", {"digest": "sha256:00"}),
    ],
)
def test_a_segment_is_read_once(path: str, params: dict[str, str]) -> None:
    found = TABLE.find("HEAD", path)
    assert isinstance(found, Matched)
    assert found.params == params


@pytest.mark.parametrize(
    ("method", "path", "status", "location"),
    [
        ("GET", "/api/version/", 301, "/api/version"),
        ("POST", "/api/generate/", 307, "/api/generate"),
        ("GET", "//api/tags", 307, "/api/tags"),
        ("GET", "/api//tags?x=1", 307, "/api/tags?x=1"),
        ("GET", "/api/tags/?x=1", 301, "/api/tags?x=1"),
        ("GET", "/v1/models/tiny/", 301, "/v1/models/tiny"),
    ],
)
def test_an_unclean_path_is_sent_to_the_clean_one(method: str, path: str, status: int, location: str) -> None:
    assert TABLE.find(method, path) == Elsewhere(status, location)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/", "HEAD, GET"),
        ("POST", "/api/tags", "HEAD, GET"),
        ("HEAD", "/api/ps", "GET"),
        ("GET", "/api/delete", "DELETE"),
        ("GET", "/api/blobs/sha256:00", "HEAD, POST"),
        ("OPTIONS", "/api/chat", "POST"),
    ],
)
def test_a_wrong_method_is_told_the_right_ones(method: str, path: str, allow: str) -> None:
    assert TABLE.find(method, path) == WrongMethod(allow)


@pytest.mark.parametrize(
    "path",
    [
        "",
        "*",
        "/nothing",
        "/API/tags",
        "/api",
        "/api/",
        "/api/../api/tags",
        "/api/./tags",
        "/api/tags%2f",
        "/api%2ftags",
        "/api/blobs/",
        "/api/blobs/..",
        "/api/blobs/%2e%2e",
        "/v1/models/a%2Fb",
        "/v1/models/a/b",
        "/api/blobs/a/../b",
        "http://elsewhere/api/tags",
        "/api\\tags",
        "//evil.example/api/tags",
        "//evil.example",
        "/api/tags\x00",
        "/v1/models/%00",
        "/v1/models/%0a",
        "/v1/models/a%5Cb",
        "/v1/models/a\\b",
        "/v1/models/%c0%af",
        "/v1/models/%ff",
        "/v1/models/%zz",
        "/v1/models/%",
    ],
)
def test_what_is_not_in_the_table_goes_nowhere(path: str) -> None:
    assert TABLE.find("GET", path) == NoRoute()


@given(st.sampled_from(["GET", "POST", "DELETE"]), st.text("/.%2fFeE\\?:abc\x00", max_size=30))
def test_a_redirect_never_leaves_this_server_nor_loops(method: str, path: str) -> None:
    found = TABLE.find(method, "/" + path)
    if isinstance(found, Elsewhere):
        assert not found.location.startswith("//")
        assert found.location.startswith("/")
        assert not isinstance(TABLE.find(method, found.location), Elsewhere) or "//" in path
