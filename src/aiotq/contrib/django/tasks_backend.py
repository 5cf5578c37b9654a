"""A backend for `django.tasks`: Django's own `@task`, `enqueue` and `TaskResult`, run by aiotq's workers.

    TASKS = {"default": {"BACKEND": "aiotq.contrib.django.tasks_backend.AiotqBackend", "QUEUES": []}}

Of Django before 6.0 the package django-tasks is used, which has the same interface. Each task is also a task of aiotq,
called by its path (`orders.tasks.mail`). What Django tells of a task beyond its outcome (when it was enqueued and
started, by which workers, with which arguments) is kept in a record beside the outcome.

Source: Django, "Django's Tasks framework"; "Tasks" in the reference.
"""

# pyright: basic
from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, cast

from asgiref.sync import sync_to_async
from django.core import checks
from django.utils import timezone
from django.utils.module_loading import import_string

from ... import current_app, shared_task, states
from ...calling.core import AppCore
from ...core.inside import core_of
from ...exceptions import AioTQError, Ignore, Reject, RemoteError, Retry
from ...lookup import find_app
from ...results.document import Update
from ...tasks.request import Request
from ...tasks.task import Task as AiotqTask
from ...wire.message import new_id
from .enqueued import Enqueued

#: Django's own since 6.0; before, the backport.
PACKAGE: Final = "django.tasks" if importlib.util.find_spec("django.tasks") else "django_tasks"
_base: Any = importlib.import_module(f"{PACKAGE}.base")
_signals: Any = importlib.import_module(f"{PACKAGE}.signals")
_exceptions: Any = importlib.import_module(f"{PACKAGE}.exceptions")
_BaseTaskBackend: Any = importlib.import_module(f"{PACKAGE}.backends.base").BaseTaskBackend
_normalized: Any = importlib.import_module(
    "django.utils.json" if PACKAGE == "django.tasks" else f"{PACKAGE}.utils"
).normalize_json
_Status: Any = _base.TaskResultStatus

#: What is no failure: the worker does something else with the task.
_NO_FAILURES: Final = (Retry, Ignore, Reject)
#: Tasks of Django's by their paths, which workers know by these names.
_known: Final[dict[str, Any]] = {}


class AiotqBackend(_BaseTaskBackend):
    """Sends the tasks of `django.tasks`.

    `OPTIONS["app"]` names the app (`"shop:app"`); without it, it is the one that was made last. Priorities of -100 to
    100 are sent as 0 to 9.
    """

    supports_defer = True
    supports_async_task = True
    supports_get_result = True
    supports_priority = True

    @property
    def core(self) -> AppCore:
        """The core of the app that sends."""
        spec = self.options.get("app")
        core: AppCore = core_of(find_app(spec) if spec else current_app)
        return core

    def validate_task(self, task: Any) -> None:
        """Check that `task` can be sent, and make it known to workers in this process.

        Raises:
            InvalidTask: it can't (InvalidTaskError in the backport).
        """
        super().validate_task(task)
        if _known.get(task.module_path) is None or _known[task.module_path].func is not task.func:
            _known[task.module_path] = task
            shared_task(name=task.module_path, bind=True)(_runner(task))

    def enqueue(self, task: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Send a call, for code without a loop; return its TaskResult when the broker has accepted it."""
        self.validate_task(task)
        result, ended = self.core.bridge.run(self._send, task, args, dict(kwargs))
        if ended is None:
            self._tell_enqueued(result)
        return _completed(result, ended)

    async def aenqueue(self, task: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """As `enqueue`, on a loop."""
        self.validate_task(task)
        connections = self.core.connections
        if connections.is_away():
            result, ended = await connections.bridge.at_home(self._send, task, args, kwargs)
        else:
            result, ended = await self._send(task, args, kwargs)
        if ended is None:
            await sync_to_async(self._tell_enqueued)(result)
        return _completed(result, ended)

    def get_result(self, result_id: str) -> Any:
        """Return what is known of a call.

        Raises:
            TaskResultDoesNotExist: nobody sent it from Django, or it has expired.
        """
        return self.core.bridge.run(self.aget_result, result_id)

    async def aget_result(self, result_id: str) -> Any:
        """As `get_result`, on a loop."""
        sent, now = await Enqueued.read(self.core, str(result_id))
        if sent is None:
            raise _exceptions.TaskResultDoesNotExist(result_id)
        return _completed(_result_of(sent), now)

    def check(self, **kwargs: Any) -> list[checks.CheckMessage]:
        """Find out whether there is an app."""
        try:
            _ = self.core
        except AioTQError as exc:
            hint = 'Import the app in the package of the project, or name it: "OPTIONS": {"app": "proj:app"}.'
            return [checks.Error(f"TASKS[{self.alias!r}]: {exc}", hint=hint, id="aiotq.E001")]
        return []

    def _tell_enqueued(self, result: Any) -> None:
        _signals.task_enqueued.send(type(self), task_result=result)

    async def _send(self, task: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Any, Update | None]:
        """Send a call; return its TaskResult, and how it ended if it ran here (`task_always_eager`)."""
        core = self.core
        sent = Enqueued(
            id=new_id(),
            name=task.module_path,
            args=_normalized(list(args)),
            kwargs=_normalized(kwargs),
            backend=self.alias,
            queue_name=task.queue_name,
            priority=task.priority,
            run_after=task.run_after,
            enqueued_at=timezone.now(),
        )
        await sent.write(core)
        options: dict[str, Any] = {"task_id": sent.id, "priority": round((task.priority + 100) * 9 / 200)}
        if task.queue_name != _base.DEFAULT_TASK_QUEUE_NAME:
            options["queue"] = task.queue_name
        if task.run_after is not None:
            options["eta"] = _aware(task.run_after)
        if core.conf.task_always_eager:  # others are told when it was sent
            await sync_to_async(self._tell_enqueued)(_result_of(sent, task))
        try:
            handle = await core.call(core.find_task(sent.name), sent.args, sent.kwargs, options)  # type: ignore[arg-type]
            now = await handle.look() if handle.is_eager else None
        except SystemExit as exc:  # the task's: it ran here
            now = Update(states.FAILURE, exc, True, date_done=datetime.now(UTC))
        if now is None:
            return _result_of(sent, task), None
        return _result_of((await Enqueued.read(core, sent.id))[0] or sent, task), now


def _runner(task: Any) -> Callable[..., Any]:
    """Return the function that a worker calls for `task`: what Django tells of a run, around the task's own."""
    run = _around_coroutine(task) if inspect.iscoroutinefunction(task.func) else _around_function(task)
    parameters = list(inspect.signature(task.func).parameters.values())[int(task.takes_context) :]
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    # Arguments are checked by it; what aiotq passes first is not among them.
    cast("Any", run).__signature__ = inspect.Signature([own, *parameters])
    return run


def _around_coroutine(task: Any) -> Callable[..., Any]:
    @functools.wraps(task.func)
    async def run(self: AiotqTask[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = await _begun(self, self.request)
        await sync_to_async(_tell_started)(result)
        try:
            value = _normalized(await task.func(*_arguments(task, result, args), **kwargs))
        except BaseException as exc:
            await sync_to_async(_tell_failed)(result, exc)
            raise
        await sync_to_async(_tell_succeeded)(result, value)
        return value

    return run


def _around_function(task: Any) -> Callable[..., Any]:
    @functools.wraps(task.func)
    def run(self: AiotqTask[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = core_of(self.app).bridge.run(_begun, self, self.request)
        _tell_started(result)
        try:
            value = _normalized(task.func(*_arguments(task, result, args), **kwargs))
        except BaseException as exc:
            _tell_failed(result, exc)
            raise
        _tell_succeeded(result, value)
        return value

    return run


def _arguments(task: Any, result: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (_base.TaskContext(task_result=result), *args) if task.takes_context else args


async def _begun(task: AiotqTask[..., Any], request: Request) -> Any:
    """Note that a worker runs the call of `request`; return its TaskResult."""
    core: AppCore = core_of(task.app)
    sent = (await Enqueued.read(core, str(request.id)))[0]
    if sent is None:  # it was sent by aiotq's own means, or what was noted has expired
        now = timezone.now()
        sent = Enqueued(
            str(request.id), task.name, list(request.args), dict(request.kwargs), "default", enqueued_at=now
        )
    begun = sent.begun(request.hostname or "", timezone.now())
    await begun.write(core)
    result = _result_of(begun)
    object.__setattr__(result, "status", _Status.RUNNING)
    return result


def _tell_started(result: Any) -> None:
    _signals.task_started.send_robust(AiotqBackend, task_result=result)


def _tell_succeeded(result: Any, value: Any) -> None:
    object.__setattr__(result, "finished_at", timezone.now())
    object.__setattr__(result, "status", _Status.SUCCESSFUL)
    object.__setattr__(result, "_return_value", value)
    _signals.task_finished.send_robust(AiotqBackend, task_result=result)


def _tell_failed(result: Any, error: BaseException) -> None:
    """Tell that a task failed, while its exception is handled: receivers log that."""
    if isinstance(error, _NO_FAILURES) or not isinstance(error, Exception | SystemExit):
        return
    try:
        raise error
    except BaseException:
        object.__setattr__(result, "finished_at", timezone.now())
        object.__setattr__(result, "status", _Status.FAILED)
        result.errors.append(_error_of(error, None))
        _signals.task_finished.send_robust(AiotqBackend, task_result=result)


def _result_of(sent: Enqueued, task: Any = None) -> Any:
    """Return the TaskResult of a call of which no outcome is known."""
    if task is None:
        task = _task_called(sent)
    return _base.TaskResult(
        task=task,
        id=sent.id,
        status=_Status.RUNNING if sent.started_at else _Status.READY,
        enqueued_at=sent.enqueued_at,
        started_at=sent.started_at,
        finished_at=None,
        last_attempted_at=sent.last_attempted_at,
        args=sent.args,
        kwargs=sent.kwargs,
        backend=sent.backend,
        errors=[],
        worker_ids=list(sent.worker_ids),
    )


def _task_called(sent: Enqueued) -> Any:
    task = _known.get(sent.name)
    if task is None:
        task = import_string(sent.name)
        if not isinstance(task, _base.Task):
            raise _exceptions.TaskResultDoesNotExist(f"{sent.id}: {sent.name} is no task any more")
    return task.using(
        backend=sent.backend, queue_name=sent.queue_name, priority=sent.priority, run_after=sent.run_after
    )


def _completed(result: Any, now: Update | None) -> Any:
    """Return `result` with the state and the outcome that are stored."""
    if now is None:
        return result
    if not now.is_ready:
        if now.state == states.RETRY:
            object.__setattr__(result, "status", _Status.READY)
        return result
    object.__setattr__(result, "finished_at", _as_django_has_it(now.date_done))
    if now.state == states.SUCCESS:
        object.__setattr__(result, "status", _Status.SUCCESSFUL)
        object.__setattr__(result, "_return_value", now.info)
        return result
    object.__setattr__(result, "status", _Status.FAILED)
    if isinstance(now.info, BaseException):
        object.__setattr__(result, "errors", [_error_of(now.info, now.traceback)])
    return result


def _error_of(error: BaseException, trace: str | None) -> Any:
    path = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, RemoteError):  # its class is not loaded here
        path = error.type_name if "." in error.type_name else f"builtins.{error.type_name}"
    if trace is None:
        trace = "".join(importlib.import_module("traceback").format_exception(error))
    return _base.TaskError(exception_class_path=path, traceback=trace)


def _aware(given: datetime) -> datetime:
    return given if timezone.is_aware(given) else timezone.make_aware(given)


def _as_django_has_it(given: datetime | None) -> datetime | None:
    """Return an aware time as `timezone.now()` would have it: naive without USE_TZ."""
    if given is None or timezone.is_aware(timezone.now()):
        return given
    return timezone.make_naive(given)
