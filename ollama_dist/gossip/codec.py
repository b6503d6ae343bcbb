"""Envelopes to bytes and back: whatever comes in is an envelope within bounds, or one declared error."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from google.protobuf.message import DecodeError

from ollama_dist.core.ids import NodeId
from ollama_dist.gossip.calls import MAX_MESSAGE
from ollama_dist.gossip.protocol.config import LAN
from ollama_dist.gossip.protocol.messages import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
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

MAX_ADDRESSES: Final = 4
MAX_ADDRESS_BYTES: Final = 262
"""A DNS name of 253 characters, brackets, a colon and a port."""

MAX_KEY_BYTES: Final = 64
MAX_EXTENSIONS: Final = 16
LATEST_MS: Final = 2**40
"""Ages end at some thirty years: no float is asked to hold more."""


class Malformed(Exception):
    """These bytes are no message of a version we speak."""


class TooLong(Exception):
    """An envelope of our own that nobody would take."""


def encode(envelope: Envelope) -> bytes:
    """The envelope without its kind, which is the call's. Raises `TooLong`."""
    data = pb.Envelope(
        version=PROTOCOL_MAX,
        claim=_claim_to(envelope.claim) if envelope.claim else None,
        fingerprint=envelope.fingerprint,
        rumours=map(_claim_to, envelope.rumours),
        hot=_hot_to(envelope.hot) if envelope.hot else None,
        digest=map(_digest_to, envelope.digest),
        deltas=map(_delta_to, envelope.deltas),
        target=_number(envelope.target) if envelope.target else None,
        nack=not envelope.acked,
        target_claim=_claim_to(envelope.target_claim) if envelope.target_claim else None,
        start=_start_to(envelope.start) if envelope.start else None,
        extensions=envelope.extensions,
    ).SerializeToString()
    if len(data) > MAX_MESSAGE:
        raise TooLong(f"{len(data)} bytes of {envelope.kind}")
    return data


def decode(kind: Kind, data: bytes) -> Envelope:
    """The envelope in ``data``, a call or the reply to a call of ``kind``. Raises `Malformed`.

    Claims of a kind this version does not know are left out.
    """
    if len(data) > MAX_MESSAGE:
        raise Malformed("too long")
    try:
        said = pb.Envelope.FromString(data)
    except DecodeError as error:
        raise Malformed("not an envelope") from error
    if not PROTOCOL_MIN <= said.version <= PROTOCOL_MAX:
        raise Malformed(f"version {said.version}")
    if len(said.extensions) > MAX_EXTENSIONS:
        raise Malformed("too many extensions")
    return Envelope(
        kind=kind,
        claim=_claim_from(said.claim) if said.HasField("claim") else None,
        fingerprint=said.fingerprint,
        rumours=_claims_from(said.rumours),
        hot=_hot_from(said.hot) if said.HasField("hot") else None,
        digest=tuple(map(_digest_from, said.digest)),
        deltas=tuple(map(_delta_from, said.deltas)),
        target=_id(said.target) if said.HasField("target") else None,
        acked=not said.nack,
        target_claim=_claim_from(said.target_claim) if said.HasField("target_claim") else None,
        start=_start_from(said.start) if said.HasField("start") else None,
        extensions=tuple(said.extensions),
    )


def encode_claim(claim: Claim) -> bytes:
    """One claim by itself, to keep it."""
    return _claim_to(claim).SerializeToString()


def decode_claim(data: bytes) -> Claim | None:
    """None where it makes no sense."""
    try:
        return _claim_from(pb.Claim.FromString(data))
    except (DecodeError, Malformed):
        return None


def _number(node: NodeId) -> int:
    return int(node, 16)


def _id(number: int) -> NodeId:
    return NodeId(f"{number:016x}")


# Claims


def _claim_to(claim: Claim) -> pb.Claim:
    return pb.Claim(
        subject=_number(claim.subject),
        generation=claim.standing.generation,
        incarnation=claim.standing.incarnation,
        rank=claim.standing.rank,
        contact=_contact_to(claim.contact) if claim.contact else None,
        signature=claim.signature,
        accuser=_number(claim.accuser) if claim.accuser else None,
    )


def _claim_from(said: pb.Claim) -> Claim | None:
    """None for a rank of a later version."""
    if said.rank > max(Rank):
        return None
    return Claim(
        subject=_id(said.subject),
        standing=Standing(said.generation, said.incarnation, Rank(said.rank)),
        contact=_contact_from(said.contact) if said.HasField("contact") else None,
        signature=said.signature,
        accuser=_id(said.accuser) if said.HasField("accuser") else None,
    )


def _claims_from(said: Iterable[pb.Claim]) -> tuple[Claim, ...]:
    return tuple(claim for claim in map(_claim_from, said) if claim is not None)


def _contact_to(contact: Contact) -> pb.Contact:
    return pb.Contact(
        addresses=contact.addresses,
        public_key=contact.public_key,
        nonce=contact.nonce,
        version_min=contact.versions[0],
        version_max=contact.versions[1],
    )


def _contact_from(said: pb.Contact) -> Contact:
    if len(said.addresses) > MAX_ADDRESSES or any(len(each) > MAX_ADDRESS_BYTES for each in said.addresses):
        raise Malformed("too many or too long addresses")
    versions = said.version_min, said.version_max
    return Contact(tuple(said.addresses), said.public_key, said.nonce, versions)


def _start_to(start: Start) -> pb.Start:
    return pb.Start(nonce=start.nonce, age_ms=_milliseconds(start.age))


def _start_from(said: pb.Start) -> Start:
    return Start(said.nonce, min(said.age_ms, LATEST_MS) / 1000)


# State


def _milliseconds(age: float) -> int:
    return round(min(max(age, 0.0) * 1000, LATEST_MS))


def _hot_to(hot: Hot) -> pb.Hot:
    return pb.Hot(version=hot.version, data=hot.data, age_ms=_milliseconds(hot.age))


def _hot_from(said: pb.Hot) -> Hot:
    if len(said.data) > LAN.hot_bytes_max:
        raise Malformed("a load too large")
    return Hot(said.version, said.data, min(said.age_ms, LATEST_MS) / 1000)


def _entry_to(entry: ColdEntry) -> pb.ColdEntry:
    return pb.ColdEntry(key=entry.key, version=entry.version, value=entry.value)


def _entry_from(said: pb.ColdEntry) -> ColdEntry:
    if len(said.key) > MAX_KEY_BYTES or len(said.value) > LAN.cold_value_bytes:
        raise Malformed("an entry too large")
    return ColdEntry(said.key, said.version, said.value if said.HasField("value") else None)


def _cold_to(cold: ColdDelta) -> pb.ColdDelta:
    return pb.ColdDelta(start=cold.start, end=cold.end, gc=cold.gc, entries=map(_entry_to, cold.entries))


def _cold_from(said: pb.ColdDelta) -> ColdDelta:
    """Ascending by version and within the range it says it covers, else the reader would trust a gap."""
    versions = [entry.version for entry in said.entries]
    is_ascending = all(low < high for low, high in pairwise(versions))
    if not is_ascending or (versions and not said.start < versions[0] <= versions[-1] <= said.end):
        raise Malformed("entries that are not in order")
    return ColdDelta(said.start, said.end, said.gc, tuple(map(_entry_from, said.entries)))


def _delta_to(delta: MemberDelta) -> pb.MemberDelta:
    return pb.MemberDelta(
        subject=_number(delta.subject),
        generation=delta.generation,
        claims=map(_claim_to, delta.claims),
        hot=_hot_to(delta.hot) if delta.hot else None,
        cold=_cold_to(delta.cold) if delta.cold else None,
    )


def _delta_from(said: pb.MemberDelta) -> MemberDelta:
    return MemberDelta(
        subject=_id(said.subject),
        generation=said.generation,
        claims=_claims_from(said.claims),
        hot=_hot_from(said.hot) if said.HasField("hot") else None,
        cold=_cold_from(said.cold) if said.HasField("cold") else None,
    )


def _digest_to(entry: DigestEntry) -> pb.DigestEntry:
    return pb.DigestEntry(
        subject=_number(entry.subject),
        generation=entry.generation,
        incarnation=entry.incarnation,
        is_gone=entry.is_gone,
        hot=entry.hot,
        cold=entry.cold,
        gc=entry.gc,
    )


def _digest_from(said: pb.DigestEntry) -> DigestEntry:
    return DigestEntry(
        subject=_id(said.subject),
        generation=said.generation,
        incarnation=said.incarnation,
        is_gone=said.is_gone,
        hot=said.hot,
        cold=said.cold,
        gc=said.gc,
    )
