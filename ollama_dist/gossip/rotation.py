"""Replacing the cluster's key while the cluster runs: from member to member, and what each does meanwhile.

The new key is handed over the members' own listeners, so only to who proves to be a member by a key that is
valid there. Whoever has it accepts both keys until every living member has announced the new one and a while
has passed. Revoking is the same with nobody but the members that stay being accepted by the old key.
"""

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Protocol

import grpc
import orjson
import structlog

from ollama_dist.core.errors import BadRequest, ConfigError, DistError, Unauthorized
from ollama_dist.core.ids import NodeId
from ollama_dist.core.view import MemberState
from ollama_dist.gossip.calls import MAX_MESSAGE, CallFailed
from ollama_dist.gossip.credentials import Credentials, Pass
from ollama_dist.gossip.identity import Identity
from ollama_dist.gossip.keyring import OVERLAP_MAX_S, Keyring, KeyringFile
from ollama_dist.gossip.keys import ClusterKey
from ollama_dist.gossip.protocol.effects import MemberView
from ollama_dist.gossip.server import certificate_of
from ollama_dist.runtime.tasks import Tasks

log = structlog.get_logger()

SERVICE: Final = "ollama_dist.rpc.v1.Keys"
OFFER: Final = "Offer"

STATE_KEY: Final = "key"
"""Under this key of its slow state a member tells which key it has, once one was replaced."""

SETTLE_S: Final = 5.0
"""The least time between all having the new key and the end of the old: by then everybody knows it of all."""

REVOKING_S: Final = 60.0
"""How long members that stay may be in coming over to the new key when somebody is revoked."""

STEP_S: Final = 0.2
PATIENCE_S: Final = 3.0
"""For one member to take a key."""

RETRY_S: Final = 1.0
LIVING: Final = (MemberState.ALIVE, MemberState.SUSPECT)


class RotationUnderWay(DistError):
    """The key was replaced just now, and the one before is still accepted; nothing was changed."""

    status = 409
    code = "rotation_under_way"


class Members(Protocol):
    """What is needed of membership."""

    def members(self) -> tuple[MemberView, ...]: ...

    def set_state(self, key: str, value: bytes | None) -> None: ...

    def renew(self) -> None: ...

    def renew_to(self, member: NodeId) -> None: ...

    def expel(self, member: NodeId, reason: str) -> None: ...

    async def ask(self, member: MemberView, method: str, payload: bytes, timeout: float) -> bytes: ...


class Rotation:
    """The keys of one node in one cluster. ``changed`` is called when another key is the current one."""

    def __init__(
        self, folder: Path, file: KeyringFile, ring: Keyring, changed: Callable[[Keyring, Identity], None]
    ) -> None:
        self._folder = folder
        self._file = file
        self._changed = changed
        self.ring = ring
        self._mark = ring.current.mark.encode()
        self.credentials = Credentials(*self._identities(ring), ring.only)
        self._members: Members | None = None
        self._current: set[NodeId] = set()
        """Members that announced the current key."""
        self._tried: dict[NodeId, float] = {}
        self._is_leading = False
        self._began = self._settled = float("inf")
        self._tasks = Tasks()
        self._keeper = Tasks()

    # Life

    def start(self, members: Members) -> None:
        """Take part. A rotation that was under way when the node stopped goes on."""
        self._members = members
        self._announce()
        if self.ring.previous is not None:
            self._keep_on()

    async def stop(self) -> None:
        self._members = None
        await self._keeper.stop()
        await self._tasks.stop()

    # What the node asks

    @property
    def is_under_way(self) -> bool:
        return self.ring.previous is not None

    def pass_to(self, member: NodeId) -> Pass:
        """How to come to ``member`` with a request: by the newest key that it is known to have."""
        return self.credentials.pass_of(newest=member in self._current)

    async def rotate(self, overlap_s: float) -> dict[str, Any]:
        """Replace the key; the one before is accepted for ``overlap_s`` after all have the new one."""
        if self.is_under_way:
            raise RotationUnderWay(
                f"the key of epoch {self.ring.current.epoch} is still being handed around; "
                f"the one before is accepted for {self.ring.left_s():.0f} s more at most"
            )
        key = self.ring.current.successor()
        ring = self.ring.with_successor(key, lasts_s=OVERLAP_MAX_S, grace_s=overlap_s)
        told = await self._hand_out(ring, self._others())
        self._take(ring, leading=True)
        until = datetime.fromtimestamp(ring.until, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return {"epoch": key.epoch, "members": len(told) + 1, "until": until}

    async def revoke(self, node: NodeId, by: str) -> dict[str, Any]:
        """Replace the key for all that live but ``node``; the one before is accepted from them alone."""
        staying = [view for view in self._others() if view.id != node]
        leaving = next((view for view in self._others() if view.id == node), None)
        key = self.ring.current.successor()
        only = frozenset([self.credentials.id, *(view.id for view in staying)])
        ring = self.ring.with_successor(key, lasts_s=REVOKING_S, only=only, revoked=node, by=by)
        told = await self._hand_out(ring, staying)
        if leaving is not None:
            await self._tell(leaving, by)
        self._take(ring, leading=True)
        return {"epoch": key.epoch, "members": len(told) + 1, "missed": len(staying) - len(told)}

    def look(self) -> None:
        """See which members have announced the current key; to be called whenever they told something."""
        if self.ring.previous is None or self._members is None:
            return
        for view in self._others():
            if view.id not in self._current and view.cold.get(STATE_KEY) == self._mark:
                self._current.add(view.id)
                self._members.renew_to(view.id)

    # Handing out

    async def _hand_out(self, ring: Keyring, to: Iterable[MemberView]) -> list[NodeId]:
        """Give the key to these members; those that took it. The others are tried again, later."""
        offer = _offer(ring)
        views = list(to)
        taken = await asyncio.gather(*(self._give(view, offer) for view in views))
        return [view.id for view, has_taken in zip(views, taken, strict=True) if has_taken]

    async def _give(self, view: MemberView, offer: bytes) -> bool:
        try:
            await self._the_members().ask(view, f"/{SERVICE}/{OFFER}", offer, PATIENCE_S)
        except CallFailed as failure:
            log.warning("key_not_handed_over", member=view.id, error=str(failure))
            return False
        return True

    async def _tell(self, view: MemberView, by: str) -> None:
        """Say it to who is revoked, as a courtesy: it finds out anyway."""
        await self._give(view, orjson.dumps({"revoked_by": by}))

    # Taking

    def handler(self) -> grpc.GenericRpcHandler:
        """The service by which members hand the key on."""

        async def take(payload: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            try:
                sender = self.credentials.admit(certificate_of(context))
                return self._heard(sender, payload)
            except Unauthorized:
                status = grpc.StatusCode.UNAUTHENTICATED
            except (ValueError, ConfigError) as error:
                log.warning("key_not_taken", error=str(error))
                status = grpc.StatusCode.INVALID_ARGUMENT
            await context.abort(status)
            raise AssertionError  # abort raises

        return grpc.method_handlers_generic_handler(
            SERVICE, {OFFER: grpc.unary_unary_rpc_method_handler(take)}
        )

    def _heard(self, sender: NodeId, payload: bytes) -> bytes:
        """Raises `ValueError` or `ConfigError` for what makes no sense."""
        said = orjson.loads(payload) if len(payload) <= MAX_MESSAGE else None
        if not isinstance(said, dict):
            raise ValueError("not an offer of a key")
        if "key" not in said:
            self._was_revoked(str(said.get("revoked_by", ""))[:80] or sender)
            return b"{}"
        key = ClusterKey.parse(str(said["key"]))
        if key.replaces(self.ring.current):
            only = said.get("only")
            among = None if only is None else frozenset(NodeId(str(each)) for each in only)
            lasts_s, grace_s = float(said.get("lasts_s", 0)), float(said.get("grace_s", 0))
            ring = self.ring.with_successor(
                key,
                lasts_s=lasts_s,
                grace_s=grace_s,
                only=among,
                revoked=NodeId(str(said["revoked"])) if said.get("revoked") else None,
                by=str(said.get("by", ""))[:80] or sender,
            )
            self._take(ring, leading=False)
        return orjson.dumps({"mark": self.ring.current.mark})

    def _was_revoked(self, by: str) -> None:
        """This node is no member any more: nobody is asked anything, and people are told why."""
        log.error("revoked", by=by, note="join again with a code: ollama-dist invite there, join CODE here")
        self.ring = replace(self.ring, revoked_by=by)
        self._save()
        members = self._the_members()
        for view in self._others():
            members.expel(view.id, f"this node was revoked by {by}")

    def _take(self, ring: Keyring, *, leading: bool) -> None:
        """From now on both keys are valid, the new one is shown where it is known, and handed on."""
        self.ring = ring
        self._mark = ring.current.mark.encode()
        self._save()
        self.credentials.change(*self._identities(ring), ring.only)
        self._current.clear()
        self._tried.clear()
        self._is_leading = leading
        self._changed(ring, self.credentials.newest)
        log.info("key_replaced", epoch=ring.current.epoch, overlap_s=round(ring.left_s()))
        if self._members is not None:
            self._members.renew()
            if ring.revoked:
                self._members.expel(ring.revoked, f"revoked by {ring.by}")
        self._announce()
        self._keep_on()

    def _identities(self, ring: Keyring) -> tuple[Identity, Identity | None]:
        """By the current key, and by the previous one if there is one: with the very certificate it had."""
        if ring.previous is None:
            return Identity.load(self._folder, ring.current), None
        shown, kept = self._folder / "node.crt", self._folder / "node.previous.crt"
        if not kept.exists() and shown.exists():
            kept.write_bytes(shown.read_bytes())
            kept.chmod(0o600)
        previous = Identity.load(self._folder, ring.previous, kept.name)
        return Identity.load(self._folder, ring.current), previous

    def _save(self) -> None:
        try:
            self._file.save(self.ring)
        except ConfigError as error:  # the others have it: after a restart this one asks for a code
            log.error("key_not_saved", error=str(error))

    def _announce(self) -> None:
        if self._members is not None and self.ring.current.epoch > 1:
            self._members.set_state(STATE_KEY, self._mark)

    # Until everybody has it

    def _keep_on(self) -> None:
        self._began, self._settled = time.monotonic(), float("inf")
        if not len(self._keeper):
            self._keeper.start(self._keep(), name="key rotation")

    async def _keep(self) -> None:
        while self.ring.previous is not None:
            await asyncio.sleep(STEP_S)
            self._step(time.monotonic())

    def _step(self, now: float) -> None:
        """See who has the key by now, give it to who has not, and end the old one when it is time."""
        self.look()
        behind = [view for view in self._others() if view.id not in self._current]
        if self._is_leading or now - self._began > RETRY_S:
            self._offer_again(behind, now)
        self._settled = float("inf") if behind else min(self._settled, now)
        if now - self._settled >= max(SETTLE_S, self.ring.grace_s) or not self.ring.left_s():
            self._end(behind)

    def _offer_again(self, behind: Iterable[MemberView], now: float) -> None:
        only = self.ring.only
        for view in behind:
            is_meant = only is None or view.id in only
            if is_meant and now - self._tried.get(view.id, self._began) >= RETRY_S:
                self._tried[view.id] = now + PATIENCE_S
                self._tasks.start(self._give(view, _offer(self.ring)), name=f"key to {view.id}")

    def _end(self, behind: Iterable[MemberView]) -> None:
        self.ring = self.ring.settled()
        self._save()
        self.credentials.change(self.credentials.newest)
        (self._folder / "node.previous.crt").unlink(missing_ok=True)
        missed = [view.id for view in behind]
        log.info("old_key_ended", epoch=self.ring.current.epoch, without_the_new=missed)
        if self._members is not None:
            self._members.renew()

    # Shared

    def _others(self) -> list[MemberView]:
        views = self._members.members() if self._members is not None else ()
        return [view for view in views if view.state in LIVING and not view.is_self]

    def _the_members(self) -> Members:
        if self._members is None:
            raise ConfigError("this node takes no part in a cluster right now")
        return self._members


def check_overlap(seconds: float) -> float:
    """``seconds`` if an overlap may last so long; raises `BadRequest`."""
    if not 0 <= seconds <= OVERLAP_MAX_S:
        raise BadRequest(f'"overlap_s" must be a number from 0 to {OVERLAP_MAX_S:.0f}')
    return seconds


def _offer(ring: Keyring) -> bytes:
    offer = {
        "key": ring.current.text,
        "lasts_s": ring.left_s(),
        "grace_s": ring.grace_s,
        "only": None if ring.only is None else sorted(ring.only),
        "revoked": ring.revoked,
        "by": ring.by,
    }
    return orjson.dumps(offer)
