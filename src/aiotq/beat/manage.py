"""Periodic tasks at run time: `app.schedules` shows them, adds and removes them, pauses, resumes and fires them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime, tzinfo
from typing import Any, Final, Unpack, cast

from ..calling.core import AppCore
from ..canvas.signature import Canvas
from ..core.values import replace, shown, value
from ..exceptions import OperationalError, ScheduleError
from ..results.handle import AsyncResult
from ..results.ledger import ScheduleChange, ScheduleRow
from ..states import PENDING
from ..tasks.options import CallOptions
from .agenda import qualified
from .calls import headers_of, sent_workflow
from .declared import check, entry_of, said_in_code, scope_of
from .entries import Entry, Overlap, PeriodicOptions, Source, entry, naming
from .occurrences import DEFAULT, Policy, Reason, decide, policy_to_dict
from .rows import Kept, State, body_of, definition_of, new_mark, read_row
from .schedules import AnySchedule, Schedule, next_due, zone_of

#: Attempts to change a row while the scheduler writes it too.
_ATTEMPTS: Final = 20
#: Occurrences that `next` looks for at most.
_MOST_NEXT: Final = 10_000


@value
class PeriodicTask:
    """A periodic task as it stands. Times are aware UTC.

    workflow: what is sent, as text, if that is not one call; `task` is then the first one that is called, and the last
    one's value is that of the run.
    last_due, last_id, last_state: of the run that was sent last. runs: how many were sent. skipped: how many
    occurrences were not sent, by the reason; skipped_due, skipped_why: of the last one. problem: why it is not usable.
    """

    name: str
    task: str
    source: Source
    schedule: Schedule | None
    shown: str
    timezone: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: CallOptions = field(default_factory=CallOptions)
    policy: Policy = DEFAULT
    overlap: Overlap = "allow"
    workflow: str | None = None
    is_paused: bool = False
    next_due: datetime | None = None
    last_due: datetime | None = None
    last_id: str | None = None
    last_state: str | None = None
    runs: int = 0
    skipped: Mapping[Reason, int] = field(default_factory=dict[Reason, int])
    skipped_due: datetime | None = None
    skipped_why: Reason | None = None
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON."""
        times = {"next_due", "last_due", "skipped_due"}
        names = ("name", "task", "source", "timezone", "overlap", "is_paused", "last_id", "last_state", "runs")
        plain = {name: getattr(self, name) for name in (*names, "workflow", "skipped_why", "problem")}
        plain |= {name: None if (at := getattr(self, name)) is None else at.isoformat() for name in sorted(times)}
        return plain | {
            "schedule": self.shown,
            "args": [*self.args],
            "kwargs": dict(self.kwargs),
            "options": dict(self.options),
            "policy": policy_to_dict(self.policy),
            "skipped": dict(self.skipped),
        }


class Schedules:
    """The periodic tasks of an app, kept with its results. Those of code are paused and fired, and changed in code."""

    def __init__(self, core: AppCore) -> None:
        self._core = core

    async def list(self) -> Sequence[PeriodicTask]:
        """Return all of them, by name."""
        code = await said_in_code(self._core)
        ledger = (await self._core.connection()).ledger
        rows = {row.name: row for row in await ledger.schedules(scope_of(self._core))}
        now = await ledger.time()
        found = [self._shown(row, code, now) for row in rows.values()]
        # What code says before a scheduler wrote it down.
        found += [_of_entry(self._core, code[name], State(_wall(now)), now) for name in code.keys() - rows.keys()]
        return await self._with_states(sorted(found, key=lambda each: each.name))

    async def get(self, name: str) -> PeriodicTask:
        """Return one of them.

        Raises:
            ScheduleError: there is none of this name.
        """
        code = await said_in_code(self._core)
        ledger = (await self._core.connection()).ledger
        now = await ledger.time()
        for row in await ledger.schedules(scope_of(self._core), [name]):
            return (await self._with_states([self._shown(row, code, now)]))[0]
        if name in code:
            return _of_entry(self._core, code[name], State(_wall(now)), now)
        raise _unknown(name)

    async def add(
        self,
        schedule: AnySchedule,
        sig: Canvas[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **options: Unpack[PeriodicOptions],
    ) -> PeriodicTask:
        """Add one; the arguments are those of `app.add_periodic_task`. The live scheduler knows of it within a second.

        Raises:
            ScheduleError: it can't be, or there is one of this name; the text has the name.
        """
        made = entry_of(schedule, sig, args, kwargs, name, options, source="runtime")
        code = await said_in_code(self._core)
        check(self._core, made)
        ledger = (await self._core.connection()).ledger
        now = await ledger.time()
        state = State(_wall(now))
        change = ScheduleChange(
            scope_of(self._core), made.name, "", new_mark(), body_of(definition_of(self._core, made), state), tells=True
        )
        if made.name in code or not (await ledger.change_schedules([change]))[0]:
            raise ScheduleError(
                f"periodic task {made.name!r}: name", made.name, "is another one's: update it, or remove it"
            )
        return _of_entry(self._core, made, state, now)

    async def update(
        self,
        name: str,
        *,
        schedule: AnySchedule | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[PeriodicOptions],
    ) -> PeriodicTask:
        """Change what is given of one that was added at run time. With another schedule it begins now.

        Raises:
            ScheduleError: there is none of this name, it is of code, or can't be so.
        """
        await self._core.configured()

        def changed(kept: Kept, now: float) -> tuple[bytes, State]:
            before = _changeable(kept)
            if before.workflow is not None and (args is not None or kwargs is not None):
                raise ScheduleError(name, before.workflow, "is a workflow: its arguments are changed by adding it anew")
            made = entry(
                name,
                before.schedule if schedule is None else schedule,
                before.task,
                before.args if args is None else args,
                before.kwargs if kwargs is None else kwargs,
                {**_options_of(before), **options},
                source="runtime",
                workflow=before.workflow,
            )
            check(self._core, made)
            is_same = made.schedule == before.schedule and made.zone == before.zone
            return definition_of(self._core, made), kept.state if is_same else replace(kept.state, last=_wall(now))

        await self._change(name, changed)
        return await self.get(name)

    async def pause(self, name: str) -> None:
        """Send no occurrences of it until it is resumed."""
        await self._change(name, lambda kept, _: (kept.definition, replace(kept.state, is_paused=True)))

    async def resume(self, name: str) -> None:
        """Send its occurrences again, from now on: those that were due during the pause are not sent."""

        def resumed(kept: Kept, now: float) -> tuple[bytes, State]:
            if not kept.state.is_paused:
                return kept.definition, kept.state
            return kept.definition, replace(kept.state, is_paused=False, last=_wall(now))

        await self._change(name, resumed)

    async def remove(self, name: str) -> None:
        """Remove one that was added at run time, or one that can't be read.

        Raises:
            ScheduleError: there is none of this name, or it is of code.
        """
        ledger = (await self._core.connection()).ledger
        scope = scope_of(self._core)
        for _ in range(_ATTEMPTS):
            row = await self._row(name)
            try:
                _changeable(read_row(self._core, row))
            except ScheduleError as exc:
                if exc.field == _OF_CODE:
                    raise
            if (await ledger.change_schedules([ScheduleChange(scope, name, row.mark, "", tells=True)]))[0]:
                return
        raise _busy(name)

    async def fire(self, name: str) -> AsyncResult[Any]:
        """Send it now, once more, whatever its schedule says; return the call's result. It counts as no occurrence."""
        code = await said_in_code(self._core)
        made = code.get(name)
        if made is None:
            with naming(name):
                kept = read_row(self._core, await self._row(name))
            made = kept.entry
            if made is None:
                raise ScheduleError("name", name, "is in the code of another version of the app: fire it there")
        now = _wall(await (await self._core.connection()).ledger.time())
        if made.workflow is not None:
            with naming(name):
                return await self._core.calling.send(sent_workflow(self._core, made, made.workflow, now))
        headers = {**(made.options.get("headers") or {}), **headers_of(name, now)}
        options = cast(CallOptions, {**made.options, "headers": headers})
        task = self._core.tasks.get(made.task, made.task)
        return await self._core.calling.call(task, made.args, made.kwargs, options)

    async def next(self, count: int = 5, name: str | None = None) -> Sequence[tuple[datetime, PeriodicTask]]:
        """Return the next occurrences of all, or of one, in the order of their due times, each in its time zone."""
        now = await (await self._core.connection()).ledger.time()
        tasks = await self.list() if name is None else [await self.get(name)]
        heap: list[tuple[datetime, int]] = []
        for index, each in enumerate(tasks):
            if (due := _due_after(each, _wall(now))) is not None:
                heap.append((due, index))
        heapq.heapify(heap)
        found: list[tuple[datetime, PeriodicTask]] = []
        while heap and len(found) < min(count, _MOST_NEXT):
            due, index = heapq.heappop(heap)
            found.append((due.astimezone(zone_of(tasks[index].timezone)), tasks[index]))
            if (following := _due_after(tasks[index], due)) is not None:
                heapq.heappush(heap, (following, index))
        return found

    async def _change(self, name: str, change: Callable[[Kept, float], tuple[bytes, State]]) -> None:
        ledger = (await self._core.connection()).ledger
        scope = scope_of(self._core)
        for _ in range(_ATTEMPTS):
            row = await self._row(name)
            kept = read_row(self._core, row)
            definition, state = change(kept, await ledger.time())
            if definition == kept.definition and state == kept.state:
                return
            body = body_of(definition, state)
            changed = ScheduleChange(scope, name, row.mark, new_mark(), body, row.unsent, tells=True)
            if (await ledger.change_schedules([changed]))[0]:
                return
        raise _busy(name)

    async def _row(self, name: str) -> ScheduleRow:
        ledger = (await self._core.connection()).ledger
        for row in await ledger.schedules(scope_of(self._core), [name]):
            return row
        if name in await said_in_code(self._core):
            raise ScheduleError("name", name, "is in code, and no scheduler has started with it yet: aiotq beat")
        raise _unknown(name)

    def _shown(self, row: ScheduleRow, code: Mapping[str, Entry], now: float) -> PeriodicTask:
        try:
            kept = read_row(self._core, row)
        except ScheduleError as exc:
            return PeriodicTask(row.name, "", "runtime", None, "(unreadable)", "UTC", problem=str(exc))
        made = code.get(kept.name) if kept.is_of_code else kept.entry
        if made is not None:
            return _of_entry(self._core, made, kept.state, now)
        about = kept.about
        zone = about["timezone"] or self._core.conf.timezone
        source: Source = "code" if kept.is_of_code else "runtime"
        bare = PeriodicTask(kept.name, kept.task, source, None, about["shown"], zone, tuple(about["args"]))
        return _with_state(
            replace(bare, kwargs=about["kwargs"], problem="is in the code of another version"), kept.state
        )

    async def _with_states(self, tasks: Sequence[PeriodicTask]) -> Sequence[PeriodicTask]:
        """Add what became of the last runs."""
        connection = await self._core.connection()
        ids = [each.last_id for each in tasks if each.last_id is not None]
        if not ids or not connection.keeps_results:
            return [*tasks]
        records = dict(zip(ids, await connection.records.get(ids), strict=True))
        return [
            each
            if each.last_id is None
            else replace(each, last_state=PENDING if (found := records[each.last_id]) is None else found.state)
            for each in tasks
        ]


_OF_CODE: Final = "periodic task of code"


def _changeable(kept: Kept) -> Entry:
    if kept.is_of_code or kept.entry is None:
        raise ScheduleError(_OF_CODE, kept.name, "is changed and removed in code; pause it, or change the code")
    return kept.entry


def _unknown(name: str) -> ScheduleError:
    return ScheduleError("name", name, "is no periodic task's: aiotq schedule list has all")


def _busy(name: str) -> OperationalError:
    return OperationalError(f"periodic task {name!r} can't be changed: others keep changing it")


def _options_of(given: Entry) -> dict[str, Any]:
    """Return the options that an entry was made with."""
    rules = given.policy
    names = ("misfire", "jitter", "starts", "ends", "max_runs", "expires")
    own = {name: getattr(rules, name) for name in names}
    return {**given.options, **own, "overlap": given.overlap, "timezone": given.zone}


def _of_entry(core: AppCore, given: Entry, state: State, now: float) -> PeriodicTask:
    zone = given.zone or core.conf.timezone
    problem: str | None = None
    due: datetime | None = None
    try:
        if not state.is_paused:
            due = _next_of(given, state, zone_of(zone), scope_of(core), now)
    except ScheduleError as exc:
        problem = str(exc)
    found = PeriodicTask(
        given.name,
        given.task,
        given.source,
        given.schedule,
        repr(given.schedule),
        zone,
        given.args,
        given.kwargs,
        given.options,
        given.policy,
        given.overlap,
        None if given.workflow is None else shown(given.workflow),
        next_due=due,
        problem=problem,
    )
    return _with_state(found, state)


def _next_of(given: Entry, state: State, zone: tzinfo, scope: str, now: float) -> datetime | None:
    decision = decide(
        qualified(scope, given.name), given.schedule, state.progress, _wall(now), zone=zone, policy=given.policy
    )
    return decision.send[0].due if decision.send else decision.look


def _due_after(task: PeriodicTask, after: datetime) -> datetime | None:
    """Return when `task` is due after `after`, as far as its schedule and its end tell."""
    if task.is_paused or task.schedule is None or task.next_due is None:
        return None
    if after < task.next_due:
        return task.next_due
    due = next_due(task.schedule, after, zone_of(task.timezone))
    return None if due is None or (task.policy.ends is not None and due > task.policy.ends) else due


def _with_state(task: PeriodicTask, state: State) -> PeriodicTask:
    return replace(
        task,
        is_paused=state.is_paused,
        last_due=state.sent_due,
        last_id=state.sent_id,
        runs=state.runs,
        skipped=state.skipped,
        skipped_due=state.skipped_due,
        skipped_why=state.skipped_why,
    )


def _wall(now: float) -> datetime:
    return datetime.fromtimestamp(now, UTC)
