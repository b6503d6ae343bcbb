"""What operators ask of a node and have it do: how it is, who is in its cluster, its models read again."""

import asyncio
from typing import Any

import psutil

from ollama_dist.admin.metrics import exposition
from ollama_dist.core.errors import BadRequest, StillThere
from ollama_dist.core.view import MemberState
from ollama_dist.node.modes import effective_mode
from ollama_dist.node.moves import SCRUB_PATH
from ollama_dist.node.node import Node
from ollama_dist.node.problems import Moving, Seeds, find_problems
from ollama_dist.node.reports import Problem, SelfReport


class Operator:
    """Asks and turns ``node``; who may have it do so, the routes say."""

    def __init__(self, node: Node) -> None:
        self._node = node

    # How it is

    def report(self) -> SelfReport:
        node = self._node
        stats, snapshot, target = node.dispatcher.stats, node.engine.snapshot, node.engine.target
        return SelfReport(
            mode=effective_mode(node.switches, node.view()).mode,
            fallback=node.switches.fallback,
            uptime_s=node.uptime_s,
            listen=node.listen,
            reach=node.reach,
            node_listen=node.cluster.address,
            engine_address=target.authority if target else "",
            engine_error=snapshot.error,
            served=stats.served,
            failed=stats.failed,
            fallbacks=stats.fallbacks,
        )

    def problems(self) -> list[Problem]:
        node, cluster = self._node, self._node.cluster
        seeds = Seeds(cluster.strangers(), cluster.silent_seeds(), cluster.rotated())
        corrupt = node.keeper.corrupt_models() if node.keeper is not None else ()
        moving = Moving(
            unreadable=node.keeper.reason if node.keeper is not None else "",
            closed=node.mover.trouble if node.mover is not None else "",
            open_to=node.mover.open_to if node.mover is not None else "",
        )
        return find_problems(node.view(), node.engine.snapshot, seeds, cluster.revoked_by, corrupt, moving)

    def seen_clusters(self) -> list[tuple[str, tuple[str, ...]]]:
        return list(self._node.cluster.seen_clusters())

    def statistics(self) -> dict[str, Any]:
        node, process = self._node, psutil.Process()
        with process.oneshot():
            memory, threads = process.memory_info().rss, process.num_threads()
        return {
            "requests": node.dispatcher.stats.render(),
            "cache": node.dispatcher.cache.render(),
            "gossip": node.cluster.counters(),
            "replication": {"given_bytes": node.keeper.giver.given if node.keeper else 0},
            "engine": {
                "load": node.load.in_flight,
                "slots": node.load.slots,
                "held_loads": node.held_loads,
            },
            "process": {
                "memory_bytes": memory,
                "threads": threads,
                "tasks": len(asyncio.all_tasks()),
                "uptime_s": round(node.uptime_s, 1),
            },
        }

    def metrics(self) -> bytes:
        """The same, and the states of members and what is wrong, as Prometheus reads it."""
        node = self._node
        states = (member.state for member in node.view().nodes.values())
        return exposition(self.statistics(), node.dispatcher.stats.latencies, states, self.problems())

    # Who is in its cluster

    async def invite(self, lifetime_s: float) -> dict[str, Any]:
        return await self._node.cluster.invite(lifetime_s)

    async def join(self, code: str, *, replace_cluster: bool) -> dict[str, Any]:
        """Enter the cluster that ``code`` invites into. Raises `BadRequest` for one that would be left."""
        node = self._node
        has_others = any(True for _ in node.view().peers())
        if has_others and not replace_cluster and not node.cluster.is_own(code):
            raise BadRequest(
                f"this node belongs to cluster {node.view().cluster_id} already, with other members; "
                "leave it first (ollama-dist leave), or replace it (ollama-dist join --replace CODE; "
                '"replace": true in the body)'
            )
        joined = await node.cluster.join(code, replace=replace_cluster)
        await node.moved()
        return joined

    async def leave(self) -> dict[str, Any]:
        """Leave the cluster; this node goes on in one of its own."""
        left = await self._node.cluster.leave()
        await self._node.moved()
        return {**left, "left": True}

    async def rotate(self, overlap_s: float) -> dict[str, Any]:
        """Replace the cluster's key, here and on every member."""
        return await self._node.cluster.rotate(overlap_s)

    async def revoke(self, name: str) -> dict[str, Any]:
        """Take a node out of the cluster, whether it likes it or not. Raises `NodeNotFound`."""
        node = self._node
        member = node.view().find(name)
        if member.id == node.options.id:
            raise BadRequest("a node does not revoke itself; take it out with `ollama-dist leave`")
        revoked = await node.cluster.revoke(member.id, node.options.name)
        node.look_at_members()
        return {"revoked": member.name, **revoked}

    async def forget(self, name: str) -> dict[str, Any]:
        """List a dead node no more. Raises `NodeNotFound`, and `StillThere` for one that is not dead."""
        member = self._node.view().find(name)
        if member.state not in (MemberState.DEAD, MemberState.LEFT):
            raise StillThere(
                f"{member.name} is {member.state}: only a node that is dead or has left is forgotten"
            )
        self._node.cluster.forget(member.id)
        self._node.look_at_members()
        return {"forgotten": member.name}

    # Its models

    async def scrub_at(self, name: str | None, *, begin: bool) -> Any:
        """How far the node of that name is with reading its models again; ``begin``: with all of them, now.

        None: this one. Raises what it says, and `NoCandidate`.
        """
        node = self._node
        member = node.view().find(name) if name is not None else node.view().me
        if member.id == node.options.id:
            return node.scrub(begin=begin)
        return await node.moves.ask_member(
            member, "POST" if begin else "GET", SCRUB_PATH, {} if begin else None
        )
