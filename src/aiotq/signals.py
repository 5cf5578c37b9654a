"""Signals: what happens in senders and workers, told to whoever connected, under Celery's names.

    @task_failure.connect
    def count(sender, exception, **more):
        failures[sender.name] += 1

A receiver is called with keyword arguments: `signal`, `sender` and what the signal documents; more may come, so it
takes `**kwargs`. A plain function is called on the loop, in the context of what it is told about (context variables
that it sets before a task are seen by the task), and must not block; a coroutine function is awaited there. What
either raises is logged and changes nothing. Receivers are the process's own, whatever app the sender belongs to.
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

#: The signals that anybody listens to: empty, and nothing of all this costs anything.
connected: Final[set[Signal]] = set()
_changing: Final = threading.RLock()


@value(eq=False)
class _Connection:
    """A receiver and the sender it asks for (None: any)."""

    key: object
    sender: object
    find: Callable[[], Receiver | None]  #: None when it was weakly referenced and is gone


class Signal:
    """Something that happens, and who is told of it; `if signal.receivers:` is all it costs when nobody is."""

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
        """Have `fn` called: `@signal.connect`, `@signal.connect(sender=add)` or `signal.connect(fn)`.

        `sender` limits it to one task, worker or app, or by the name of one. `fn` is referenced weakly: a function
        made inside another one is gone with it unless `weak=False`. Connecting the same function, or the same
        `dispatch_uid`, for the same sender again changes nothing.

        Raises:
            InvalidOption: `fn` can't be called, or takes no `**kwargs`.
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
        """Stop what `connect` with the same arguments began; whether there was anything to stop."""
        return self._remove(_key(fn, sender, dispatch_uid))

    async def send(self, sender: object, **named: Any) -> None:
        """Tell the receivers, one after the other in the order in which they connected."""
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
        """As `send`, where no loop runs: a coroutine is run to its end in a loop of its own."""
        for receiver in self.receivers_of(sender):
            try:
                answer = receiver(signal=self, sender=sender, **named)
                if inspect.iscoroutine(answer):
                    asyncio.run(answer)
            except (Exception, SystemExit):  # the user's code
                self._log(receiver)

    def receivers_of(self, sender: object) -> Iterator[Receiver]:
        """The functions that are to be called for `sender`."""
        for each in self.receivers:
            if (each.sender is None or _is_same(each.sender, sender)) and (receiver := each.find()) is not None:
                yield receiver

    def modules(self) -> set[str]:
        """Return the names of the modules in which its receivers are."""
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
                f"signal {self.name}: {fn!r} must take **kwargs: it is given {', '.join(self.provides)}, "
                "and more may come"
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
#: Before a call is given to the broker. `headers` (the caller's own with id, task and others of the message) and the
#: arguments in `body` may be changed.
before_task_publish: Final = Signal(
    "before_task_publish", "body", "exchange", "routing_key", "headers", "properties", "declare", "retry_policy"
)
#: The broker has it.
after_task_publish: Final = Signal("after_task_publish", "body", "exchange", "routing_key", "headers")

# Where tasks run. Sender: the task, or where there is none its name; of the first three the worker.
#: A worker has taken the message; it starts when there is a slot. Its arguments are not decoded yet.
task_received: Final = Signal("task_received", "request", "message")
#: No such task is registered in the worker.
task_unknown: Final = Signal("task_unknown", "name", "id", "message", "exc")
#: The message goes to the dead letters, for `reason`.
task_rejected: Final = Signal("task_rejected", "message", "exc", "reason")
#: It was revoked before it started (`expired`: because it was too late) or where it ran (`terminated`).
task_revoked: Final = Signal("task_revoked", "request", "terminated", "signum", "expired")
#: Before the task runs.
task_prerun: Final = Signal("task_prerun", "task_id", "task", "args", "kwargs")
#: After it ran, whatever came of it: once for each `task_prerun`.
task_postrun: Final = Signal("task_postrun", "task_id", "task", "args", "kwargs", "retval", "state")
task_success: Final = Signal("task_success", "result")
#: It is to run again, because of `reason`.
task_retry: Final = Signal("task_retry", "request", "reason", "einfo")
task_failure: Final = Signal("task_failure", "task_id", "exception", "args", "kwargs", "traceback", "einfo")
#: aiotq itself failed while it ran.
task_internal_error: Final = Signal(
    "task_internal_error", "task_id", "args", "kwargs", "request", "exception", "traceback", "einfo"
)

# In the life of a worker. Sender: the worker, or in child processes None.
#: On the command line, when the app is imported and nothing is connected: settings may still be changed.
celeryd_init: Final = Signal("celeryd_init", "instance", "conf", "options")
#: A worker is about to look for tasks: a receiver may import more of them. Sender: the app.
import_modules: Final = Signal("import_modules")
#: Before it starts.
worker_init: Final = Signal("worker_init")
#: It takes tasks.
worker_ready: Final = Signal("worker_ready")
#: It begins to stop: `sig` is the signal's name where a signal said so, `how` is "Warm" or "Cold" (no grace time).
worker_shutting_down: Final = Signal("worker_shutting_down", "sig", "how", "exitcode")
#: All is committed; what its lifespans opened is still there.
worker_shutdown: Final = Signal("worker_shutdown")
#: In a child process for `run="process"`, before its first task.
worker_process_init: Final = Signal("worker_process_init")
#: There, before it exits; not when it is killed.
worker_process_shutdown: Final = Signal("worker_process_shutdown", "pid", "exitcode")

# The logging of `aiotq worker`, told when the app is imported. Sender: None.
#: A receiver of this sets up logging in place of the command.
setup_logging: Final = Signal("setup_logging", "loglevel", "logfile", "format", "colorize")
after_setup_logger: Final = Signal("after_setup_logger", "logger", "loglevel", "logfile", "format", "colorize")
after_setup_task_logger: Final = Signal(
    "after_setup_task_logger", "logger", "loglevel", "logfile", "format", "colorize"
)
