"""The safety rules that can be switched off, to show that a run without one goes wrong.

A check that cannot fail says nothing: for each of these there is a test in which some fault breaks an
invariant, or a bound that holds with the rule.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Final

from ollama_dist.gossip.protocol.config import GossipConfig

RULES: Final[Mapping[str, str]] = {
    "indirect-probes": "others ping for us before we suspect",
    "suspicion": "a suspected member has time to prove itself",
    "slow-suspicion": "a suspicion takes longer while nobody else confirms it",
    "refutation": "the accused contradicts with a higher incarnation",
    "health": "who misses answers judges more slowly",
    "pace": "whose alarms ring late, or who waits long for answers, judges more slowly and does less",
    "stall-guard": "who stood still blames nobody for what it missed",
    "ask-once": "the accused is asked directly before it is declared dead",
    "hearsay": "a death told by others only makes us look ourselves",
    "signatures": "only a member itself says that it lives or leaves",
    "anti-entropy": "who differs synchronises",
    "dead-contact": "the dead are greeted now and then",
}


def without(config: GossipConfig, rules: Iterable[str]) -> GossipConfig:
    """The configuration with these rules switched off, as far as they are the state machine's."""
    for rule in rules:
        match rule:
            case "indirect-probes":
                config = replace(config, helpers=0)
            case "suspicion":
                config = replace(config, suspicion_mult=0)
            case "slow-suspicion":
                config = replace(config, suspicion_max_mult=1)
            case "health":
                config = replace(config, local_health_max=0)
            case "stall-guard":
                pass  # the network's business: see `scenario`
            case _:
                config = replace(config, rules=replace(config.rules, **{rule.replace("-", "_"): False}))
    return config
