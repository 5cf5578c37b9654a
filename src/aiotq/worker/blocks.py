"""Blocks in a worker: which of its deliveries do not start, by their arguments. Without any block they cost nothing."""

from __future__ import annotations

import logging
import random
from collections.abc import Collection, Mapping, Sequence
from typing import Final

from ..control.held_calls import let_go
from ..core.clock import Clock
from ..core.values import value
from ..exceptions import InvalidArguments, MessageError
from ..results import Ledger
from ..results.blocks import SCOPE, Block, block_of
from ..tasks.keys import digest
from ..transport import Broker, Delivery
from .limit_names import LimitNames

logger = logging.getLogger("aiotq.worker")

#: Looks at which what a block held that is gone is let go.
_LET_GO_AGAIN: Final = 3
#: Seconds for which a call is held at most before it asks again: the ledger forgets who waits after three hours.
_LONGEST_HOLD: Final = 9000.0
#: The same where nobody can be woken: at first, and doubled each time.
_FIRST_UNWOKEN_HOLD: Final = 0.5
_LONGEST_UNWOKEN_HOLD: Final = 60.0


@value
class Blocked:
    """Deliveries that are held, the seconds for which, and by which block; and those that are rejected; by leases."""

    waits: Mapping[int | str, float]
    held_by: Mapping[int | str, Block]
    rejected: Collection[int | str]


class Blocks:
    """The blocks that one worker knows of."""

    def __init__(self, ledger: Ledger, broker: Broker, clock: Clock, names: LimitNames) -> None:
        self._ledger = ledger
        self._broker = broker
        self._clock = clock
        self._names = names
        self._revision = -1
        self._by_task: dict[str, list[Block]] = {}
        #: Names of blocks that held something here; and of those among them that are gone, how often what they held is
        #: let go once more: it may be noted only after whoever lifted the block has looked.
        self._held: set[str] = set()
        self._gone: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._by_task)

    def concerned(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Return those whose tasks are blocked, with some arguments or all."""
        return [each for each in deliveries if each.message.task in self._by_task]

    async def look(self) -> None:
        """See which blocks there are.

        Raises:
            OperationalError: that can't be known now.
        """
        if not self._ledger.has_fleet:
            return
        revision = await self._ledger.schedules_revision(SCOPE)
        if revision != self._revision:
            await self._read()
            self._revision = revision
        self._drop_ended()
        for name, times in list(self._gone.items()):
            await let_go(self._ledger, self._broker, name)
            if times > 1:
                self._gone[name] = times - 1
            else:
                self._gone.pop(name, None)

    async def blocked(self, concerned: Sequence[Delivery]) -> Blocked:
        """Return which of `concerned` do not start now; the blocks are looked at again, should one be lifted."""
        await self.look()
        waits: dict[int | str, float] = {}
        held_by: dict[int | str, Block] = {}
        rejected: set[int | str] = set()
        now = self._clock.time()
        for delivery in concerned:
            expires = delivery.message.expires
            if expires is not None and expires <= now:
                continue  # it ends by that
            found = [each for each in self._by_task.get(delivery.message.task, ()) if self._fits(each, delivery)]
            if any(each.action == "reject" for each in found):
                rejected.add(delivery.lease)
            elif found:
                longest = max(found, key=lambda each: each.until)
                held_by[delivery.lease] = longest
                self._held.add(longest.name)
                waits[delivery.lease] = self._wait(longest, delivery, now)
        return Blocked(waits, held_by, rejected)

    def _wait(self, block: Block, delivery: Delivery, now: float) -> float:
        most, expires = _LONGEST_HOLD, delivery.message.expires
        if not self._broker.can_make_due_now:
            most = min(_FIRST_UNWOKEN_HOLD * 2.0 ** min(delivery.returns, 10), _LONGEST_UNWOKEN_HOLD)
        left = max(min(block.until, block.until if expires is None else expires) - now, 0.05)
        return left if left < most else most * random.uniform(0.7, 1.0)

    def _fits(self, block: Block, delivery: Delivery) -> bool:
        if not block.where:
            return True
        message = delivery.message
        try:
            args, kwargs = self._names.arguments(message)
            bound = self._names.task(message.task).bound(args, kwargs)
        except (InvalidArguments, MessageError):  # it fails, and says why
            return False
        return all(
            name in bound and digest(message.task, "where", bound[name]) == digest(message.task, "where", wanted)
            for name, wanted in block.where.items()
        )

    async def _read(self) -> None:
        found = [each for row in await self._ledger.schedules(SCOPE) if (each := block_of(row)) is not None]
        before = {each.id for blocks in self._by_task.values() for each in blocks}
        self._by_task = {}
        for each in found:
            self._by_task.setdefault(each.task, []).append(each)
            if each.id not in before and each.until > self._clock.time():
                where = ", ".join(f"{name}={wanted!r}" for name, wanted in each.where.items()) or "all calls"
                logger.warning("calls of %s are blocked (%s, %s): %s", each.task, where, each.action, each.reason)
        gone = self._held - {each.name for each in found}
        self._held -= gone
        self._gone.update(dict.fromkeys(gone, _LET_GO_AGAIN))

    def _drop_ended(self) -> None:
        now = self._clock.time()
        if any(each.until <= now for blocks in self._by_task.values() for each in blocks):
            left = {task: [each for each in blocks if each.until > now] for task, blocks in self._by_task.items()}
            self._by_task = {task: blocks for task, blocks in left.items() if blocks}
