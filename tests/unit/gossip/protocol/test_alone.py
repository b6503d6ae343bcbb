"""A member that knows of nobody."""

import pytest

from ollama_dist.gossip.protocol.core import Membership
from ollama_dist.gossip.protocol.effects import Effect
from ollama_dist.sim.network import VirtualNetwork


def test_who_is_alone_is_not_woken_to_tell_its_news_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    network = VirtualNetwork(seed=3)
    network.cluster(1)
    network.run(5)
    ticks = 0
    tick = Membership.tick

    def counted(self: Membership, now: float, number: int) -> list[Effect]:
        nonlocal ticks
        ticks += 1
        return tick(self, now, number)

    monkeypatch.setattr(Membership, "tick", counted)
    network.run(60)
    assert 0 < ticks < 60 * 5
