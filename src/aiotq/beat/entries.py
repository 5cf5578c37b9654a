"""An entry: one periodic task with its schedule, its arguments and its policies, checked where it is said."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import field
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, Final, Literal, TypeAlias, TypedDict, cast

from ..canvas.signature import Canvas
from ..canvas.structure import first_calls, signatures_of
from ..canvas.validation import check_depth
from ..core.values import value
from ..exceptions import CallError, ScheduleError
from ..tasks.options import CallOptions, check_options, said
from ..wire.message import MAX_NAME, is_name
from .intervals import interval
from .occurrences import DEFAULT, Misfire, Policy, policy
from .schedules import AnySchedule, Schedule, schedule_of, zone_of

#: What happens to an occurrence that is due while the one before it has not ended.
Overlap: TypeAlias = Literal["allow", "skip", "queue"]
#: Where an entry was said: in code, or at run time.
Source: TypeAlias = Literal["code", "runtime"]


class PeriodicOptions(TypedDict, total=False):
    """The options of a periodic task: when its occurrences are sent, and the calling options of each."""

    misfire: Misfire | timedelta
    'Which occurrences are still sent when no scheduler ran in time: `"skip"`, `"once"`, `"all"`, or seconds.'
    overlap: Overlap
    'While the run before has not ended: `"allow"` sends the next one, `"skip"` drops it, `"queue"` lets it wait.'
    jitter: float | timedelta
    "Each occurrence starts up to this many seconds later."
    starts: datetime | None
    "The first time at which an occurrence may be due."
    ends: datetime | None
    "The last time at which an occurrence may be due."
    max_runs: int | None
    "How many occurrences are sent in all."
    expires: float | timedelta | Literal["next"] | None
    'When an occurrence that has not started is dropped: `"next"` (when the next one is due), seconds, or None: never.'
    timezone: str | None
    "The time zone of the schedule. None: that of the settings."
    countdown: float | None
    "Seconds after the due time before which the task does not start."
    queue: str | None
    "The queue that gets the call."
    exchange: str | None
    "The exchange of the call, with `routing_key`."
    routing_key: str | None
    "The routing key of the call."
    priority: int | None
    "0 to 9, 9 first."
    serializer: str | None
    "How arguments are encoded."
    compression: str | None
    "The compression of the encoded arguments."
    ignore_result: bool | None
    "True: no result is stored."
    headers: Mapping[str, Any] | None
    "Headers of your own."
    stamps: Mapping[str, Any] | None
    "Labels of each call."
    soft_time_limit: float | None
    "Seconds after which `SoftTimeLimitExceeded` is raised in the task."
    time_limit: float | None
    "Seconds after which the task is stopped and fails."
    shadow: str | None
    "The name shown in logs instead of the task's."


_POLICY: Final = frozenset({"misfire", "jitter", "starts", "ends", "max_runs", "expires"})
_OWN: Final = _POLICY | {"overlap", "timezone"}
PERIODIC_OPTIONS: Final = frozenset(PeriodicOptions.__annotations__)
OVERLAPS: Final[tuple[Overlap, ...]] = ("allow", "skip", "queue")
#: The keys of an entry in `beat_schedule`: Celery's, and our options beside them.
_KEYS: Final = frozenset({"task", "schedule", "args", "kwargs", "options", "relative"})


@value
class Entry:
    """One periodic task. `zone` is the name of its time zone; None: that of the settings.

    `workflow` is what is sent, if that is not one call; `task` is then the first one that is called.
    """

    name: str
    schedule: Schedule
    task: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    options: CallOptions = field(default_factory=CallOptions)
    policy: Policy = DEFAULT
    overlap: Overlap = "allow"
    zone: str | None = None
    source: Source = "code"
    workflow: Canvas[Any] | None = None


def entry(
    name: str,
    schedule: AnySchedule,
    task: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    source: Source = "code",
    workflow: Canvas[Any] | None = None,
) -> Entry:
    """Return an entry. `options` of a workflow are for the calls that start it, as those of `Canvas.apply_async`.

    Raises:
        ScheduleError: its schedule, task, arguments or options can't be; the text has its name.
    """
    if not is_name(name):
        raise ScheduleError("name", name, f"of a periodic task must be 1 to {MAX_NAME} printable characters")
    with naming(name):
        if not is_name(task):
            raise ScheduleError("task", task, "is not the name of a task")
        if not isinstance(args, list | tuple):  # a string would be taken for its letters
            raise ScheduleError("args", args, "is not a list or tuple")
        if kwargs is not None and not isinstance(cast(object, kwargs), Mapping):
            raise ScheduleError("kwargs", kwargs, "is not a mapping of names to values")
        given = dict(options or {})
        for option, wanted in given.items():
            if option not in PERIODIC_OPTIONS:
                raise ScheduleError(option, wanted, "is not an option of periodic tasks")
        calling = said(cast(CallOptions, {key: each for key, each in given.items() if key not in _OWN}))
        check_options(task, calling)
        if workflow is not None:
            _check_workflow(workflow)
        overlap = given.get("overlap", "allow")
        if overlap not in OVERLAPS:
            raise ScheduleError("overlap", overlap, f"is not one of {', '.join(OVERLAPS)}")
        zone = given.get("timezone")
        if zone is not None:
            zone_of(zone)
        rules = policy(**{key: each for key, each in given.items() if key in _POLICY})
        arguments = tuple(args), dict(kwargs or {})
        return Entry(name, schedule_of(schedule), task, *arguments, calling, rules, overlap, zone, source, workflow)


def workflow_entry(
    name: str,
    schedule: AnySchedule,
    workflow: Canvas[Any],
    options: Mapping[str, Any] | None = None,
    *,
    source: Source = "code",
) -> Entry:
    """Return an entry of a workflow; raises as `entry`."""
    with naming(name):
        check_depth(workflow)
        first = next(iter(first_calls(workflow)), None)
    if first is None:
        raise ScheduleError(f"periodic task {name!r}: sig", workflow, "calls nothing")
    return entry(name, schedule, first.task, (), {}, options, source=source, workflow=workflow)


def _check_workflow(workflow: Canvas[Any]) -> None:
    """Raise `ScheduleError` if a call in it can be sent only once."""
    for call in signatures_of(workflow):
        for option in _OF_ONE_RUN:
            if call.options.get(option) is not None:
                raise ScheduleError(
                    option, call.options[option], f"of {call!r} would be that of every run: leave it out"
                )


#: Options of calls that each run needs for itself.
_OF_ONE_RUN: Final = ("task_id", "eta")


@contextmanager
def naming(name: str) -> Generator[None]:
    """Have errors say which periodic task they are about."""
    try:
        yield
    except ScheduleError as exc:
        raise ScheduleError(f"periodic task {name!r}: {exc.field}", exc.value, exc.problem) from exc.__cause__
    except CallError as exc:
        raise ScheduleError(f"periodic task {name!r}: call", name, f"can't be called so: {exc}") from exc


def check_beat_schedule(given: object) -> Mapping[str, Entry]:
    """Return the entries of the setting `beat_schedule`: a mapping of names to what Celery documents.

    Raises:
        ScheduleError: one of them can't be; the text has its name.
    """
    if not isinstance(given, Mapping):
        raise ScheduleError("beat_schedule", given, "is not a mapping of names to entries")
    entries = cast("Mapping[str, object]", given)
    found = {name: each if isinstance(each, Entry) else _from_setting(name, each) for name, each in entries.items()}
    return MappingProxyType(found)  # a change in place would not be checked


def _from_setting(name: str, given: object) -> Entry:
    if not isinstance(given, Mapping):
        raise ScheduleError(f"beat_schedule: {name}", given, "is not a mapping with task and schedule")
    fields = cast("Mapping[str, Any]", given)
    with naming(name):
        for key in ("task", "schedule"):
            if fields.get(key) is None:
                raise ScheduleError("beat_schedule", fields, f"has no {key}")
        if foreign := {*fields} - _KEYS - _OWN:
            raise ScheduleError("beat_schedule", fields, f"has unknown keys: {', '.join(sorted(map(str, foreign)))}")
        schedule = schedule_of(fields["schedule"])
        if fields.get("relative"):
            if not isinstance(schedule, interval):
                raise ScheduleError("relative", True, "is for intervals: this schedule follows the clock anyway")
            schedule = interval(schedule.every, aligned=True)
        options: Any = fields.get("options") or {}
        if not isinstance(options, Mapping):
            raise ScheduleError("options", cast(object, options), "is not a mapping")
    own = {key: fields[key] for key in fields if key in _OWN}
    task = getattr(fields["task"], "name", fields["task"])
    return entry(
        name,
        schedule,
        task,
        fields.get("args") or (),
        fields.get("kwargs"),
        {**cast("Mapping[str, Any]", options), **own},
    )
