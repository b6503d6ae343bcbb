"""The API reference against a node: requests made from the document, answers held against it.

What is sent is made by schemathesis: the examples, the edges of each schema, and chance in and out of them.
The node runs in a thread of its own, in front of a scripted Ollama.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from contextlib import AsyncExitStack
from typing import Any, Final

import httpx
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    status_code_conformance,
    unsupported_method,
)

from ollama_dist.api.routes import ROUTES
from ollama_dist.core.scopes import Scope
from tests.support.described import complaints, described
from tests.support.fake_ollama import FakeOllama
from tests.support.solo_node import ADMIN_TOKEN, solo_node

MODELS: Final = {"llama3.2": "tiny", "all-minilm": "tiny-embed", "my-llama": "tiny"}
"""The models of the document's examples."""

CHANGES_THE_NODE: Final = (
    "post_api_distributed_invite",  # opens a door, and this node has no cluster to let anybody into
    "post_api_distributed_join",  # leads away into another cluster
    "post_api_distributed_leave",  # begins another cluster, and the node forgets what it knew
    "post_api_distributed_drain",  # takes it out of use
    "post_admin_mode",  # decides where the requests of all other operations go
)
"""Operations that would make the node another one for the rest; they are asked wrongly only, at the end."""

NEED_THE_CLOUD: Final = {"/api/push", "/api/experimental/web_search", "/api/experimental/web_fetch"}
"""Their examples cannot be answered well here: they want a registry or an account."""

NEED_ANOTHER: Final = {
    "/api/distributed/revoke",
    "/api/distributed/forget",
    "/api/distributed/undrain",
}
"""And theirs name another node, which is not there."""

HONEST: Final = (502, 503, 504)
"""What the node says when it is not to blame. 501 and 500 are for an engine to say."""

AS_OPERATOR: Final = {"Authorization": f"Bearer {ADMIN_TOKEN}"}

CONFIG: Final = SchemathesisConfig.from_dict(
    {"seed": 1, "generation": {"max-examples": 12, "deterministic": True, "database": "none"}}
)
API: Final = schemathesis.openapi.from_dict(described(), config=CONFIG)


class Running:
    """A node in front of a fake, in a thread with a loop of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._stack = AsyncExitStack()
        self.fake = FakeOllama(models=MODELS)
        self.url = ""

    def __enter__(self) -> "Running":
        self._thread.start()
        self._run(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._stack.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def restock(self) -> None:
        """Put back what requests may have deleted or made, and forget what was asked."""
        self._run(self._restock())

    def engine_said(self, status: int) -> bool:
        """Whether the engine gave an answer with this status; the node may have asked it more meanwhile."""
        return any(seen.status == status for seen in self.fake.journal.requests)

    async def _start(self) -> None:
        await self._stack.enter_async_context(self.fake)
        self.url = (await self._stack.enter_async_context(solo_node(self.fake.port))).url

    async def _restock(self) -> None:
        for name, origin in MODELS.items():
            self.fake.catalogue.install(name, origin)
        self.fake.journal.requests.clear()

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with Running() as node:
        yield node


@API.exclude(operation_id=list(CHANGES_THE_NODE)).parametrize()
def test_every_operation_answers_as_described(case: schemathesis.Case[Any], running: Running) -> None:
    running.restock()
    response = case.call_and_validate(
        base_url=running.url,
        headers=AS_OPERATOR,
        checks=[
            status_code_conformance,
            content_type_conformance,
            response_headers_conformance,
            unsupported_method,
        ],
    )
    sent, status = str(response.request.method), response.status_code
    if sent != case.operation.method.upper():
        return  # a method the path does not have: that it is refused has been checked
    [content_type] = response.headers.get("content-type", [""])
    assert complaints(sent, case.operation.path, status, content_type, response.content) == []
    if status >= 500:
        assert status in HONEST or running.engine_said(status), response.content


def examples() -> Iterator[Any]:
    """Every operation that can be answered well here, with the body of its example where it takes one."""
    for route in ROUTES:
        told = described()["paths"][route.path][route.method.lower()]
        content = told.get("requestBody", {"content": {}})["content"].get("application/json", {})
        is_asked_here = (
            route.path not in NEED_THE_CLOUD | NEED_ANOTHER and told["operationId"] not in CHANGES_THE_NODE
        )
        if is_asked_here and (route.body_limit == 0 or "example" in content) and "{" not in route.path:
            yield pytest.param(route.method, route.path, content.get("example"), id=route.key)


@pytest.mark.parametrize(("method", "path", "body"), list(examples()))
def test_every_example_is_answered_well(
    method: str, path: str, body: dict[str, Any] | None, running: Running
) -> None:
    running.restock()
    response = httpx.request(method, running.url + path, json=body, headers=AS_OPERATOR)
    if path.startswith(("/api/status", "/api/experimental")):
        assert response.status_code == 404  # the fake has no such route, as an older Ollama
    elif (method, path) == ("POST", "/api/distributed/scrub"):
        assert response.json()["code"] == "store_unreadable"  # the fake has no files
    else:
        assert response.status_code in (200, 202), response.text
    content_type = response.headers.get("content-type", "")
    assert complaints(method, path, response.status_code, content_type, response.content) == []


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hello"}]}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/messages", {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 9}),
    ],
)
def test_streams_are_as_described(path: str, body: dict[str, Any], running: Running) -> None:
    running.restock()
    response = httpx.post(running.url + path, json={"model": "llama3.2", "stream": True, **body})
    content_type = response.headers["content-type"]
    assert content_type.startswith("text/event-stream")
    assert complaints("POST", path, response.status_code, content_type, response.content) == []


@pytest.mark.parametrize("path", sorted({r.path for r in ROUTES if r.scope is Scope.ADMIN}))
def test_without_the_token_the_operators_routes_refuse_as_described(path: str, running: Running) -> None:
    method = next(each.method for each in ROUTES if each.path == path and each.scope is Scope.ADMIN)
    response = httpx.request(method, running.url + path, headers={"Authorization": "Bearer wrong"})
    assert response.status_code == 401
    content_type = response.headers["content-type"]
    assert complaints(method, path, 401, content_type, response.content) == []


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/api/tags"), ("GET", "/v1/models"), ("POST", "/v1/messages"), ("GET", "/healthz")],
)
def test_a_strange_host_name_is_refused_in_the_callers_dialect(
    method: str, path: str, running: Running
) -> None:
    response = httpx.request(method, running.url + path, headers={"Host": "evil.example"})
    assert response.status_code == 403
    assert "'evil.example'" in response.text
    assert complaints(method, path, 403, response.headers["content-type"], response.content) == []


def test_the_page_is_bounded_by_its_policy(running: Running) -> None:
    for path in ("/api/distributed/docs", "/api/distributed/docs/page.js", "/api/distributed/docs/page.css"):
        headers = httpx.get(running.url + path).headers
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self';")
        assert headers["Cache-Control"] == "no-store"
        assert headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("body", ["[]", '{"unknown": 1}', "nonsense", '"text"'])
@pytest.mark.parametrize("operation_id", CHANGES_THE_NODE)
def test_what_changes_the_node_refuses_bodies_it_does_not_know(
    operation_id: str, body: str, running: Running
) -> None:
    [path] = [
        path
        for path, methods in described()["paths"].items()
        for told in methods.values()
        if told["operationId"] == operation_id
    ]
    response = httpx.post(running.url + path, content=body, headers=AS_OPERATOR)
    assert response.status_code == 400
    content_type = response.headers["content-type"]
    assert complaints("POST", path, 400, content_type, response.content) == []
