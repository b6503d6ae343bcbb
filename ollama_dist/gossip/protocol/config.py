"""The figures of the membership protocol, in one place, with what more or less of each does.

Papers: SWIM (Das, Gupta, Motivala 2002), Lifeguard (Dadgar, Phillips, Currey 2017), Scuttlebutt (van Renesse,
Dumitriu, Gough, Thomas 2008).
"""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Rules:
    """Rules of safety, all of them in force. Experiments switch one off to show what it is for."""

    refutation: bool = True
    """Who is accused contradicts with a higher incarnation."""

    pace: bool = True
    """Whose alarms ring late, or who waits long for answers, judges more slowly and does less."""

    ask_once: bool = True
    """Nobody is declared dead before it was asked directly, in vain (rule 3)."""

    hearsay: bool = True
    """A death that others tell of is only a reason to look (rule 4)."""

    signatures: bool = True
    """What a member says of itself is signed by it."""

    anti_entropy: bool = True
    """Members whose fingerprints differ synchronise."""

    dead_contact: bool = True
    """The dead are pinged now and then, so that the halves of a broken cluster find back."""


@dataclass(frozen=True, slots=True)
class GossipConfig:
    """Times in seconds, sizes in bytes. Formulas that depend on the size of the cluster are methods."""

    period_low: float = 0.4
    period_high: float = 1.0
    """Probe period T' in small and in large clusters. More: slower detection, less traffic."""

    probe_timeout_least: float = 0.25
    """A direct ping is given half a period, but at least this. More: fewer false suspicions, slower."""

    helpers: int = 3
    """Members asked to ping for us when a direct ping stays unanswered; missing ones become direct pings."""

    suspicion_mult: int = 6
    """The shortest suspicion, in periods (times log10 of the size). More: slower death, fewer errors."""

    suspicion_max_mult: int = 6
    """And at most this many times longer, while nobody else confirms it. More: longer stalls are survived."""

    confirmations: int = 2
    """Other members that must suspect too before a suspicion runs at its shortest."""

    asks_open_max: int = 16
    """Suspects that are asked at a time, by a member that is well; of one that is ill only a part of it (as
    many as this divided by how much slower it judges). More: of many that vanish together the last is known
    to be dead sooner."""

    local_health_max: int = 8
    """How much a judge who misses things himself slows down: period and timeout grow by (1 + his score)."""

    gossip_interval: float = 0.2
    gossip_fanout: int = 3
    """While there is news, so many members are told every interval."""

    near_least: int = 8
    """Where so many answer, these alone are told news and asked to help: others take a new connection, which
    costs as much as several calls. More: news spreads more evenly while a cluster comes together."""

    gossip_open_max: int = 6
    """Nobody else is told news while so many calls with some are unanswered: answers that stay away say that
    somebody, this member perhaps, cannot keep up; who is slow has only a part of them open. More: news
    spreads better where calls get lost."""

    retransmit_mult: int = 4
    """Each piece of news is sent this many times log10 of the size by every member that learns it."""

    piggyback_bytes: int = 1400
    """News that rides on one message."""

    inline_sync_bytes: int = 8 * 1024
    """State that rides on one reply."""

    inline_digest_max: int = 64
    """Up to this many members a ping carries the whole digest."""

    sync_interval: float = 0.2
    sync_interval_large: float = 0.5
    sync_interval_huge: float = 1.0
    """Least time between two synchronisations that this member asks for; above 64 and above 200 members."""

    sync_timeout: float = 2.0
    sync_bytes: int = 48 * 1024
    """State in one answer to a synchronisation; what does not fit comes with the next."""

    join_parallel: int = 3
    join_alone_after: float = 2.0
    """A starting member that finds nobody for so long serves alone and goes on trying."""

    join_retry_low: float = 0.2
    join_retry_high: float = 30.0
    """Between two tries of the same address while alone, doubling."""

    seed_retry: float = 30.0
    """How often an address that belongs to no living member is tried again."""

    hot_interval: float = 0.5
    """A member tells its load at most so often; large clusters more seldom (see `hot_pause`)."""

    hot_refresh: float = 30.0
    """And at least so often, so that its age says something."""

    hot_piggyback: int = 8
    """Other members' newest loads that ride on a message."""

    clone_check: float = 1.0
    """How long a starting member waits for an answer from where its identity is said to live already."""

    hearsay_probes_per_s: float = 5.0
    """Probes started by what others say, in all."""

    dead_kept: float = 24 * 3600.0
    """How long the dead stay listed."""

    dead_in_digest: float = 60.0
    """How long the dead stay part of what is synchronised."""

    members_max: int = 1024
    cold_keys_max: int = 512
    cold_key_bytes: int = 64
    cold_value_bytes: int = 4096
    cold_bytes_max: int = 64 * 1024
    hot_bytes_max: int = 64
    """What one member may say of itself."""

    tombstones_max: int = 64
    """Deleted keys a member remembers; older ones make way, and who was behind them starts over."""

    leave_timeout: float = 1.0
    leave_acks: int = 3

    rules: Rules = Rules()

    def period(self, members: int) -> float:
        """T' for a cluster of ``members``."""
        return min(max(self.period_low * members / 64, self.period_low), self.period_high)

    def probe_timeout(self, members: int) -> float:
        return max(self.probe_timeout_least, self.period(members) / 2)

    def suspicion_min(self, members: int) -> float:
        return self.suspicion_mult * max(1.0, math.log10(max(members, 1))) * self.period(members)

    def retransmits(self, members: int) -> int:
        return self.retransmit_mult * math.ceil(math.log10(members + 1))

    def sync_pause(self, members: int) -> float:
        if members > 200:
            return self.sync_interval_huge
        return self.sync_interval_large if members > 64 else self.sync_interval

    def hot_pause(self, members: int) -> float:
        """Least time between two publications of a load: about 16 KiB/s of loads in the whole cluster."""
        return max(self.hot_interval, members * 44 / 16384)

    def scaled(self, factor: float) -> "GossipConfig":
        """The same with all times multiplied; what is kept for days is left as it is."""
        times = (
            "period_low",
            "period_high",
            "probe_timeout_least",
            "gossip_interval",
            "sync_interval",
            "sync_interval_large",
            "sync_interval_huge",
            "sync_timeout",
            "join_alone_after",
            "join_retry_low",
            "join_retry_high",
            "seed_retry",
            "leave_timeout",
            "hot_interval",
            "hot_refresh",
            "clone_check",
        )
        return replace(self, **{name: getattr(self, name) * factor for name in times})


LAN = GossipConfig()
WAN = replace(LAN.scaled(5), probe_timeout_least=3.0, period_low=6.0, period_high=6.0)
"""Slow links: times five, and a period that leaves room for a ping of three seconds."""

TEST = LAN.scaled(0.1)
