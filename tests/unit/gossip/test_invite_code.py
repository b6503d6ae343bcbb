import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.gossip.invite_code import CodeMistyped, InviteCode

CODE = InviteCode("9f2c41d0", bytes(range(16)), bytes(range(10)), 1_790_000_000, 11438, ("192.168.1.20",))

HOSTS = st.lists(
    st.one_of(
        st.ip_addresses().map(str),
        st.sampled_from(["desk", "desk.local", "node", "sixteen-letters1", "a" * 63]),
    ),
    min_size=1,
    max_size=4,
).map(tuple)


@given(
    cluster=st.binary(min_size=4, max_size=4).map(bytes.hex),
    secret=st.binary(min_size=10, max_size=10),
    expires_at=st.integers(0, 2**32 - 1),
    port=st.integers(1, 65535),
    hosts=HOSTS,
)
def test_what_is_written_can_be_read(
    cluster: str, secret: bytes, expires_at: int, port: int, hosts: tuple[str, ...]
) -> None:
    code = InviteCode(cluster, bytes(16), secret, expires_at, port, hosts)
    assert InviteCode.parse(code.text) == code


def test_a_code_is_one_short_word_that_survives_a_line_break_and_capitals() -> None:
    text = CODE.text
    assert text.isalnum()
    assert len(text) <= 80
    assert InviteCode.parse(f" {text[:30].upper()}\n  {text[30:]}\n") == CODE


def test_printing_a_code_does_not_show_its_secret() -> None:
    assert repr(CODE.secret) not in repr(CODE)


@given(place=st.integers(0, len(CODE.text) - 1), typed=st.characters(codec="ascii"))
def test_every_single_mistyped_character_is_noticed(place: int, typed: str) -> None:
    if typed.lower() == CODE.text[place]:
        return
    with pytest.raises(CodeMistyped):
        InviteCode.parse(CODE.text[:place] + typed + CODE.text[place + 1 :])


@given(
    st.one_of(
        st.text(max_size=100),
        st.text("abcdefghijklmnopqrstuvwxyz234567", max_size=100).map("odi1".__add__),
    )
)
def test_anything_else_is_no_invitation(text: str) -> None:
    with pytest.raises(CodeMistyped):
        InviteCode.parse(text)
