"""Spoilt messages: what members say to each other, mangled, decoded, and what survives handed to a member.

``scripts/fuzz --messages 5000000`` runs it for long; the tests run a little of it.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final

import psutil

from ollama_dist.gossip import codec
from ollama_dist.gossip.calls import MAX_MESSAGE
from ollama_dist.gossip.protocol.effects import Effect
from ollama_dist.gossip.protocol.messages import Envelope, Kind
from ollama_dist.sim.network import Given, VirtualNetwork, VirtualNode

EXTREMES: Final = (b"\x00", b"\x7f", b"\x80", b"\xff", b"\xff" * 9 + b"\x01", b"\x80" * 10, b"\xff" * 4)
GROWTH_MAX: Final = 16 * 2**20
"""Bytes of memory that a long run may grow by after its first tenth."""


@dataclass
class _Recorder:
    """Keeps what members of a network say, as bytes."""

    said: set[tuple[Kind, bytes]] = field(default_factory=set)

    def handled(self, node: VirtualNode, given: Given, effects: list[Effect]) -> None:
        pass

    def sent(self, node: VirtualNode, envelope: Envelope) -> None:
        self.said.add((envelope.kind, codec.encode(envelope)))


def recorded(seed: int, most: int = 400) -> list[tuple[Kind, bytes]]:
    """Messages of a cluster that had some trouble."""
    recorder = _Recorder()
    network = VirtualNetwork(seed, loss=0.2, observers=[recorder])
    nodes = network.cluster(5)
    for round_number in range(6):
        for node in nodes:
            network.do(node, node.core.set_load(network.now, node.name.encode() * 4))
            network.do(node, node.core.set_state(network.now, f"k{round_number}", b"value" * 20))
        network.run(3)
        if round_number == 1:
            network.crash(nodes[4])
    network.do(nodes[3], nodes[3].core.leave(network.now))
    network.run(2)
    return Random(seed).sample(sorted(recorder.said), min(most, len(recorder.said)))


def spoilt(rng: Random, corpus: Sequence[tuple[Kind, bytes]]) -> tuple[Kind, bytes]:
    """One of them with up to three things wrong."""
    kind, data = rng.choice(corpus)
    found = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(found) + 1)
        match rng.randrange(7):
            case 0 if found:
                found[at % len(found)] ^= 1 << rng.randrange(8)
            case 1:
                found[at:at] = rng.choice(EXTREMES)
            case 2:
                del found[at : at + rng.randrange(1, 9)]
            case 3:
                _, other = rng.choice(corpus)
                begin = rng.randrange(len(other) + 1)
                found[at:at] = other[begin : begin + rng.randrange(64)]
            case 4:
                found[at : at + 8] = rng.randbytes(8)
            case 5 if rng.random() < 0.02:
                found += rng.randbytes(rng.randrange(2 * MAX_MESSAGE))
            case 6 if rng.random() < 0.1:
                del found[at:]
    return kind, bytes(found)


class Fuzz:
    """Feeds one member of a small cluster; whatever it raises is for the caller to see."""

    def __init__(self, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._rng = Random(seed)
        self._corpus = recorded(seed)
        self._network = VirtualNetwork(seed, keeps_events=False)
        self._nodes = self._network.cluster(4)
        self._network.run_until(self._network.agrees, within=10)

    def run(self, messages: int, *, feed_every: int = 1) -> None:
        """``feed_every``: of so many that decode, one is handed to a member."""
        for _ in range(messages):
            kind, data = spoilt(self._rng, self._corpus)
            try:
                envelope = codec.decode(kind, data)
            except codec.Malformed:
                self.counts["malformed"] += 1
                continue
            self.counts["decoded"] += 1
            if self.counts["decoded"] % feed_every == 0:
                codec.encode(envelope)
                self._feed(envelope)

    def _feed(self, envelope: Envelope) -> None:
        network, rng = self._network, self._rng
        teller, to = rng.sample(self._nodes, 2)
        network.deliver(teller.id, to, envelope)
        network.run(0.05)
        rows = max(len(node.core.inside.members) for node in self._nodes)
        rumours = max(len(node.core.inside.rumours) for node in self._nodes)
        self.counts["rows"] = max(rows, self.counts["rows"])
        self.counts["rumours"] = max(rumours, self.counts["rumours"])


def main(words: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("--messages", type=int, default=5_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--feed-every", type=int, default=20, help="hand one of so many to a member (20)")
    wish = parser.parse_args(words)
    fuzz, began = Fuzz(wish.seed), time.monotonic()
    memory = psutil.Process().memory_info
    settled = 0
    for part in range(1, 11):
        fuzz.run(wish.messages // 10, feed_every=wish.feed_every)
        settled = settled or memory().rss
        took, mib = time.monotonic() - began, memory().rss >> 20
        print(f"{part * wish.messages // 10} messages, {took:.0f} s, {mib} MiB", flush=True)
    grown = memory().rss - settled
    print(f"{dict(fuzz.counts)}; memory grew by {grown >> 10} KiB after the first tenth")
    return int(grown > GROWTH_MAX)


if __name__ == "__main__":
    sys.exit(main())
