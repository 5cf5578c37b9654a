"""What code says of periodic tasks: in decorators, in calls, and in the setting `beat_schedule`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast

from ..calling.core import AppCore
from ..canvas.signature import Signature
from ..core.values import shown
from ..exceptions import ScheduleError
from ..signals import Signal
from ..tasks.options import said
from ..tasks.task import Task
from ..wire.message import is_name
from .entries import Entry, Source, entry, naming
from .schedules import AnySchedule

TaskT = TypeVar("TaskT", bound=Task[..., Any])


def scope_of(core: AppCore) -> str:
    """Return what the rows of an app's periodic tasks are kept under."""
    return core.main or ""


def declare(
    core: AppCore,
    schedule: AnySchedule,
    sig: Signature[Any],
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
    if (task := core.tasks.get(found.task)) is not None:
        with naming(found.name):
            task.check(found.args, found.kwargs)
    before = core.periodic.get(found.name)
    if before is not None and before != found:
        raise _taken(found.name)
    core.periodic[found.name] = found
    return found.name


def entry_of(
    schedule: AnySchedule,
    sig: Signature[Any],
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
    if not isinstance(cast(object, sig), Signature) or sig.mode != "once":
        raise ScheduleError(
            "sig", sig, "is not the signature of one call, such as add.s(2, 2): put a workflow into a task"
        )
    call = sig if sig.immutable else sig.clone(args, kwargs)
    if name is None:
        name = repr(call)
        if not is_name(name):
            raise ScheduleError("name", shown(name), "can't be made of the call: give the periodic task a name")
    own = dict(said(cast(Any, sig.options)))
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


async def configured(core: AppCore) -> None:
    """Give those their turn who say something on `on_after_configure` and `on_after_finalize`, once.

    Raises:
        Exception: a receiver of the signals raised it.
    """
    if not core.is_configured:
        core.is_configured = True
        try:
            await _tell(core.on_after_configure, core, source=core.conf)
            await _tell(core.on_after_finalize, core)
        except BaseException:
            core.is_configured = False
            raise


async def said_in_code(core: AppCore) -> Mapping[str, Entry]:
    """Return all that code says, unchecked.

    Raises:
        ScheduleError: two have one name.
    """
    await configured(core)
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
        task: Task[..., Any] = core.find_task(entry.task)
        core.builder.envelopes(task, entry.args, entry.kwargs, entry.options, reply_to=None)
        if entry.overlap != "allow":
            ignores = (entry.options.get("ignore_result"), task.declared.ignore_result, core.conf.task_ignore_result)
            if next(each for each in ignores if each is not None) or core.conf.result_backend == "disabled://":
                raise ScheduleError("overlap", entry.overlap, "needs the result of the run before, and none is kept")


async def _tell(signal: Signal, core: AppCore, **named: Any) -> None:
    """As `Signal.send`, but what a receiver raises goes up: a misspelt schedule would never run."""
    for receiver in signal.receivers_of(core.app):
        answer = receiver(signal=signal, sender=core.app, **named)
        if inspect.isawaitable(answer):
            await answer


def _taken(name: str) -> ScheduleError:
    return ScheduleError("name", name, "is that of another periodic task in code: give one of them another name")
