"""Commits what finished, in groups: what ends during one commit is in the next (P3)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from ..commit import COMMITTED, Committed, Committer, Finish
from ..core.aio import Batcher, back_off
from ..core.logs import WarnOnce
from ..core.values import replace, sendable, shown
from ..exceptions import OperationalError, Refused
from ..results import NO_JOIN_CHANGES, JoinChanges, Record
from ..transport import ACK, MAX_DETAIL, Delivery, HandBack
from ..transport.refusals import apart

logger = logging.getLogger("aiotq.worker")

MAX_GROUP: Final = 500
MAX_GROUP_WEIGHT: Final = 8 * 1024 * 1024
_BASE_WEIGHT: Final = 4 * 1024
#: Finishes that may wait before runs have to; they hold memory and leases.
MAX_WAITING: Final = 2000
_FIRST_PAUSE: Final = 0.02
_LONGEST_PAUSE: Final = 2.0
#: Seconds before what is refused whatever is written is tried once more.
_ANOTHER_TRY: Final = 60.0


#: A finish that was refused, of what, and why -> what is written in its place, each if the one before is refused too.
Instead = Callable[[Finish, Delivery, str], Iterator[Finish]]


def _nothing(finish: Finish, delivery: Delivery, why: str) -> Iterator[Finish]:
    return iter(())


#: Tries after which an error that nobody expects is one of what is committed: one that passes is no task's outcome.
_DEFECTS: Final = 3


class Completer:
    """Writes finishes; `on_settled` is told each delivery that is no longer ours, `on_group` how a group was written.

    What can't be reached now is asked again until it answers. What is refused for good is taken out of its group, so
    that the others are committed, and what `instead` says is written in its place. If even that is refused, the
    delivery stays ours: it is tried once more now and then, and handed back when the worker stops.
    """

    def __init__(
        self,
        committer: Committer,
        on_settled: Callable[[Delivery], None],
        on_group: Callable[[int, float], None] | None = None,
    ) -> None:
        self._committer = committer
        self._on_settled = on_settled
        self._on_group = on_group
        self.instead: Instead = _nothing
        self._finishes: Batcher[Finish] = Batcher(max_items=MAX_GROUP, max_weight=MAX_GROUP_WEIGHT, weigh=_weigh)
        self._room = asyncio.Event()
        self._room.set()
        self._acknowledging: dict[int | str, asyncio.Future[bool]] = {}
        self._complaint = WarnOnce(logger, "committing finished tasks failed")
        self._committing = 0
        #: Of a finish without a delivery, the delivery that was settled before; by what the finish is.
        self._settled_before: dict[int, Delivery] = {}
        #: Leases of what is refused whatever is written.
        self._stuck: set[int | str] = set()
        self.completed = 0

    def add(self, finish: Finish, settled: Delivery | None = None) -> None:
        """Put `finish` into the next group; `settled` is its delivery if that was acknowledged before it ran."""
        if settled is not None:
            self._settled_before[id(finish)] = settled
        self._finishes.add(finish)
        if len(self._finishes.waiting) >= MAX_WAITING:
            self._room.clear()

    def committed_elsewhere(self, finish: Finish) -> None:
        """Note that `finish` was committed in a transaction of its task's."""
        self._answered(finish, COMMITTED)

    async def room(self) -> None:
        """Return when there is room for another finish."""
        await self._room.wait()

    @property
    def uncommitted(self) -> int:
        """How many finishes wait to be committed, are being so, or are refused whatever is tried."""
        return len(self._finishes.waiting) + self._committing + len(self._stuck)

    async def drained(self) -> None:
        """Return when all is committed that can be."""
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
            answers = await apart(group, self._write)
            for finish, answer in zip(group, answers, strict=True):
                if isinstance(answer, Refused):
                    await self._replace(finish, answer)
            self._committing = 0

    async def acknowledge(self, delivery: Delivery) -> bool:
        """Acknowledge `delivery` before it runs, with the next group; False if its lease was lost."""
        waiting: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._acknowledging[delivery.lease] = waiting
        self.add(Finish(delivery, ACK))
        return await waiting

    async def _write(self, group: Sequence[Finish]) -> Sequence[object]:
        """Commit `group` and act on the answers; raises as `_commit`."""
        answers = await self._commit(group)
        for finish, answer in zip(group, answers, strict=True):
            if not isinstance(answer, Refused):
                self._answered(finish, answer)
        return answers

    def _answered(self, finish: Finish, answer: object) -> None:
        if finish.delivery is None:
            self._settled_before.pop(id(finish), None)
            return
        is_committed = isinstance(answer, Committed)
        self._stuck.discard(finish.delivery.lease)
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

    async def _replace(self, finish: Finish, refused: Refused) -> None:
        """Write what is to stand in place of `finish`, which was refused on its own."""
        settled = self._settled_before.pop(id(finish), None)
        delivery = finish.delivery or settled
        if delivery is None:
            logger.error("%s was refused and is left out: %s", _shown(finish), refused)
            return
        message, why = delivery.message, sendable(str(refused), MAX_DETAIL)
        if delivery.lease not in self._stuck:
            logger.error("what came of task %s[%s] is refused: %s", message.task, message.id, why)
        last = finish
        for each in self.instead(finish, delivery, why):
            last = replace(each, delivery=None) if settled is not None else each
            (answer,) = await apart([last], self._write)
            if not isinstance(answer, Refused):
                return
        if settled is None:
            self._try_later(delivery, last)

    def _try_later(self, delivery: Delivery, finish: Finish) -> None:
        """Keep `delivery`, which can't even be given up or handed back later, and come back to it."""
        delay = _ANOTHER_TRY
        if isinstance(finish.settlement, HandBack):
            delay, finish = finish.settlement.delay or _ANOTHER_TRY, Finish(delivery, HandBack())
        else:
            self._stuck.add(delivery.lease)
        asyncio.get_running_loop().call_later(delay, self.add, finish)

    async def _commit(self, group: Sequence[Finish]) -> Sequence[object]:
        """Commit, again and again while the store can't be reached: leases are renewed meanwhile (P1).

        Raises:
            Refused: one of them can't be committed, or a defect keeps it from being so.
        """
        pause, defects = _FIRST_PAUSE, 0
        while True:
            began = time.perf_counter()
            try:
                answers = await self._committer.commit(group)
            except Refused:
                raise
            except OperationalError as exc:
                self._complaint.make(exc)
            except Exception as exc:  # a defect must not end the loop that everything depends on
                defects += 1
                if len(group) > 1 or defects == _DEFECTS:
                    raise Refused(f"a defect in aiotq: {type(exc).__name__}: {shown(exc)}", "defect") from exc
                logger.exception("committing %d finished tasks failed, trying again", len(group))
            else:
                self._complaint.withdraw()
                if self._on_group is not None:
                    self._on_group(len(group), time.perf_counter() - began)
                return answers
            pause = await back_off(pause, _LONGEST_PAUSE)


def _shown(finish: Finish) -> str:
    """Return what a finish without a delivery is about."""
    joins = [each.join_id for each in finish.joining.arrivals]
    return f"what a worker wrote for {joins[0]}" if joins else "a finish"


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
