"""Placement at work: now and then this node looks what it should fetch or give up by itself, and does it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, Final

import structlog

from ollama_dist.core.errors import DistError
from ollama_dist.core.ids import NodeId
from ollama_dist.core.modes import Mode
from ollama_dist.core.names import ModelKey, parse_model_name
from ollama_dist.core.view import ClusterView
from ollama_dist.node.setting_values import Placement
from ollama_dist.node.shared import Shared
from ollama_dist.replication.moves.driving import Driver
from ollama_dist.replication.moves.operations import Action, Kind, Operation, OperationId, State, Step
from ollama_dist.replication.moves.placement import Picture, Wish, plan
from ollama_dist.replication.moves.shelf import Shelf

log = structlog.get_logger()

PERIOD_S: Final = 30.0
SETTLE_S: Final = 60.0
"""After a start nothing is done for so long: first the others are to be seen."""

TELL_S: Final = 2.0
"""Between saying what is about to be done and doing it: who says the same thinks again."""

BACK_OFF_S: Final = 900.0
"""What failed is left alone for so long."""

_FILE: Final = "placed"


class Placer:
    """`run` is its life; ``mode`` and ``view`` are the node's."""

    def __init__(
        self,
        wanted: Placement,
        reserve: int,
        shared: Shared,
        driver: Driver,
        shelf: Shelf,
        view: Callable[[], ClusterView],
        mode: Callable[[], Mode],
        rng: Random,
    ) -> None:
        self.placed: set[ModelKey] = set()
        """The copies that placement has put here."""
        self._wanted = wanted
        self._reserve = reserve
        self._shared = shared
        self._driver = driver
        self._shelf = shelf
        self._view = view
        self._mode = mode
        self._rng = rng
        self._left_alone: dict[ModelKey, float] = {}

    def load(self, documents: dict[str, Any]) -> None:
        rows = documents.get(_FILE, {})
        self.placed = {ModelKey(key) for key in rows.get("models", [])} if isinstance(rows, dict) else set()

    async def run(self) -> None:
        await asyncio.sleep(SETTLE_S)
        while True:
            self._shared.tell_demand()
            if self._wanted is not Placement.OFF and self._mode() is Mode.DISTRIBUTED:
                await self.look()
            await asyncio.sleep(PERIOD_S * self._rng.uniform(0.8, 1.2))

    async def look(self) -> None:
        """Do the most urgent thing, if there is one, to its end."""
        wish = self._next()
        if wish is None:
            return
        everything = (*wish.first, wish)
        for each in everything:
            self._shared.intend(each.model, each.action)
        try:
            await asyncio.sleep(TELL_S)
            if self._next() == wish:
                await self._do(wish)
        finally:
            for each in everything:
                self._shared.intend(each.model, None)

    def picture(self, view: ClusterView) -> Picture:
        """What a decision at ``view`` is made from."""
        return Picture(
            view,
            time.time(),
            self._shared.policies,
            self._shared.demand(),
            self._shared.intents,
            frozenset(self.placed) if view.self_id == self._view().self_id else frozenset(),
            self._reserve,
            self._wanted is Placement.DEMAND,
        )

    def _next(self) -> Wish | None:
        now = time.monotonic()
        wishes = plan(self.picture(self._view()))
        return next((wish for wish in wishes if self._left_alone.get(wish.model, 0.0) <= now), None)

    async def _do(self, wish: Wish) -> None:
        me = self._view().self_id
        steps = steps_of(wish, self._view(), me)
        said = {"model": wish.model, "action": wish.action, "node": me}
        template = Operation(OperationId(""), Kind.REPLICATE, me, 0.0, "placement", said, steps)
        try:
            begun = await self._driver.begin(template)
        except DistError as error:
            log.warning("placement_not_begun", model=wish.model, error=str(error))
            return
        last = begun
        async for each in self._driver.watch(begun.id):
            last = each
        if last.state is not State.SUCCEEDED:
            self._left_alone[wish.model] = time.monotonic() + BACK_OFF_S
            return
        for done in (*wish.first, wish):
            if done.action is Action.COPY:
                self.placed.add(done.model)
            else:
                self.placed.discard(done.model)
        try:
            await self._shelf.save(_FILE, {"models": sorted(self.placed)})
        except OSError as error:
            log.warning("placed_not_kept", error=str(error))


def steps_of(wish: Wish, view: ClusterView, node: NodeId, before: int = 0) -> tuple[Step, ...]:
    """A wish of ``node`` as the steps that do it, where ``before`` others stand before them."""
    steps = [_step_of(each, view, node) for each in (*wish.first, wish)]
    after = tuple(range(before, before + len(wish.first)))
    return (*steps[:-1], replace(steps[-1], after=after))


def _step_of(wish: Wish, view: ClusterView, node: NodeId) -> Step:
    name = parse_model_name(view.nodes[wish.source or node].models[wish.model].name)
    if wish.action is Action.COPY:
        return Step(Action.COPY, name, wish.reason, wish.source, node, wish.content, wish.size)
    return Step(Action.DELETE, name, wish.reason, node, None, wish.content)
