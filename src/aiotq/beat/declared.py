"""What code says of periodic tasks: in decorators, in calls, and in the setting `beat_schedule`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar, cast

from ..calling.callbacks import check_callbacks, queues_in
from ..calling.core import AppCore
from ..calling.pipeline import is_plain
from ..canvas.signature import Canvas, Signature
from ..canvas.structure import final_calls
from ..canvas.validation import check_workflow
from ..core.values import shown
from ..exceptions import ScheduleError
from ..tasks.options import said
from ..tasks.task import Task
from ..wire.message import is_name, new_id
from .calls import sent_for
from .entries import Entry, Source, entry, naming, workflow_entry
from .occurrences import Occurrence
from .schedules import AnySchedule

TaskT = TypeVar("TaskT", bound=Task[..., Any])


def scope_of(core: AppCore) -> str:
    """Return what the rows of an app's periodic tasks are kept under."""
    return core.main or ""


def declare(
    core: AppCore,
    schedule: AnySchedule,
    sig: Canvas[Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    name: str | None,
    options: Mapping[str, Any],
) -> str:
    """Note a periodic task, and return its name.

    Raises:
        ScheduleError: it can't be, or another one has this name.
    """
    found = entry_of(schedule, sig, args, kwargs, name, options)
    with naming(found.name):
        if found.workflow is not None:
            check_workflow(found.workflow, core.tasks.get)
        elif (task := core.tasks.get(found.task)) is not None:
            task.check(found.args, found.kwargs)
    before = core.periodic.get(found.name)
    if before is not None and before != found:
        raise _taken(found.name)
    core.periodic[found.name] = found
    return found.name


def entry_of(
    schedule: AnySchedule,
    sig: Canvas[Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    name: str | None,
    options: Mapping[str, Any],
    *,
    source: Source = "code",
) -> Entry:
    """Return the entry that `schedule` makes of `sig`, called so if it has no name.

    Raises:
        ScheduleError: it can't be.
    """
    if not isinstance(cast(object, sig), Canvas):
        raise ScheduleError("sig", sig, "is not a signature, such as add.s(2, 2), or a workflow of them")
    whole = sig.clone(args, kwargs)
    if name is None:
        name = repr(whole)
        if not is_name(name):
            raise ScheduleError("name", shown(name), "can't be made of the call: give the periodic task a name")
    if not is_plain(whole):
        return workflow_entry(name, schedule, whole, options, source=source)
    call = cast("Signature[Any]", whole)
    own = dict(said(cast(Any, call.options)))
    return entry(name, schedule, call.task, call.args, call.kwargs, {**own, **options}, source=source)


def periodic(
    core: AppCore,
    schedule: AnySchedule,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None,
    name: str | None,
    options: Mapping[str, Any],
) -> Callable[[TaskT], TaskT]:
    """Return a decorator that makes a task periodic."""

    def decorate(task: TaskT) -> TaskT:
        if not isinstance(cast(object, task), Task):
            raise ScheduleError("periodic", task, "is not a task: write @app.periodic(...) above @app.task")
        declare(core, schedule, task.signature(args, kwargs), (), None, name or task.name, options)
        return task

    return decorate


async def said_in_code(core: AppCore) -> Mapping[str, Entry]:
    """Return all that code says, unchecked.

    Raises:
        ScheduleError: two have one name.
    """
    await core.configured()
    setting = cast("Mapping[str, Entry]", core.conf.beat_schedule)
    for name in setting.keys() & core.periodic.keys():
        if setting[name] != core.periodic[name]:
            raise _taken(name)
    return {**setting, **core.periodic}


async def declared(core: AppCore) -> Mapping[str, Entry]:
    """Return all that code says. Tasks are to be loaded before.

    Raises:
        ScheduleError: two have one name, a task is not registered, or can't be called so.
    """
    found = await said_in_code(core)
    for each in found.values():
        check(core, each)
    return found


def check(core: AppCore, entry: Entry) -> None:
    """See that the occurrences of an entry can be sent.

    Raises:
        ScheduleError: its task is not registered, can't be called so, or keeps no result that an overlap is seen by.
    """
    with naming(entry.name):
        if entry.workflow is not None:
            check_workflow(entry.workflow, core.builder.task)
            check_callbacks(entry.workflow, core.builder.task)
            for queue in queues_in(entry.workflow):
                core.builder.check_queue(queue)
        sent = sent_for(core, entry, _AN_OCCURRENCE, 0.0)
        sent.build(core)(sent.call.args, sent.call.kwargs, sent.call.options)
        if entry.overlap != "allow":
            last = final_calls(sent.workflow)[-1] if sent.workflow is not None else sent.call
            task = core.find_task(last.task)
            ignores = (last.options.get("ignore_result"), task.declared.ignore_result, core.conf.task_ignore_result)
            if next(each for each in ignores if each is not None) or core.conf.result_backend == "disabled://":
                raise ScheduleError("overlap", entry.overlap, "needs the result of the run before, and none is kept")


#: One that stands for any.
_AN_OCCURRENCE: Final = Occurrence(
    "", datetime(2000, 1, 1, tzinfo=UTC), new_id(), datetime(2000, 1, 1, tzinfo=UTC), None
)


def _taken(name: str) -> ScheduleError:
    return ScheduleError("name", name, "is that of another periodic task in code: give one of them another name")
