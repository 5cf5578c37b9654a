"""Names that Celery's classes have and ours don't: what to write instead, said by the AttributeError."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

Class = TypeVar("Class", bound=type[Any])
Names = Mapping[str, str]

_WALK: Final = "await result.children() has the calls that the task made, await result.graph() all of the workflow"
_AWAIT: Final = "await the result: a failure is raised"
_CALLBACK: Final = "await the result, or give the call a callback: link=…, link_error=…"
_VALUE: Final = "signatures are values: clone(), set(), link() return another one"
_MAPPING: Final = "dict(canvas) has all of it, canvas['options'] a part of it"
_CLASSES: Final = "each kind is a class: isinstance(canvas, chain)"
_NO_CONNECTION: Final = (
    "an app sends by itself, over one connection for each loop: await task.delay(…), await app.send_task(…)"
)
_A_WORKER: Final = "aiotq worker proj:app, or in code: async with app.worker():"
_GIVEN: Final = "it is given: app.control.inspect(destination, timeout)"
_OPTIONS: Final = "give options to @app.task, as attributes of a task class, or in the setting task_annotations"
_ACKNOWLEDGED: Final = (
    "a task that failed is acknowledged, and its result is kept; Reject() makes a dead letter of it, and "
    "Reject(requeue=True) hands it back"
)
_NO_PARTS: Final = (
    "an app has no classes to exchange: middleware, task classes, serializers and signals change what it does"
)

RESULT: Final[Names] = {
    "status": "it is await result.state()",
    "result": "the value is await result, what is there now await result.info()",
    "task_id": "it is result.id",
    "collect": _WALK,
    "iterdeps": _WALK,
    "get_leaf": "the result of a chain is that of its last step",
    "build_graph": "it is await result.graph()",
    "maybe_throw": _AWAIT,
    "maybe_reraise": _AWAIT,
    "throw": _AWAIT,
    "then": _CALLBACK,
    "on_ready": _CALLBACK,
    "ignored": "awaiting a call with ignore_result=True gives None",
    "backend": "results are read by the app that the result is of",
    "as_list": "it is as_tuple()",
    "app": "results are read by the app that the result is of",
    "exists": "nobody knows of a call that it will never come: await result.state() is PENDING meanwhile",
    "revoke_by_stamped_headers": "it is await app.admin.revoke(stamps=…)",
    "TimeoutError": "it is aiotq.ResultTimeout, which is Python's TimeoutError as well",
    "supports_native_join": "results are pushed to whoever waits, on every store",
}
#: Under `.sync`.
SYNC_RESULT: Final[Names] = {
    "status": "it is result.state",
    "result": "it is result.info: the value, the exception of a failure, or what the task told; get() waits for it",
    "task_id": "it is result.id",
}
RESULTS: Final[Names] = {
    "join_native": "it is await results.get()",
    "iterate": "it is async for result in results.as_completed()",
    "iter_native": "it is async for result in results.as_completed()",
    "collect": "it is await results.get()",
    "maybe_throw": "it is await results.get(): a failure is raised",
    "maybe_reraise": "it is await results.get(): a failure is raised",
    "then": _CALLBACK,
    "on_ready": _CALLBACK,
    "add": "make another one: ResultSet([*results, one], app)",
    "update": "make another one: ResultSet([*results, *more], app)",
    "remove": "make another one: ResultSet(…, app)",
    "discard": "make another one: ResultSet(…, app)",
    "clear": "make another one: ResultSet(…, app)",
    "delete": "it is await results.forget()",
    "backend": "results are read by the app that they are of",
    "app": "results are read by the app that they are of",
    "supports_native_join": "results are pushed to whoever waits, on every store",
}
CANVAS: Final[Names] = {
    "update": _VALUE,
    "replace": _VALUE,
    "copy": _VALUE,
    "append_to_list_option": _VALUE,
    "extend_list_option": _VALUE,
    "as_dict": "it is dict(canvas)",
    "name": "it is canvas.task",
    "type": "it is app.tasks[canvas.task]",
    "backend": "results are read by the app",
    "reprcall": "it is repr(canvas)",
    "flatten_links": "its callbacks are canvas.options['link']",
    "run": "it is await canvas.apply_async()",
    "prepare_steps": "it is freeze(), which fixes the ids of all calls",
    "set_parent_id": "the parent of a call is the task that sent it, or the step before it",
    "stamp_links": "stamp() stamps callbacks as well",
    "unchain_tasks": "only a chain has steps to take apart",
    "skew": "only a group has members to be started one after another",
    "skewed": "it is skew()",
    "election": "a signature is sent, and runs once",
    "partial": "it is clone(args, kwargs)",
    "AsyncResult": "it is app.AsyncResult(id)",
    "parent_id": "a call knows its parent when it is sent: self.request.parent_id in the task",
    "root_id": "a call knows its root when it is sent: self.request.root_id in the task",
    "register_type": _CLASSES,
    "subtask_type": _CLASSES,
    "TYPES": _CLASSES,
    "get": _MAPPING,
    "items": _MAPPING,
    "values": _MAPPING,
    "pop": _VALUE,
    "popitem": _VALUE,
    "setdefault": _VALUE,
    "clear": _VALUE,
    "fromkeys": "it is Signature.from_dict(…)",
}
TASK: Final[Names] = {
    "run": "call the task as the function that it was made of: add(2, 2); that function is task.fn",
    "backend": "results are read by the app: task.AsyncResult(id)",
    "from_config": _OPTIONS,
    "annotate": _OPTIONS,
    "abstract": "a task class is registered by app.register_task, others are not",
    "send_events": "workers tell what happens in them: aiotq worker --task-events",
    "signature_from_request": "self.retry() and self.replace() send this call again",
    "subtask_from_request": "self.retry() and self.replace() send this call again",
    "push_request": "in tests use aiotq.testing, which runs tasks as a worker does",
    "pop_request": "in tests use aiotq.testing, which runs tasks as a worker does",
    "request_stack": "self.request is the call that runs here",
    "Request": "self.request is the call that runs here; middleware wraps the runs of tasks",
    "Strategy": "middleware wraps the runs of tasks: app.add_middleware",
    "start_strategy": "middleware wraps the runs of tasks: app.add_middleware",
    "acks_on_failure_or_timeout": _ACKNOWLEDGED,
    "acks_on_failure": _ACKNOWLEDGED,
    "acks_on_timeout": _ACKNOWLEDGED,
    "retry_on_worker_lost": "it is reject_on_worker_lost",
    "shadow_name": "it is an option of a call: shadow=…",
    "store_eager_result": "it is the setting task_store_eager_result",
    "add_trail": "calls that a task makes are the children of its result without a word",
    "add_around": "middleware wraps the runs of tasks: app.add_middleware",
}
APP: Final[Names] = {
    "Task": "subclass aiotq.Task, and give it as base=, or as AioTQ(task_cls=…)",
    "task_cls": "it is given as AioTQ(task_cls=…)",
    "set_current": "it is app.set_default()",
    "current_task": "it is aiotq.current_task",
    "current_worker_task": "it is aiotq.current_task",
    "finalize": "tasks are registered when they are declared",
    "subtask": "it is app.signature",
    "GroupResult": "it is await GroupResult.restore(id, app)",
    "ResultSet": "it is ResultSet(results, app)",
    "start": _A_WORKER,
    "worker_main": _A_WORKER,
    "Worker": _A_WORKER,
    "WorkController": _A_WORKER,
    "Beat": "aiotq beat proj:app, or in code: async with app.beat():",
    "amqp": _NO_CONNECTION,
    "backend": "results are read by await app.AsyncResult(id)",
    "connection": _NO_CONNECTION,
    "connection_for_read": _NO_CONNECTION,
    "connection_for_write": _NO_CONNECTION,
    "default_connection": _NO_CONNECTION,
    "broker_connection": _NO_CONNECTION,
    "pool": _NO_CONNECTION,
    "producer_pool": _NO_CONNECTION,
    "producer_or_acquire": _NO_CONNECTION,
    "connection_or_acquire": _NO_CONNECTION,
    "add_defaults": "settings are given to AioTQ(…), app.conf.update(…) or app.config_from_object(…)",
    "loader": "app.load_tasks() imports the modules of tasks",
    "log": "logging is Python's: logging.getLogger(__name__)",
    "now": "it is datetime.now(UTC)",
    "timezone": "it is app.conf.timezone",
    "uses_utc_timezone": "times in messages are always in UTC",
    "bugreport": "aiotq report proj:app prints it",
    "select_queues": "aiotq worker proj:app -Q first,second, or app.worker(queues=[…])",
    "gen_task_name": "give tasks a name: @app.task(name=…)",
    "user_options": "read the environment, or a setting of your own module",
    "steps": "app.worker_lifespan opens what a worker needs, @app.control_command adds commands",
    "on_configure": "it is the signal app.on_after_configure",
    "autofinalize": "tasks are registered when they are declared",
    "register_celery_beat": "it is @app.periodic, app.add_periodic_task or the setting beat_schedule",
    "mail_admins": "a receiver of the signal task_failure can send mails",
    "annotations": "it is the setting task_annotations",
    "namespace": "it is given to app.config_from_object(…, namespace=…)",
    "configured": "settings are read when they are first needed: app.conf has them",
    "config_from_cmdline": "the environment has settings too: AIOTQ_…",
    "on_after_fork": "a process that was forked has connections of its own; signals.worker_process_init tells of it",
    "on_init": "it is __init__",
    "set_as_current": "it is app.set_default()",
    "finalized": "tasks are registered when they are declared",
    "create_task_cls": "subclass aiotq.Task, and give it as base=, or as AioTQ(task_cls=…)",
    "default_producer": _NO_CONNECTION,
    "fixups": "Django is set up where DJANGO_SETTINGS_MODULE is set",
    "builtin_fixups": "Django is set up where DJANGO_SETTINGS_MODULE is set",
    **dict.fromkeys(
        ("amqp_cls", "backend_cls", "control_cls", "events_cls", "loader_cls", "log_cls", "registry_cls"), _NO_PARTS
    ),
    "clock": "events have the time of the machine that tells them; workers' time: await app.control.inspect().clock()",
}
CONTROL: Final[Names] = {
    "purge": "it is await app.admin.purge(queue)",
    "discard_all": "it is await app.admin.purge(queue)",
    "revoke_by_stamped_headers": "it is await app.control.revoke(stamps=…), or await app.admin.revoke(stamps=…)",
    "election": "a permit of the ledger says which scheduler is the live one: nothing has to be elected",
    "mailbox": "workers are asked over the broker's bus: await app.control.broadcast(command)",
    "Mailbox": "workers are asked over the broker's bus: await app.control.broadcast(command)",
    "app": "it is the app that asks",
}
INSPECT: Final[Names] = {
    "registered_tasks": "it is await inspect.registered()",
    "hello": "workers don't speak to each other: await inspect.ping() says who is there",
    "memsample": "it is await inspect.memory()",
    "memdump": "it is await inspect.memory()",
    "objgraph": "await inspect.memory() says what allocated most; a command of your own can ask for more",
    "destination": _GIVEN,
    "timeout": _GIVEN,
    "pattern": f"{_GIVEN}: names and globs of workers",
    "matcher": f"{_GIVEN}: names and globs of workers",
    "limit": "all workers are asked, and those that did not answer are named",
    "callback": "what is awaited are all answers",
    "connection": _NO_CONNECTION,
    "app": "it is the app that asks",
}
#: Of Celery's package.
MODULE: Final[Names] = {
    "Celery": "the class is aiotq.AioTQ",
    "get_task_logger": "logging.getLogger(__name__): lines in JSON say which task logged them, whatever the logger",
    "task": "it is @app.task, or @shared_task",
    "subtask": "it is aiotq.signature",
    "maybe_signature": "it is aiotq.signature",
    "chunks": "it is task.chunks(items, size)",
    "xmap": "it is task.map(items)",
    "xstarmap": "it is task.starmap(items)",
    "uuid": "it is str(uuid.uuid4()), from Python's own module uuid",
    "set_default_app": "it is app.set_default()",
    "default_app": "it is aiotq.current_app",
    "bugreport": "aiotq report proj:app prints it",
    "VERSION_BANNER": "it is aiotq.__version__",
    "SERIES": "it is aiotq.__version__",
    "version_info": "it is aiotq.__version__",
    "local": "aiotq.current_app and aiotq.current_task are the only proxies",
}


def knows(names: Names) -> Callable[[Class], Class]:
    """Make a class say of `names`, which its instances don't have, what to write instead.

    Type checkers don't see it: to them each such name is an error.
    """

    def make(cls: Class) -> Class:
        def __getattr__(self: object, name: str) -> Any:
            raise AttributeError(no_attribute(f"{type(self).__name__!r} object", name, names), name=name, obj=self)

        cls.__getattr__ = __getattr__
        return cls

    return make


def no_attribute(what: str, name: str, names: Names) -> str:
    """Return the text for an attribute `name` that `what` does not have."""
    instead = f": {names[name]}" if name in names else ""
    return f"{what} has no attribute {name!r}{instead}"
