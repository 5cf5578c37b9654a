"""Which of the deliveries that were read may start now: the limits of their tasks, and the keys of their calls (P4)."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

from ..core.values import value
from ..results.keys import HEADER
from ..tasks.options import RunsIn
from ..tasks.task import Task
from ..transport import Delivery
from .blocks import Blocks
from .concurrency_limits import ConcurrencyLimits
from .keys import Keys
from .rate_limits import Limiter
from .run import Slots

T = TypeVar("T")


class UntilDone(Protocol):
    """Asks broker or ledger until they answer."""

    async def __call__(self, ask: Callable[[], Awaitable[T]], /) -> T: ...


@value
class Allowed:
    """Deliveries that were `taken`, and of which some are `changed`: they run with other arguments; by their leases.

    `waits`: the seconds for which some wait. `unable`: those that have no slot. `rejected`: those that end now.
    """

    taken: Sequence[Delivery]
    changed: Mapping[int | str, Delivery]
    waits: Mapping[int | str, float]
    unable: set[int | str]
    rejected: Sequence[Delivery]


def _keyed(deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
    return [each for each in deliveries if (headers := each.message.headers) is not None and HEADER in headers]


class Starting:
    """Says which deliveries may start; asks the ledger only for those that have limits or keys."""

    def __init__(
        self,
        tasks: Mapping[str, Task[..., Any]],
        slots: Mapping[RunsIn, Slots],
        limiter: Limiter,
        permits: ConcurrencyLimits,
        keys: Keys,
        blocks: Blocks,
    ) -> None:
        self._blocks = blocks
        self._tasks = tasks
        self._slots = slots
        self.limiter = limiter
        self._permits = permits
        self._keys = keys

    async def allowed(self, taken: Sequence[Delivery], revoked: Sequence[Delivery], until_done: UntilDone) -> Allowed:
        """Return which of `taken` may start; the keys of those that are `revoked` are free."""
        unable: set[int | str] = set()
        waits: dict[int | str, float] = {}
        keyed = _keyed(taken)
        if keyed:
            waits.update(await until_done(functools.partial(self._keys.waits, keyed)))
        rejected: Sequence[Delivery] = ()
        if self._blocks and (concerned := self._blocks.concerned(taken)):
            taken, rejected = await self._blocked(taken, concerned, waits, until_done)
        ready = [each for each in taken if each.lease not in waits] if waits else taken
        if able := self._able(self.limiter.limited(ready), unable):
            waits.update(await until_done(functools.partial(self.limiter.waits, able)))
        if self._permits.are_needed or keyed:
            ready = [each for each in ready if not waits.get(each.lease)]
            if able := self._able(self._permits.limited(ready), unable):
                waits.update(await until_done(functools.partial(self._permits.waits, able)))
        changed: Mapping[int | str, Delivery] = {}
        begun = (
            [each for each in _keyed(taken) if not waits.get(each.lease) and each.lease not in unable] if keyed else ()
        )
        ended = _keyed([*revoked, *rejected]) if revoked or rejected else ()
        if begun or ended:
            changed = await until_done(functools.partial(self._keys.begun, [*begun, *ended]))
            taken = [changed.get(each.lease, each) for each in taken]
        return Allowed(taken, changed, waits, unable, rejected)

    async def _blocked(
        self,
        taken: Sequence[Delivery],
        concerned: Sequence[Delivery],
        waits: dict[int | str, float],
        until_done: UntilDone,
    ) -> tuple[Sequence[Delivery], Sequence[Delivery]]:
        """Add to `waits` who is held; return those of `taken` that are not rejected, and those that are."""
        blocked = await until_done(functools.partial(self._blocks.blocked, concerned))
        for delivery in concerned:
            if (block := blocked.held_by.get(delivery.lease)) is not None:
                self._permits.held(delivery, block.name)
        waits.update(blocked.waits)
        rejected = [each for each in taken if each.lease in blocked.rejected]
        return [each for each in taken if each.lease not in blocked.rejected], rejected

    def _able(self, limited: Sequence[Delivery], unable: set[int | str]) -> Sequence[Delivery]:
        """Return those that have a slot now; the others are added to `unable`."""
        for each in limited:
            task = self._tasks.get(each.message.task)
            if task is not None and self._slots[task.runs_in].free <= 0:
                unable.add(each.lease)
        return [each for each in limited if each.lease not in unable]
