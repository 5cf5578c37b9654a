"""The agenda of a scheduler: all entries in the order in which they are looked at next, and what is done then.

It can be wrong about nothing (P9): each write names the mark of the row that it was decided from, and what is refused
is read again.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from ..calling.connection import Connection
from ..calling.core import AppCore
from ..commit import COMMITTED, Committer, Finish
from ..core.values import replace, value
from ..exceptions import AioTQError, OperationalError, ScheduleError
from ..results.ledger import ScheduleChange, ScheduleRow
from ..states import READY_STATES
from .declared import scope_of
from .entries import Entry
from .occurrences import Decision, Occurrence, Skipped, decide
from .reconcile import reconciled
from .rows import Kept, State, body_of, new_mark, read_row
from .schedule_counts import ScheduleCounts
from .schedules import zone_of
from .sending import Sending

logger = logging.getLogger("aiotq.beat")

#: Entries that are decided before the loop has a turn, and that are committed together.
_AT_A_TIME: Final = 100
_TOGETHER: Final = 250
#: Seconds until an entry that failed is tried again, and until one that waits for its last run is looked at again.
_AFTER_FAILURE: Final = 60.0
_WAITING: Final = 1.0
#: A clock that is set back by more than this has all entries looked at.
_SET_BACK: Final = 60.0
#: Attempts to write what code says, while others write too.
_ATTEMPTS: Final = 5


@value(eq=False)
class _Item:
    """An entry on the agenda, as its row was seen."""

    entry: Entry
    definition: bytes
    mark: str
    state: State
    look: float | None = None  #: when it is decided next; None: never


@value(eq=False)
class _Plan:
    """What is done for one entry in this round: its next state, what is sent, and what is not."""

    item: _Item
    state: State
    send: Sequence[Occurrence]
    skipped: Sequence[Skipped]
    look: float | None


class Agenda:
    """All entries of an app, read from the ledger and from code."""

    def __init__(
        self,
        core: AppCore,
        connection: Connection,
        committer: Committer,
        declared: Mapping[str, Entry],
        counts: ScheduleCounts | None = None,
    ) -> None:
        self.counts = counts if counts is not None else ScheduleCounts()
        self._core = core
        self._connection = connection
        self._ledger = connection.ledger
        self._scope = scope_of(core)
        self._declared = declared
        keeps_plans = connection.keeps_results and connection.ledger.has_joins
        self._sending = Sending(core, committer, keeps_plans=keeps_plans)
        self._items: dict[str, _Item] = {}
        self._heap: list[tuple[float, int, _Item]] = []
        self._numbers = itertools.count()
        self._complaints: dict[str, str] = {}
        self._last_now = 0.0

    def __len__(self) -> int:
        return len(self._items)

    @property
    def next_look(self) -> float | None:
        """When something is to be done next (wall time); None: not before something changes."""
        while self._heap and self._items.get(self._heap[0][2].entry.name) is not self._heap[0][2]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    async def reconcile(self, now: float) -> None:
        """Write into the ledger what code says: what was added, changed, and is gone."""
        for _ in range(_ATTEMPTS):
            rows = await self._ledger.schedules(self._scope)
            changes = reconciled(self._core, self._scope, self._declared, rows, _wall(now))
            if not changes or all(await self._ledger.change_schedules(changes)):
                return
        raise OperationalError("the periodic tasks of code can't be written: others keep changing them")

    async def load(self, now: float) -> None:
        """Read all entries; those whose rows are as they were seen keep their places."""
        rows = await self._ledger.schedules(self._scope)
        for name in self._items.keys() - {row.name for row in rows}:
            del self._items[name]
        changed = [
            row for row in rows if row.unsent or (item := self._items.get(row.name)) is None or item.mark != row.mark
        ]
        await self._take(changed, now)

    async def step(self, now: float) -> None:
        """Send all that is due at `now`, and write down what is not.

        Raises:
            OperationalError: broker or ledger did not answer; nothing is lost, and the next step goes on.
        """
        if now < self._last_now - _SET_BACK:
            logger.warning("the clock was set back by %.0f s: looking at all periodic tasks", self._last_now - now)
            for item in [*self._items.values()]:
                self._put(replace(item, look=now))
        self._last_now = now
        while due := self._pop_due(now):
            try:
                await self._handle(due, now)
            except BaseException:
                for item in due:
                    if self._items.get(item.entry.name) is item:
                        self._put(item)
                raise

    def _pop_due(self, now: float) -> list[_Item]:
        due: list[_Item] = []
        while len(due) < _TOGETHER and (look := self.next_look) is not None and look <= now:
            due.append(heapq.heappop(self._heap)[2])
        return due

    async def _handle(self, due: Sequence[_Item], now: float) -> None:
        waiting = await self._not_ended(due, now)
        plans: list[_Plan] = []
        for number, item in enumerate(due, 1):
            try:
                plan = self._plan(item, now, is_waiting=item.entry.name in waiting)
            except ScheduleError as exc:
                self._complain(item, exc)
                self._put(replace(item, look=now + _AFTER_FAILURE))
            else:
                if plan.send or plan.skipped or plan.state != item.state:
                    plans.append(plan)
                else:
                    self._put(replace(item, look=plan.look))
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)
        if plans:
            await self._commit(plans, now)

    def _plan(self, item: _Item, now: float, *, is_waiting: bool) -> _Plan:
        entry, state = item.entry, item.state
        if state.is_paused:
            return _Plan(item, state, (), (), None)
        if is_waiting and entry.overlap == "queue":
            return _Plan(item, state, (), (), now + _WAITING)
        zone = zone_of(entry.zone or self._core.conf.timezone)
        decision = decide(
            qualified(self._scope, entry.name), entry.schedule, state.progress, _wall(now), zone=zone,
            policy=entry.policy,
        )  # fmt: skip
        if entry.overlap != "allow" and decision.send:
            decision = _one_at_a_time(entry, decision, state, now, is_waiting=is_waiting)
        look = None if decision.look is None else decision.look.timestamp()
        return _Plan(item, _after(state, decision, now), decision.send, decision.skipped, look)

    async def _not_ended(self, due: Sequence[_Item], now: float) -> Collection[str]:
        """Return the names of those whose last run has not ended, where that matters."""
        asked = {
            item.state.sent_id: item
            for item in due
            if item.entry.overlap != "allow" and item.state.sent_id is not None and not item.state.is_paused
        }
        if not asked:
            return ()
        found = await self._connection.records.get([*asked])
        kept = self._core.conf.result_expires
        return {
            item.entry.name
            for item, record in zip(asked.values(), found, strict=True)
            if (record is None or record.state not in READY_STATES)
            and item.state.sent_at is not None
            and now - item.state.sent_at.timestamp() < kept  # a result that is so old is gone
        }

    async def _commit(self, plans: Sequence[_Plan], now: float) -> None:
        """Write what was planned, and send it; what was refused is read again."""
        names: list[str] = []
        groups = [plans] if not self._core.middleware.senders else [[plan] for plan in plans]
        for group in groups:
            ready: list[tuple[_Plan, ScheduleChange]] = []
            for plan in group:
                mark = new_mark()
                body = body_of(plan.item.definition, plan.state)
                ready.append((plan, ScheduleChange(self._scope, plan.item.entry.name, plan.item.mark, mark, body)))
            asked = [(plan.item.entry, plan.send, change) for plan, change in ready]
            for (plan, change), answer in zip(ready, await self._sending.send(asked, now), strict=True):
                entry = plan.item.entry
                if isinstance(answer, AioTQError):
                    self._complain(plan.item, answer)
                    self._put(replace(plan.item, look=now + _AFTER_FAILURE))
                elif answer == COMMITTED:
                    self._complaints.pop(entry.name, None)
                    _tell(plan, now, self.counts)
                    self._put(_Item(entry, plan.item.definition, change.mark, plan.state, plan.look))
                else:
                    names.append(entry.name)
        if names:
            await self._read_again(names, now)

    async def _read_again(self, names: Sequence[str], now: float) -> None:
        logger.debug("%d periodic tasks were changed by another process: reading them again", len(names))
        for name in names:
            self._items.pop(name, None)
        await self._take(await self._ledger.schedules(self._scope, names), now)

    async def _take(self, rows: Sequence[ScheduleRow], now: float) -> None:
        """Put what stands in rows on the agenda; send what was accepted and may not have been sent."""
        unsent: list[Finish] = []
        for number, row in enumerate(rows, 1):
            try:
                kept = read_row(self._core, row)
                entry = self._entry_of(kept)
            except AioTQError as exc:
                self._say(row.name, f"{exc}")
                continue
            mark = row.mark
            if row.unsent:
                mark = new_mark()
                change = ScheduleChange(self._scope, row.name, row.mark, mark, row.body)
                unsent.append(Finish(None, envelopes=row.unsent, schedule=change))
            if entry is not None:
                self._put(_Item(entry, kept.definition, mark, kept.state, now))
            if number % _AT_A_TIME == 0:
                await asyncio.sleep(0)
        if unsent:
            logger.info("sending again what may not have been sent for %d periodic tasks", len(unsent))
            await self._sending.commit(unsent)

    def _entry_of(self, kept: Kept) -> Entry | None:
        """Return the entry of a row: of code as code has it. None: code here does not have it."""
        if kept.is_of_code:
            return self._declared.get(kept.name)
        return kept.entry

    def _put(self, item: _Item) -> None:
        self._items[item.entry.name] = item
        if item.look is not None:
            heapq.heappush(self._heap, (item.look, next(self._numbers), item))

    def _complain(self, item: _Item, error: Exception) -> None:
        self._say(item.entry.name, f"{error}; trying again in {_AFTER_FAILURE:g} s")

    def _say(self, name: str, text: str) -> None:
        """Log what is wrong with an entry, once."""
        if self._complaints.get(name) != text:
            self._complaints[name] = text
            logger.error("periodic task %s: %s", name, text)


def qualified(scope: str, name: str) -> str:
    """Return what an entry's occurrences are identified by: two apps may have entries of one name."""
    return f"{scope}\n{name}"


def _one_at_a_time(entry: Entry, decision: Decision, state: State, now: float, *, is_waiting: bool) -> Decision:
    """Return `decision` for an entry whose runs don't overlap: one is sent at most; the others are skipped, or wait."""
    if entry.overlap == "skip":
        send = () if is_waiting else decision.send[:1]
        left = decision.send[len(send) :]
        skipped = sorted(
            [*decision.skipped, *(Skipped(each.due, "overlap") for each in left)], key=lambda each: each.due
        )
        progress = replace(decision.progress, runs=state.runs + len(send))
        return Decision(send, tuple(skipped), progress, decision.look or (_wall(now) if left else None))
    first = decision.send[0]
    if len(decision.send) == 1:
        return decision
    before = tuple(each for each in decision.skipped if each.due < first.due)
    return Decision((first,), before, replace(decision.progress, last=first.due, runs=state.runs + 1), _wall(now))


def _after(state: State, decision: Decision, now: float) -> State:
    """Return the state of an entry after what was decided."""
    after = replace(state, last=decision.progress.last, runs=decision.progress.runs)
    if decision.send:
        last = decision.send[-1]
        after = replace(after, sent_due=last.due, sent_id=last.id, sent_at=_wall(now))
    if decision.skipped:
        counts = dict(state.skipped)
        for each in decision.skipped:
            counts[each.reason] = counts.get(each.reason, 0) + 1
        why = decision.skipped[-1]
        after = replace(after, skipped=counts, skipped_due=why.due, skipped_why=why.reason)
    return after


def _tell(plan: _Plan, now: float, counts: ScheduleCounts) -> None:
    entry = plan.item.entry
    for each in plan.send:
        late = now - each.due.timestamp()
        counts.was_sent(late)
        logger.info(
            "periodic task %s (%s): sent %s, due %s, %.3f s late", entry.name, entry.task, each.id, each.due, late
        )
    counts.were_skipped(each.reason for each in plan.skipped)
    if plan.skipped:
        reasons = ", ".join(sorted({each.reason for each in plan.skipped}))
        first, last = plan.skipped[0].due, plan.skipped[-1].due
        logger.warning(
            "periodic task %s: %d skipped (%s), due %s to %s", entry.name, len(plan.skipped), reasons, first, last
        )


def _wall(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)
