"""Commands for periodic tasks: what there is, what comes next, and those that are added at run time."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Any, Final

import typer

from ..app import AioTQ
from ..beat.manage import PeriodicTask
from ..beat.schedules import AnySchedule, crontab, interval, once, zone_of
from ..exceptions import ScheduleError
from . import output
from .app_option import Target, UsageError, run
from .command import command, group
from .words import Json, Yes, confirm, read_duration, read_list, read_object

schedule: Final = group("schedule", "Periodic tasks: list, add, pause, fire.")

_COLUMNS: Final = ("name", "schedule", "next", "last", "state", "runs", "skipped")


@schedule.command("list")
@command()
def schedule_list(target: Target, as_json: Json = False) -> None:
    """List periodic tasks: those of code, and those added at run time."""
    tasks = target.run(lambda app: app.schedules.list(), with_tasks=True)
    if as_json:
        output.as_json([task.to_dict() for task in tasks])
        return
    if not tasks:
        print("no periodic tasks")
        return
    now = time.time()
    output.table(_COLUMNS, [_row(task, now) for task in tasks], numbers=("runs", "skipped"), whole=("name",))


def _row(task: PeriodicTask, now: float) -> tuple[str, ...]:
    coming = "-" if task.next_due is None else f"in {output.age(max(0.0, task.next_due.timestamp() - now))}"
    if task.problem is not None:
        coming = "(problem)"
    elif task.is_paused:
        coming = "(paused)"
    last = "-" if task.last_due is None else f"{output.age(now - task.last_due.timestamp())} ago"
    skipped = str(sum(task.skipped.values()))
    return task.name, task.shown, coming, last, task.last_state or "-", str(task.runs), skipped


@schedule.command("show")
@command("NAME")
def schedule_show(target: Target, name: str, as_json: Json = False) -> None:
    """Show one periodic task: its options, its last run, and what was skipped."""
    task = target.run(lambda app: app.schedules.get(name), with_tasks=True)
    data = task.to_dict()
    if as_json:
        output.as_json(data)
        return
    output.fields([(key, _text(each)) for key, each in data.items() if each not in (None, {}, [])])


def _text(given: object) -> str:
    return given if isinstance(given, str) else output.value(given)


@schedule.command("next")
@command("N")
def schedule_next(
    target: Target,
    number: str,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Only of this one.")] = None,
    as_json: Json = False,
) -> None:
    """Show the next N occurrences, each in the time zone of its schedule."""
    if not number.isdecimal() or not int(number):
        raise UsageError(f"{number!r} is not a number of occurrences")
    found = target.run(lambda app: app.schedules.next(int(number), name), with_tasks=True)
    if as_json:
        output.as_json([{"due": due.isoformat(), "name": task.name, "task": task.task} for due, task in found])
        return
    if not found:
        print("nothing is due any more")
        return
    output.table(("due", "name", "task"), [(_shown(due), task.name, task.task) for due, task in found], whole=("name",))


def _shown(due: datetime) -> str:
    return due.strftime("%a %Y-%m-%d %H:%M:%S %Z")


@schedule.command("add")
@command("NAME", "TASK")
def schedule_add(
    target: Target,
    name: str,
    task: str,
    cron: Annotated[str | None, typer.Option(metavar="TEXT", help="As '30 7 * * mon-fri' or '@daily'.")] = None,
    every: Annotated[str | None, typer.Option(metavar="TIME", help="As 90s, 5m or 1h30m.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Once, as 2030-12-24T18:00:00+01:00.")] = None,
    aligned: Annotated[bool, typer.Option("--aligned", help="With --every: at multiples of it.")] = False,
    args: Annotated[str, typer.Option(metavar="JSON", help="Positional arguments: a list.")] = "[]",
    kwargs: Annotated[str, typer.Option(metavar="JSON", help="Keyword arguments: an object.")] = "{}",
    zone: Annotated[str | None, typer.Option("--timezone", metavar="ZONE", help="As Europe/Berlin.")] = None,
    queue: Annotated[str | None, typer.Option("-q", "--queue", metavar="QUEUE", help="Where calls go.")] = None,
    priority: Annotated[int | None, typer.Option(metavar="0-9", help="9 goes first.")] = None,
    misfire: Annotated[
        str | None, typer.Option(metavar="POLICY", help="Of missed ones send: skip, once, all, or those within a TIME.")
    ] = None,
    overlap: Annotated[
        str | None, typer.Option(metavar="POLICY", help="While the last run goes on: allow, skip or queue.")
    ] = None,
    jitter: Annotated[str | None, typer.Option(metavar="TIME", help="Start up to so much later.")] = None,
    max_runs: Annotated[int | None, typer.Option(metavar="N", min=1, help="Send no more than so many.")] = None,
) -> None:
    """Add a periodic task, which schedulers send from now on."""
    when = _schedule(cron, every, at, aligned=aligned)
    given: dict[str, Any] = {
        "timezone": zone,
        "queue": queue,
        "priority": priority,
        "misfire": misfire if misfire in (None, "skip", "once", "all") else read_duration(misfire),
        "overlap": overlap,
        "jitter": None if jitter is None else read_duration(jitter),
        "max_runs": max_runs,
    }
    options = {option: wanted for option, wanted in given.items() if wanted is not None}
    arguments, named = read_list("--args", args), read_object("--kwargs", kwargs)

    async def add(app: AioTQ) -> PeriodicTask:
        return await app.schedules.add(when, app.signature(task, arguments, named), name=name, **options)

    _report(run(target.load(), add), "added")


def _schedule(cron: str | None, every: str | None, at: str | None, *, aligned: bool) -> AnySchedule:
    if sum(each is not None for each in (cron, every, at)) != 1:
        raise UsageError("when? Give one of --cron '30 7 * * *', --every 90s and --at 2030-12-24T18:00:00+01:00")
    try:
        if cron is not None:
            return crontab(cron)
        return interval(read_duration(every), aligned=aligned) if every is not None else once(at or "")
    except ScheduleError as exc:
        raise UsageError(str(exc)) from exc


def _report(task: PeriodicTask, done: str) -> None:
    coming = "never due"
    if task.next_due is not None:
        coming = f"next due {_shown(task.next_due.astimezone(zone_of(task.timezone)))}"
    print(f"{done} {task.name!r} ({task.shown}), {coming}")


@schedule.command("pause")
@command("NAME")
def schedule_pause(target: Target, name: str) -> None:
    """Send no occurrences of a periodic task until it is resumed."""
    target.run(lambda app: app.schedules.pause(name), with_tasks=True)
    print(f"paused {name!r}")


@schedule.command("resume")
@command("NAME")
def schedule_resume(target: Target, name: str) -> None:
    """Send occurrences of a paused one again, from now on."""

    async def resume(app: AioTQ) -> PeriodicTask:
        await app.schedules.resume(name)
        return await app.schedules.get(name)

    _report(target.run(resume, with_tasks=True), "resumed")


@schedule.command("fire")
@command("NAME")
def schedule_fire(target: Target, name: str) -> None:
    """Send a periodic task now, once more; print the call's id."""

    async def fire(app: AioTQ) -> str:
        return (await app.schedules.fire(name)).id

    print(target.run(fire, with_tasks=True))


@schedule.command("remove")
@command("NAME")
def schedule_remove(target: Target, name: str, yes: Yes = False) -> None:
    """Remove a periodic task that was added at run time."""
    app = target.load()
    confirm(f"Remove the periodic task {name!r}?", yes)
    run(app, lambda app: app.schedules.remove(name))
    print(f"removed {name!r}")
