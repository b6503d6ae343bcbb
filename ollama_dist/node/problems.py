"""What is wrong, in the same words wherever it is shown: what it means, and what to do about it. Pure."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ollama_dist.backends.local import Snapshot
from ollama_dist.core.view import ClusterView, EngineKind, EngineState, MemberState
from ollama_dist.node.reports import Problem

SAFE_OLLAMA: Final = (0, 17, 1)
"""Older ones can be made to tell what lies in their memory (the 2026 heap leak)."""


_COME_BACK: Final = (
    "run `ollama-dist invite` on a member, and here `ollama-dist join CODE` with what it prints"
)

ROTATED_SHOWN: Final = 1
"""All members refuse for one reason; saying it once is enough."""


NAMED_MAX: Final = 3
"""Models that one problem names."""


@dataclass(frozen=True, slots=True)
class Seeds:
    """Addresses a person named where no member was met: what was met there instead, by address."""

    strangers: Mapping[str, str] = field(default_factory=dict)
    """Somebody who does not have this cluster's key."""
    silent: Mapping[str, str] = field(default_factory=dict)
    """Nobody."""
    rotated: Mapping[str, str] = field(default_factory=dict)
    """A member of this cluster, which has another key by now; not only at addresses a person named."""


@dataclass(frozen=True, slots=True)
class Moving:
    """What keeps models from moving to and from this node; empty where nothing does."""

    unreadable: str = ""
    """Why the engine's models cannot be read."""
    closed: str = ""
    """Why the engine cannot be brought any."""
    open_to: str = ""
    """Whom a mirror serves without a key, and what."""


def find_problems(
    view: ClusterView,
    engine: Snapshot,
    seeds: Seeds = Seeds(),
    revoked_by: str = "",
    corrupt: Sequence[str] = (),
    moving: Moving = Moving(),
) -> list[Problem]:
    """The worst first. ``corrupt`` are the models of this node whose files were found wrong."""
    problems = [
        *_revocation(view, revoked_by),
        *_engine_problems(engine),
        *_seed_problems(view, seeds),
        *_member_problems(view),
        *_model_problems(view),
        *_corrupt_models(corrupt),
        *_moving_problems(view, engine, moving),
    ]
    return sorted(problems, key=lambda problem: problem.severity != "error")


def _engine_problems(engine: Snapshot) -> list[Problem]:
    about = engine.engine
    if engine.is_meant:
        return []
    if about.kind is EngineKind.NONE:
        return [
            Problem(
                "warning",
                "engine_none",
                f"this machine runs no models: {engine.error}",
                "start Ollama (`ollama serve`); it is used within three seconds",
            )
        ]
    if about.state is EngineState.UNREACHABLE:
        return [
            Problem(
                "error",
                "engine_unreachable",
                f"this node's engine does not answer: {engine.error}",
                "start Ollama (`ollama serve`), or name its address with --ollama",
            )
        ]
    if about.kind is EngineKind.OLLAMA and (0, 0, 0) < _version(about.version) < SAFE_OLLAMA:
        return [
            Problem(
                "warning",
                "ollama_unsafe",
                f"Ollama {about.version} can be made to leak memory contents over the network",
                "upgrade it to 0.17.1 or later",
            )
        ]
    return []


def _revocation(view: ClusterView, revoked_by: str) -> list[Problem]:
    if not revoked_by:
        return []
    return [
        Problem(
            "error",
            "revoked",
            f"this node was revoked by {revoked_by}: it is no member of cluster {view.cluster_id} any more",
            _COME_BACK,
        )
    ]


def _seed_problems(view: ClusterView, seeds: Seeds) -> list[Problem]:
    problems = [
        Problem(
            "error",
            "seed_refused",
            f"{address} is not in cluster {view.cluster_id}: {detail}",
            "run `ollama-dist invite` there, and here `ollama-dist join CODE` with what it prints",
        )
        for address, detail in seeds.strangers.items()
    ]
    problems += [
        Problem("error", "seed_refused", f"{address} refuses this node: {detail}", _COME_BACK)
        for address, detail in list(seeds.rotated.items())[:ROTATED_SHOWN]
    ]
    if any(node.is_routable for node in view.peers()):
        return problems  # the cluster was found by another way
    return problems + [
        Problem(
            "warning",
            "seed_silent",
            f"no node was met at {address}: {detail}",
            "start the node there, or correct --join; it is tried again and again",
        )
        for address, detail in seeds.silent.items()
    ]


def _member_problems(view: ClusterView) -> list[Problem]:
    problems = []
    for node in view.peers():
        if node.state is MemberState.SUSPECT:
            problems.append(
                Problem(
                    "warning",
                    "member_suspect",
                    f"{node.name} may be gone: {node.reason}",
                    "nothing yet: it is asked again, and its work goes elsewhere meanwhile",
                )
            )
        elif node.state is MemberState.DEAD and not node.reason.startswith("revoked"):
            problems.append(
                Problem(
                    "warning",
                    "member_dead",
                    f"{node.name} is gone: {node.reason}",
                    f"start it again, it comes back by itself; or ollama-dist forget {node.name}",
                )
            )
        elif node.state is MemberState.ALIVE and not node.reachable:
            problems.append(
                Problem(
                    "warning",
                    "member_one_way",
                    f"{node.name} lives, but this node and it cannot talk to each other",
                    f"look for a firewall between this machine and {node.address}",
                )
            )
    return problems


def _model_problems(view: ClusterView) -> list[Problem]:
    problems = []
    for key in view.holders:
        holders = view.serving_holders(key)
        if view.is_in_conflict(key):
            name, places = holders[0].models[key].name, ", ".join(sorted(node.name for node in holders))
            problems.append(
                Problem(
                    "warning",
                    "model_conflict",
                    f"{name} is not the same on {places}: each node uses its own",
                    f"pull {name} again where it is out of date",
                )
            )
    return problems


def _moving_problems(view: ClusterView, engine: Snapshot, moving: Moving) -> list[Problem]:
    problems = []
    if moving.closed:
        problems.append(
            Problem(
                "warning",
                "registry_closed",
                f"models cannot be brought to this machine's engine: {moving.closed}",
                "name an address of this machine that is free with --registry-listen",
            )
        )
    if moving.open_to:
        problems.append(
            Problem(
                "info",
                "mirror_open",
                f"models are given to machines that show no key: {moving.open_to}",
                "leave out --mirror-listen where nobody needs it",
            )
        )
    if moving.unreadable and engine.models and engine.engine.state is EngineState.READY:
        problems.append(
            Problem(
                "info",  # so it is with every Ollama that has a user of its own, and models move all the same
                "store_unreadable",
                f"this node may not read the files of its engine's models ({moving.unreadable}): "
                "others get them by way of a second copy here, which takes time and room"
                f"{_unidentified(view)}",
                "run the node as the user that runs Ollama, or let its user read them "
                "(usermod -aG ollama USER; chmod g+rx on the folders above them)",
            )
        )
    return problems


def _unidentified(view: ClusterView) -> str:
    """What follows from contents that nobody has read, for people."""
    names = sorted(copy.name for copy in view.me.models.values() if not copy.identity)
    if not names:
        return ""
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return (
        f"; of {', '.join(names[:NAMED_MAX])}{more} only the digest is known, and other versions "
        "of Ollama may list another for the same content"
    )


def _corrupt_models(models: Sequence[str]) -> list[Problem]:
    return [
        Problem(
            "error",
            "model_corrupt",
            f"the files of {name} on this machine are not what they were: its disk may be failing",
            f"delete {name} on this machine and pull it again; pulling alone keeps the file that is there",
        )
        for name in models
    ]


def _version(text: str) -> tuple[int, ...]:
    numbers = re.findall(r"\d+", text.split("-")[0])
    return tuple(int(number) for number in numbers[:3])
