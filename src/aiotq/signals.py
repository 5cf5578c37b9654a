"""Signals: functions that you connect are called when something happens in callers and workers. Names are Celery's.

    @task_failure.connect
    def count(sender, exception, **more):
        failures[sender.name] += 1

A receiver is called with keyword arguments: `signal`, `sender` and those of the signal. It must take `**kwargs`, since
later versions may add more. A plain function is called on the event loop, in the context of the run, call or worker
(the task sees context variables that a receiver sets before it), and must not block. A coroutine function is awaited
there. An exception in a receiver is logged and has no other effect. Receivers belong to the process: signals of all
its apps are sent to them.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeVar, overload

from .core.values import value
from .exceptions import InvalidOption

logger = logging.getLogger("aiotq.signals")

Receiver = Callable[..., Any]
F = TypeVar("F", bound=Receiver)

#: The signals that have receivers. While it is empty, signals cost nothing.
connected: Final[set[Signal]] = set()
_changing: Final = threading.RLock()


@value(eq=False)
class _Connection:
    """A receiver and the sender that it is limited to (None: any)."""

    key: object
    sender: object
    find: Callable[[], Receiver | None]  #: returns None if the receiver was weakly referenced and is gone


class Signal:
    """A kind of event with its receivers. Without receivers it costs one check, `if signal.receivers:`."""

    def __init__(self, name: str, *provides: str) -> None:
        self.name = name
        #: The keyword arguments of its receivers, beside `signal` and `sender`.
        self.provides = provides
        self.receivers: tuple[_Connection, ...] = ()

    def __repr__(self) -> str:
        return f"<Signal {self.name}({', '.join(self.provides)})>"

    @overload
    def connect(self, fn: F, *, sender: object = None, weak: bool = True, dispatch_uid: str | None = None) -> F: ...
    @overload
    def connect(
        self, fn: None = None, *, sender: object = None, weak: bool = True, dispatch_uid: str | None = None
    ) -> Callable[[F], F]: ...
    def connect(
        self, fn: Any = None, *, sender: object = None, weak: bool = True, dispatch_uid: str | None = None
    ) -> Any:
        """Call `fn` at each signal: `@signal.connect`, `@signal.connect(sender=add)` or `signal.connect(fn)`.

        `sender` limits it to one task, worker or app, given as the object or its name. `fn` is referenced weakly: a
        function that is created inside another one needs `weak=False`. Connecting the same function, or the same
        `dispatch_uid`, for the same sender again has no effect.

        Raises:
            InvalidOption: `fn` can't be called, or does not take `**kwargs`.
        """
        if fn is None:

            def connect(function: F) -> F:
                return self.connect(function, sender=sender, weak=weak, dispatch_uid=dispatch_uid)

            return connect
        self._check(fn)
        key = _key(fn, sender, dispatch_uid)

        def forget(_: object) -> None:
            self._remove(key)

        def find() -> Receiver:
            return fn  # type: ignore[no-any-return]

        reference: Callable[[], Receiver | None] = find
        if weak:
            try:
                reference = weakref.WeakMethod(fn, forget) if inspect.ismethod(fn) else weakref.ref(fn, forget)
            except TypeError:
                raise InvalidOption(f"signal {self.name}: {fn!r} can't be weakly referenced: give weak=False") from None
        with _changing:
            if all(each.key != key for each in self.receivers):
                self.receivers = (*self.receivers, _Connection(key, sender, reference))
                connected.add(self)
        return fn

    def disconnect(self, fn: Receiver | None = None, *, sender: object = None, dispatch_uid: str | None = None) -> bool:
        """Remove the receiver that `connect` added with the same arguments; return whether there was one."""
        return self._remove(_key(fn, sender, dispatch_uid))

    async def send(self, sender: object, **named: Any) -> None:
        """Call the receivers, one after the other in the order in which they connected."""
        for receiver in self.receivers_of(sender):
            try:
                answer = receiver(signal=self, sender=sender, **named)
                if inspect.isawaitable(answer):
                    await answer
            except asyncio.CancelledError:
                task = asyncio.current_task()
                if task is not None and task.cancelling():
                    raise
                self._log(receiver)
            except (Exception, SystemExit):  # the user's code; SystemExit would end the loop
                self._log(receiver)

    def send_now(self, sender: object, **named: Any) -> None:
        """Like `send`, for code without a loop: a coroutine receiver runs to its end in a loop of its own."""
        for receiver in self.receivers_of(sender):
            try:
                answer = receiver(signal=self, sender=sender, **named)
                if inspect.iscoroutine(answer):
                    asyncio.run(answer)
            except (Exception, SystemExit):  # the user's code
                self._log(receiver)

    def receivers_of(self, sender: object) -> Iterator[Receiver]:
        """Yield the receivers to call for `sender`."""
        for each in self.receivers:
            if (each.sender is None or _is_same(each.sender, sender)) and (receiver := each.find()) is not None:
                yield receiver

    def modules(self) -> set[str]:
        """Return the names of the modules that define its receivers."""
        return {found.__module__ for each in self.receivers if (found := each.find()) is not None}

    def _remove(self, key: object) -> bool:
        with _changing:
            left = tuple(each for each in self.receivers if each.key != key)
            was_there = len(left) < len(self.receivers)
            self.receivers = left
            if not left:
                connected.discard(self)
        return was_there

    def _check(self, fn: object) -> None:
        if not callable(fn):
            raise InvalidOption(f"signal {self.name}: a receiver must be a function, not {fn!r}")
        try:
            parameters = inspect.signature(fn).parameters.values()
        except ValueError:  # a builtin without a signature
            return
        if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in parameters):
            raise InvalidOption(
                f"signal {self.name}: {fn!r} must take **kwargs: it is called with {', '.join(self.provides)}, "
                "and later versions may add more"
            )

    def _log(self, receiver: Receiver) -> None:
        logger.exception("receiver %r of signal %s failed", receiver, self.name)


def _key(fn: Receiver | None, sender: object, dispatch_uid: str | None) -> object:
    who: object = dispatch_uid
    if dispatch_uid is None:
        who = (id(fn.__self__), id(fn.__func__)) if inspect.ismethod(fn) else id(fn)
    return who, sender if isinstance(sender, str) else id(sender)


def _is_same(wanted: object, sender: object) -> bool:
    if isinstance(wanted, str) or isinstance(sender, str):
        return _name(wanted) == _name(sender)
    return wanted is sender


def _name(sender: object) -> object:
    return sender if isinstance(sender, str) else getattr(sender, "name", sender)


# Where calls are sent. Sender: the name of the task.
#: Before a call is sent to the broker. A receiver may change `headers` (the caller's own, and id, task and others of
#: the message) and the arguments in `body`.
before_task_publish: Final = Signal(
    "before_task_publish", "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"
)
#: The broker has accepted the call.
after_task_publish: Final = Signal("after_task_publish", "body", "exchange", "routing_key", "headers")

# In workers. Sender: the task, or its name if it is not registered; for the first three signals the worker.
#: A worker has received the message; it starts when a slot is free. Its arguments are not decoded yet.
task_received: Final = Signal("task_received", "request", "message")
#: No such task is registered in the worker.
task_unknown: Final = Signal("task_unknown", "name", "id", "message", "exc")
#: The message becomes a dead letter because of `reason`.
task_rejected: Final = Signal("task_rejected", "message", "exc", "reason")
#: The task was revoked before it started (`expired`: it expired) or while it ran (`terminated`).
task_revoked: Final = Signal("task_revoked", "request", "terminated", "signum", "expired")
#: Before the task runs.
task_prerun: Final = Signal("task_prerun", "task_id", "task", "args", "kwargs")
#: After the task ran, with any outcome: once for each `task_prerun`.
task_postrun: Final = Signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
task_success: Final = Signal("task_success", "result")
#: The task will run again, because of `reason`.
task_retry: Final = Signal("task_retry", "request", "reason", "einfo")
task_failure: Final = Signal("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
#: aiotq itself failed during the run.
task_internal_error: Final = Signal(
    "task_internal_error", "task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"
)

# In the life of a worker. Sender: the worker, or None in child processes.
#: On the command line, after the app is imported and before it connects: settings may still be changed.
celeryd_init: Final = Signal("celeryd_init", "instance", "conf", "options")
#: A worker is about to import tasks: a receiver may import more of them. Sender: the app.
import_modules: Final = Signal("import_modules")
#: Before the worker starts.
worker_init: Final = Signal("worker_init")
#: The worker takes tasks.
worker_ready: Final = Signal("worker_ready")
#: The worker begins to stop: `sig` is the name of the signal, if there was one; `how` is "Warm" or "Cold" (no grace).
worker_shutting_down: Final = Signal("worker_shutting_down", "sig", "how", "exitcode")
#: All outcomes are committed; the worker's lifespans are still open.
worker_shutdown: Final = Signal("worker_shutdown")
#: In a child process for `run="process"`, before its first task.
worker_process_init: Final = Signal("worker_process_init")
#: In the child process, before it exits; not sent if it is killed.
worker_process_shutdown: Final = Signal("worker_process_shutdown", "pid", "exitcode")

# In the life of a scheduler. Sender: the scheduler.
#: `aiotq beat` begins to schedule periodic tasks.
beat_init: Final = Signal("beat_init")
#: The same for a scheduler in another program: `aiotq worker --beat`, or `async with app.beat():`.
beat_embedded_init: Final = Signal("beat_embedded_init")

# The logging of `aiotq worker`, after the app is imported. Sender: None.
#: A receiver of this signal sets up logging in place of the command.
setup_logging: Final = Signal("setup_logging", "loglevel", "logfile", "format", "colorize")
after_setup_logger: Final = Signal("after_setup_logger", "logger", "loglevel", "logfile", "format", "colorize")
after_setup_task_logger: Final = Signal(
    "after_setup_task_logger", "logger", "loglevel", "logfile", "format", "colorize"
)
