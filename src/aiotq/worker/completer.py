"""Commits what finished, in groups: what ends during one commit is in the next (P3)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from ..commit import Committed, Committer, Finish
from ..core.aio import Batcher
from ..core.logs import WarnOnce
from ..exceptions import OperationalError
from ..results import NO_JOIN_CHANGES, JoinChanges, Record
from ..transport import ACK, Delivery, HandBack

logger = logging.getLogger("aiotq.worker")

MAX_GROUP: Final = 500
MAX_GROUP_WEIGHT: Final = 8 * 1024 * 1024
_BASE_WEIGHT: Final = 4 * 1024
#: Finishes that may wait before runs have to; they hold memory and leases.
MAX_WAITING: Final = 2000
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 2.0


class Completer:
    """Writes finishes; `on_settled` is told each delivery that is no longer ours."""

    def __init__(self, committer: Committer, on_settled: Callable[[Delivery], None]) -> None:
        self._committer = committer
        self._on_settled = on_settled
        self._finishes: Batcher[Finish] = Batcher(max_items=MAX_GROUP, max_weight=MAX_GROUP_WEIGHT, weigh=_weigh)
        self._room = asyncio.Event()
        self._room.set()
        self._acknowledging: dict[int | str, asyncio.Future[bool]] = {}
        self._complaint = WarnOnce(logger, "committing finished tasks failed")
        self._committing = 0
        self.completed = 0

    def add(self, finish: Finish) -> None:
        """Put `finish` into the next group."""
        self._finishes.add(finish)
        if len(self._finishes.waiting) >= MAX_WAITING:
            self._room.clear()

    async def room(self) -> None:
        """Return when there is room for another finish."""
        await self._room.wait()

    @property
    def uncommitted(self) -> int:
        """How many finishes wait to be committed, or are being so."""
        return len(self._finishes.waiting) + self._committing

    async def drained(self) -> None:
        """Return when all is committed."""
        await self._finishes.drained()

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            await self._finishes.some()
            if len(self._finishes.waiting) > 1:
                # The next read goes out before the commit: while the server writes that, there is something to run.
                await asyncio.sleep(0)
            group = await self._finishes.take()
            self._room.set()
            self._committing = len(group)
            answers = await self._commit(group)
            self._committing = 0
            for finish, answer in zip(group, answers, strict=True):
                if finish.delivery is None:
                    continue
                is_committed = isinstance(answer, Committed)
                waiting = self._acknowledging.pop(finish.delivery.lease, None)
                if waiting is not None:
                    if not waiting.done():
                        waiting.set_result(is_committed)
                elif isinstance(finish.settlement, HandBack):
                    pass
                elif is_committed:
                    self.completed += 1
                else:
                    message = finish.delivery.message
                    logger.warning(
                        "Task %s[%s] ended too late: its lease was lost, and its outcome is discarded",
                        message.task,
                        message.id,
                    )
                self._on_settled(finish.delivery)

    async def acknowledge(self, delivery: Delivery) -> bool:
        """Acknowledge `delivery` before it runs, with the next group; False if its lease was lost."""
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._acknowledging[delivery.lease] = waiting
        self.add(Finish(delivery, ACK))
        return await waiting

    async def _commit(self, group: Sequence[Finish]) -> Sequence[object]:
        """Commit, again and again while the store can't be reached: leases are renewed meanwhile (P1)."""
        pause = _FIRST_PAUSE
        while True:
            try:
                answers = await self._committer.commit(group)
            except OperationalError as exc:
                self._complaint.make(exc)
            except Exception:  # a defect must not end the loop that everything depends on
                logger.exception("committing %d finished tasks failed, trying again", len(group))
            else:
                self._complaint.withdraw()
                return answers
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE)


def _weigh(finish: Finish) -> int:
    weight = _BASE_WEIGHT
    if finish.record is not None:
        weight += len(finish.record.body)
    for envelope in finish.envelopes:
        weight += len(envelope.message.body)
    for record in finish.further:
        weight += len(record.body)
    if finish.joining is not NO_JOIN_CHANGES:
        weight += _weigh_joining(finish.joining, finish.record)
    return weight


def _weigh_joining(joining: JoinChanges, record: Record | None) -> int:
    weight = 0
    for join in joining.opened:
        weight += sum(len(envelope.message.body) for envelope in join.then)
    for arrival in joining.arrivals:
        if arrival.record is not None and arrival.record is not record:
            weight += len(arrival.record.body)
    return weight
