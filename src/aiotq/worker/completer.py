"""Commits what finished, in groups: what ends during one commit is in the next (P3)."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence
from typing import Final

from .._aio import Gathering
from ..commit import Committed, Committer, Finish
from ..exceptions import OperationalError
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
        self._finishes: Gathering[Finish] = Gathering(max_items=MAX_GROUP, max_weight=MAX_GROUP_WEIGHT, weigh=_weigh)
        self._room = asyncio.Event()
        self._room.set()
        self.completed = 0

    def add(self, finish: Finish) -> None:
        """Put `finish` into the next group."""
        self._finishes.add(finish)
        if len(self._finishes.waiting) >= MAX_WAITING:
            self._room.clear()

    async def room(self) -> None:
        """Return when there is room for another finish."""
        await self._room.wait()

    async def drained(self) -> None:
        """Return when all is committed."""
        await self._finishes.drained()

    async def run(self) -> None:
        """Commit until cancelled."""
        while True:
            group = await self._finishes.take()
            self._room.set()
            answers = await self._commit(group)
            for finish, answer in zip(group, answers, strict=True):
                if finish.delivery is None:
                    continue
                if isinstance(answer, Committed):
                    self.completed += not isinstance(finish.settlement, HandBack)
                elif not isinstance(finish.settlement, HandBack):
                    message = finish.delivery.message
                    logger.warning(
                        "Task %s[%s] was finished here too late: its lease was lost, and what it did is not kept",
                        message.task,
                        message.id,
                    )
                self._on_settled(finish.delivery)

    async def acknowledge(self, delivery: Delivery) -> bool:
        """Acknowledge `delivery` before it runs; False if its lease was lost."""
        (answer,) = await self._commit([Finish(delivery, ACK)])
        self._on_settled(delivery)
        return isinstance(answer, Committed)

    async def _commit(self, group: Sequence[Finish]) -> Sequence[object]:
        """Commit, again and again while the store can't be reached: leases are renewed meanwhile (P1)."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await self._committer.commit(group)
            except OperationalError as exc:
                logger.warning("committing %d finished tasks failed, trying again: %s", len(group), exc)
            except Exception:  # a defect must not end the loop that everything depends on
                logger.exception("committing %d finished tasks failed, trying again", len(group))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 2, _LONGEST_PAUSE)


def _weigh(finish: Finish) -> int:
    weight = _BASE_WEIGHT
    if finish.record is not None:
        weight += len(finish.record.body)
    for envelope in finish.envelopes:
        weight += len(envelope.message.body)
    return weight
