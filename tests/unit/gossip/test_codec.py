from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.calls import MAX_MESSAGE
from ollama_dist.gossip.codec import Malformed, TooLong, decode, encode
from ollama_dist.gossip.protocol.messages import (
    Claim,
    ColdDelta,
    ColdEntry,
    Contact,
    DigestEntry,
    Envelope,
    Hot,
    Kind,
    MemberDelta,
    Rank,
    Standing,
    Start,
)
from ollama_dist.rpc.v1 import membership_pb2 as pb

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
IDS = st.integers(0, 2**64 - 1).map(lambda number: NodeId(f"{number:016x}"))
CONTACTS = st.builds(
    Contact,
    addresses=st.lists(st.text(max_size=60), max_size=4).map(tuple),
    public_key=st.binary(max_size=33),
    nonce=U64,
    versions=st.tuples(U32, U32),
)
CLAIMS = st.builds(
    Claim,
    subject=IDS,
    standing=st.builds(Standing, U64, U32, st.sampled_from(Rank)),
    contact=st.none() | CONTACTS,
    signature=st.binary(max_size=64),
    accuser=st.none() | IDS,
)
HOTS = st.builds(
    Hot, version=U64, data=st.binary(max_size=64), age=st.integers(0, 10**9).map(lambda ms: ms / 1000)
)

STARTS = st.builds(Start, nonce=U64, age=st.integers(0, 10**9).map(lambda ms: ms / 1000))


@st.composite
def colds(draw: st.DrawFn) -> ColdDelta:
    start = draw(st.integers(0, 1000))
    versions = sorted(draw(st.sets(st.integers(start + 1, start + 50), max_size=5)))
    entries = tuple(
        ColdEntry(draw(st.text(max_size=16)), version, draw(st.none() | st.binary(max_size=40)))
        for version in versions
    )
    end = draw(st.integers(versions[-1] if versions else start, start + 100))
    return ColdDelta(start, end, draw(U64), entries)


DIGESTS = st.builds(
    DigestEntry,
    subject=IDS,
    generation=U64,
    incarnation=U32,
    is_gone=st.booleans(),
    hot=U64,
    cold=U64,
    gc=U64,
)
DELTAS = st.builds(
    MemberDelta,
    subject=IDS,
    generation=U64,
    claims=st.lists(CLAIMS, max_size=2).map(tuple),
    hot=st.none() | HOTS,
    cold=st.none() | colds(),
)
ENVELOPES = st.builds(
    Envelope,
    kind=st.sampled_from(Kind),
    claim=st.none() | CLAIMS,
    fingerprint=U64,
    rumours=st.lists(CLAIMS, max_size=3).map(tuple),
    hot=st.none() | HOTS,
    digest=st.lists(DIGESTS, max_size=3).map(tuple),
    deltas=st.lists(DELTAS, max_size=3).map(tuple),
    target=st.none() | IDS,
    acked=st.booleans(),
    target_claim=st.none() | CLAIMS,
    start=st.none() | STARTS,
    extensions=st.lists(st.binary(max_size=8), max_size=3).map(tuple),
)

ME = NodeId("0123456789abcdef")
BARE = Envelope(Kind.PING, None)
CONTACT = Contact(("10.0.0.1:11436",), b"k" * 33, 7)
ALIVE = Claim(ME, Standing(1_790_000_000_000, 0, Rank.ALIVE), CONTACT, b"s" * 64)


@given(ENVELOPES)
def test_what_is_encoded_is_decoded_again(envelope: Envelope) -> None:
    assert decode(envelope.kind, encode(envelope)) == envelope


@given(st.sampled_from(Kind), st.binary(max_size=200))
def test_any_bytes_are_an_envelope_or_malformed(kind: Kind, data: bytes) -> None:
    try:
        assert decode(kind, data).kind is kind
    except Malformed:
        return


@given(ENVELOPES, st.data())
def test_a_damaged_envelope_is_an_envelope_or_malformed(envelope: Envelope, data: st.DataObject) -> None:
    spoilt = bytearray(encode(envelope))
    for _ in range(data.draw(st.integers(1, 4))):
        spoilt[data.draw(st.integers(0, len(spoilt) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(spoilt[: data.draw(st.integers(0, len(spoilt)))])
    try:
        decode(envelope.kind, cut)
    except Malformed:
        return


def test_a_quiet_ping_is_small() -> None:
    assert len(encode(BARE)) == 2
    assert len(encode(replace(BARE, claim=ALIVE, fingerprint=2**63, hot=Hot(5, b"h" * 16, 0.4)))) <= 200


def test_a_signed_claim_with_four_addresses_fits_256_bytes() -> None:
    contact = replace(CONTACT, addresses=("192.168.100.200:11436",) * 4)
    data = encode(replace(BARE, claim=replace(ALIVE, contact=contact)))
    assert len(data) <= 256


def test_a_message_beyond_the_limit_is_neither_made_nor_parsed() -> None:
    with pytest.raises(TooLong):
        encode(replace(BARE, extensions=(bytes(MAX_MESSAGE),)))
    with pytest.raises(Malformed, match="too long"):
        decode(Kind.PING, bytes(MAX_MESSAGE + 1))


@pytest.mark.parametrize("version", [0, 2, 2**32 - 1])
def test_a_version_we_do_not_speak_is_refused(version: int) -> None:
    with pytest.raises(Malformed, match="version"):
        decode(Kind.PING, pb.Envelope(version=version).SerializeToString())


def test_fields_of_later_versions_are_skipped() -> None:
    later = b"\xa2\x06\x03new"  # field 100, three bytes
    assert decode(Kind.PING, encode(BARE) + later) == BARE


def test_claims_of_a_rank_of_later_versions_are_left_out() -> None:
    said = pb.Envelope.FromString(encode(replace(BARE, claim=ALIVE, rumours=(ALIVE, ALIVE))))
    said.rumours[0].rank = 4
    said.claim.rank = 9
    envelope = decode(Kind.GOSSIP, said.SerializeToString())
    assert envelope.claim is None
    assert envelope.rumours == (ALIVE,)


@pytest.mark.parametrize(
    "said",
    [
        pb.Envelope(version=1, hot=pb.Hot(data=bytes(65))),
        pb.Envelope(version=1, extensions=[b""] * 17),
        pb.Envelope(version=1, claim=pb.Claim(contact=pb.Contact(addresses=["a:1"] * 5))),
        pb.Envelope(version=1, claim=pb.Claim(contact=pb.Contact(addresses=["a" * 300]))),
    ],
)
def test_what_is_beyond_the_bounds_is_malformed(said: pb.Envelope) -> None:
    with pytest.raises(Malformed):
        decode(Kind.PING, said.SerializeToString())


@pytest.mark.parametrize(
    "cold",
    [
        pb.ColdDelta(start=0, end=2, entries=[pb.ColdEntry(key="a", version=3)]),
        pb.ColdDelta(start=3, end=5, entries=[pb.ColdEntry(key="a", version=3)]),
        pb.ColdDelta(end=5, entries=[pb.ColdEntry(key="a", version=2), pb.ColdEntry(key="b", version=2)]),
        pb.ColdDelta(end=5, entries=[pb.ColdEntry(key="a" * 65, version=2)]),
        pb.ColdDelta(end=5, entries=[pb.ColdEntry(key="a", version=2, value=bytes(4097))]),
    ],
)
def test_slow_state_with_gaps_or_out_of_bounds_is_malformed(cold: pb.ColdDelta) -> None:
    said = pb.Envelope(version=1, deltas=[pb.MemberDelta(subject=1, generation=1, cold=cold)])
    with pytest.raises(Malformed):
        decode(Kind.SYNC, said.SerializeToString())


def test_an_age_from_the_beginning_of_time_ends_somewhere() -> None:
    said = pb.Envelope(version=1, hot=pb.Hot(age_ms=2**64 - 1))
    decoded = decode(Kind.PING, said.SerializeToString())
    assert decoded.hot is not None
    assert decoded.hot.age < 2**31
    assert decode(Kind.PING, encode(replace(BARE, hot=Hot(1, b"", float("inf"))))).hot is not None
