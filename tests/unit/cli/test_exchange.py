import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.cli.exchange import Answer, BadAnswer, _parse, ask
from ollama_dist.node.setting_values import Address
from tests.support.fake_node import FakeNode


@contextmanager
def peer(behave: Callable[[socket.socket], object]) -> Iterator[Address]:
    """Somebody who does as told with the one connection he gets."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            behave(connection)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield Address("127.0.0.1", listener.getsockname()[1])
        thread.join(10)


def test_a_question_and_its_answer() -> None:
    with FakeNode({"POST /x": (409, {"error": "no"})}) as node:
        answer = ask(
            Address("127.0.0.1", node.port), "POST", "/x", patience_s=5, body=b'{"a": 1}', bearer="sesame"
        )
    assert (answer.status, json.loads(answer.content)) == (409, {"error": "no"})
    (request,) = node.requests
    assert request.body == {"a": 1}
    assert request.headers["Authorization"] == "Bearer sesame"
    assert request.headers["Host"] == node.address


def test_an_answer_that_drips_is_not_waited_for_beyond_the_deadline() -> None:
    stop = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while not stop.wait(0.02):
            connection.sendall(b"X: y\r\n")

    with peer(drip) as address:
        with pytest.raises(TimeoutError):
            ask(address, "GET", "/", patience_s=0.2)
        stop.set()


def test_one_who_hangs_up_gave_no_answer() -> None:
    with (
        peer(lambda connection: connection.recv(4096)) as address,
        pytest.raises(BadAnswer, match="closed without"),
    ):
        ask(address, "GET", "/", patience_s=5)


def test_nobody_there_is_a_refusal() -> None:
    with pytest.raises(ConnectionRefusedError):
        ask(Address("127.0.0.1", 1), "GET", "/", patience_s=5)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", Answer(200, b"hi")),
        (b"HTTP/1.0 404 Not Found\r\n\r\n404 page not found", Answer(404, b"404 page not found")),
        (b"HTTP/1.1 204 \r\nA: b\r\n\r\n", Answer(204, b"")),
    ],
)
def test_answers(data: bytes, answer: Answer) -> None:
    assert _parse(data) == answer


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/2 200\r\n\r\n",
    ],
)
def test_what_is_no_whole_answer(data: bytes) -> None:
    with pytest.raises(BadAnswer):
        _parse(data)


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest))
def test_any_bytes_are_an_answer_or_a_bad_one(data: bytes) -> None:
    status = 0
    try:
        status = _parse(data).status
    except BadAnswer:
        return
    assert 0 <= status <= 999
