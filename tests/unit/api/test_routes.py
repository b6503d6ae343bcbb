from ollama_dist.api.routes import ROUTES, Where
from ollama_dist.core.dialects import DIALECTS
from ollama_dist.core.scopes import Scope

NEED_NO_KEY = {
    *("GET /", "HEAD /", "GET /api/version", "HEAD /api/version", "GET /healthz"),
    *("GET /api/distributed/openapi.json", "GET /api/distributed/docs"),
    *("GET /api/distributed/docs/page.js", "GET /api/distributed/docs/page.css"),
}


def test_each_route_stands_once() -> None:
    assert len({route.key for route in ROUTES}) == len(ROUTES)


def test_only_what_says_nothing_is_public() -> None:
    assert {route.key for route in ROUTES if route.scope is Scope.PUBLIC} == NEED_NO_KEY


def test_everything_that_changes_the_node_needs_the_admin() -> None:
    changing = [r for r in ROUTES if r.path.startswith(("/admin", "/api/distributed")) and r.method != "GET"]
    assert changing
    assert {route.scope for route in changing} == {Scope.ADMIN}
    assert {route.scope for route in ROUTES if route.path.startswith("/admin")} == {Scope.ADMIN}


def test_only_blobs_may_be_of_any_size() -> None:
    unbounded = {route.key for route in ROUTES if route.body_limit is None}
    assert unbounded == {"POST /api/blobs/{digest}"}


def test_what_is_scheduled_are_the_routes_that_infer() -> None:
    scheduled = {route.path: route.dialect for route in ROUTES if route.where is Where.SCHEDULED}
    assert scheduled == DIALECTS


def test_rows_we_answer_ourselves_say_what_answers_them() -> None:
    for route in ROUTES:
        assert bool(route.name) == (route.where in (Where.HERE, Where.UNION)), route.key
