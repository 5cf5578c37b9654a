"""Schedules: what runs next, whether the last run worked; pausing, sending now, adding and changing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final, cast

from starlette.responses import Response

from ... import states
from ...beat.entries import Overlap, PeriodicOptions
from ...beat.manage import PeriodicTask
from ...beat.schedules import AnySchedule, Schedule, crontab, interval, next_due, once, zone_of
from ...core.durations import parse_duration
from ...core.values import value
from ...exceptions import ScheduleError
from .charts import log_bar
from .desk import Desk, is_confirmed
from .forms import BadForm, Form
from .parameters import as_json, read_json
from .visits import Done, Undo, Visit
from .words import duration, moment, number

#: Schedules on a page; seconds of the chart, lanes of it, and runs of a schedule that it shows.
_A_PAGE: Final = 50
_HOUR: Final = 3_600.0
_LANES: Final = 6
_MOST_RUNS: Final = 61
#: The fields of a form in which a schedule is written.
_WHEN: Final = "30 7 * * mon-fri, @daily, 90s, 1h30m, or a time as 2030-12-24T18:00:00+01:00"


@value
class Lane:
    """A schedule's runs in the next hour; each is 0 to 1000 of it."""

    name: str
    runs: Sequence[float]


@value
class PastRun:
    """One of a schedule's last runs: its bar is `height` high of 24, by its time on a logarithmic scale."""

    id: str
    state: str
    ended: float
    ran: float | None
    height: float


@value
class ScheduleRow:
    """A schedule as the page shows it."""

    task: PeriodicTask
    state: str | None
    args: str
    often: str


async def page(desk: Desk, visit: Visit) -> Response:
    """Return the page of all schedules, with the form of one of them if that is asked for."""
    look = await desk.watch.look()
    rows = [_row(desk, each) for each in look.schedules]
    rows.sort(
        key=lambda row: (
            row.task.next_due is None,
            row.task.next_due or datetime.max.replace(tzinfo=UTC),
            row.task.name,
        )
    )
    edited = visit.query.get("edit")
    start = number(visit.query.get("from", "0"))
    failed = [row for row in rows if row.state == states.FAILURE]
    lanes, left_out = _lanes(look.schedules, look.at)
    return await desk.page(
        visit,
        "schedules.html",
        "schedules",
        live="schedules",
        rows=rows[start : start + _A_PAGE],
        total=len(rows),
        start=start,
        a_page=_A_PAGE,
        failed=failed[:3],
        problems_of=[row for row in rows if row.task.problem],
        lanes=lanes,
        left_out=left_out,
        hour=[moment(look.at + quarter * 900) for quarter in range(5)],
        schedulers=[each for each in look.members if each.kind == "scheduler" and not each.is_missing],
        edited=next((row for row in rows if row.task.name == edited), None),
        past=[] if edited is None else await _past(desk, edited),
        is_new=bool(visit.query.get("new")),
        known=sorted(desk.core.registry.own_tasks),
        when=_WHEN,
        written=_written,
        as_json=as_json,
    )


async def _past(desk: Desk, name: str) -> list[PastRun]:
    """Return the last runs of a schedule that the index has, the oldest first."""
    found = reversed(await desk.queries.runs_of(name))
    return [
        PastRun(each.id, each.state, each.ended, each.ran, round(4 + log_bar(each.ran or 0.0) / 5, 1)) for each in found
    ]


def _row(desk: Desk, task: PeriodicTask) -> ScheduleRow:
    state = "PAUSED" if task.is_paused else task.last_state
    args = (
        task.workflow
        if task.workflow is not None
        else desk.shown.call(task.args, task.kwargs, desk.core.parameters_of(task.task))
    )
    return ScheduleRow(task, state, args, _often(task))


def _lanes(tasks: Sequence[PeriodicTask], now: float) -> tuple[list[Lane], list[str]]:
    """Return what runs in the next hour, and the names of what runs too often for a chart."""
    lanes: list[Lane] = []
    often: list[str] = []
    end = moment(now + _HOUR)
    for each in tasks:
        runs = _runs(each, end)
        if len(runs) >= _MOST_RUNS:
            often.append(each.name)
        elif runs and len(lanes) < _LANES:
            lanes.append(Lane(each.name, [round((at.timestamp() - now) / _HOUR * 1000, 1) for at in runs]))
    return lanes, often


def _runs(task: PeriodicTask, end: datetime) -> list[datetime]:
    due, found = task.next_due, list[datetime]()
    if task.schedule is None or task.is_paused or task.problem:
        return found
    with suppress(ScheduleError):  # a schedule of the user's own
        while due is not None and due <= end and len(found) < _MOST_RUNS:
            found.append(due)
            due = next_due(task.schedule, due, zone_of(task.timezone))
    return found


def _written(schedule: Schedule | None) -> str:
    """Return a schedule as the form takes it; nothing for one that has no such form."""
    match schedule:
        case crontab():
            given = schedule
            return f"{given.minute} {given.hour} {given.day_of_month} {given.month_of_year} {given.day_of_week}"
        case interval() if not schedule.aligned:
            return f"{schedule.every.total_seconds():g}s"
        case once():
            return schedule.at.isoformat()
        case _:
            return ""


def _often(task: PeriodicTask) -> str:
    """Return how often a schedule is due, as a person says it."""
    if isinstance(task.schedule, interval):
        aligned = ", at full ones" if task.schedule.aligned else ""
        return f"every {duration(task.schedule.every.total_seconds())}{aligned}"
    return _written(task.schedule) or task.shown


def read_schedule(text: str) -> AnySchedule:
    """Return the schedule that is written as cron has it, as a duration, or as a time.

    Raises:
        BadForm: it is none of these.
    """
    text = text.strip()
    try:
        return interval(timedelta(seconds=parse_duration(text)))
    except ValueError:
        pass
    try:
        if text.startswith("@") or len(text.split()) == 5:
            return crontab(text)
        return once(text)
    except (ScheduleError, ValueError) as exc:
        raise BadForm(f"when: {exc}; write it as {_WHEN}") from None


async def _one(desk: Desk, visit: Visit, form: Form) -> Done:
    """Do with a schedule what the button says that was pressed."""
    name, to, schedules = form.need("name"), visit.url("schedules"), desk.app.schedules
    match form.need("act"):
        case "pause":
            await schedules.pause(name)
            undo = Undo("schedules/one", {"name": name, "act": "resume"})
            return Done(f"{name} is paused: it is not sent until it is resumed.", to, undo=undo)
        case "resume":
            await schedules.resume(name)
            undo = Undo("schedules/one", {"name": name, "act": "pause"})
            return Done(f"{name} is resumed: what was due meanwhile is not sent.", to, undo=undo)
        case "fire":
            sent = await schedules.fire(name)
            return Done(f"{name} is sent now, once more.", to, link=("See the run", visit.url(f"tasks/{sent.id}")))
        case _:
            return Done("Nothing was changed: there is no such act.", to, is_ok=False)


async def _save(desk: Desk, visit: Visit, form: Form) -> Done:
    """Add a schedule, or change one that was added at run time."""
    name, to = form.need("name").strip(), visit.url("schedules")
    args = read_json("arguments", form.get("args") or "[]", list)
    kwargs = read_json("keyword arguments", form.get("kwargs") or "{}", dict)
    options = PeriodicOptions()
    if zone := form.get("timezone").strip():
        options["timezone"] = zone
    if overlap := form.get("overlap"):
        options["overlap"] = cast(Overlap, overlap)
    if form.get("is-new"):
        signature = desk.app.signature(form.need("task").strip(), args, kwargs)
        await desk.app.schedules.add(read_schedule(form.need("when")), signature, name=name, **options)
        return Done(f"{name} is added.", to)
    when, is_workflow = form.get("when").strip(), bool(form.get("is-workflow"))
    await desk.app.schedules.update(
        name,
        schedule=read_schedule(when) if when else None,
        args=None if is_workflow else args,
        kwargs=None if is_workflow else kwargs,
        **options,
    )
    return Done(f"{name} is changed.", to)


async def _remove(desk: Desk, visit: Visit, form: Form) -> Done:
    name, to = form.need("name"), visit.url("schedules")
    if not is_confirmed(
        form,
        name,
        title=f"Remove {name}?",
        lost="It is not sent any more, and what is known of its runs goes.",
        button="Remove it",
    ):
        return Done(f"Nothing was removed: what was typed is not {name}.", to, is_ok=False)
    await desk.app.schedules.remove(name)
    return Done(f"{name} is removed.", to)


ACTS: Final[Mapping[str, Callable[[Desk, Visit, Form], Awaitable[Done]]]] = {
    "schedules/one": _one,
    "schedules/save": _save,
    "schedules/remove": _remove,
}
