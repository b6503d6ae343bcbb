"""What kind of connection a hello belongs to, with hellos that OpenSSL makes."""

import ssl

import pytest

from ollama_dist.wire.hello import BULK, HELLO_LIMIT, is_whole, offers


def hello(*protocols: str) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    if protocols:
        context.set_alpn_protocols(list(protocols))
    outgoing = ssl.MemoryBIO()
    connection = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="epoch-1.ollama-dist")
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    return outgoing.read()


def test_only_what_is_offered_counts() -> None:
    assert offers(hello(BULK), BULK)
    assert offers(hello("h2", BULK), BULK)
    assert not offers(hello("h2", "http/1.1"), BULK)
    assert not offers(hello(), BULK)
    assert not offers(b"", BULK)


def test_it_is_whole_when_all_of_its_record_is_there() -> None:
    said = hello(BULK)
    assert [size for size in range(len(said)) if is_whole(said[:size])] == []
    assert is_whole(said)


def test_what_is_no_hello_is_not_waited_for() -> None:
    assert is_whole(b"G")
    assert is_whole(b"\x16\x03\x01\xff\xff" + bytes(HELLO_LIMIT))
    assert not is_whole(b"")
