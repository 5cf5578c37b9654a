"""One task: its options, its calling API, and the request of a call while it runs."""

from __future__ import annotations

import asyncio
import functools
import inspect
import time
import weakref
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, ParamSpec, Self, TypeVar, Unpack, cast

from .. import exceptions, states
from ..calling.arguments import ArgumentCheck, given_arguments
from ..canvas.composites import Chunks
from ..canvas.outcome import Replace
from ..canvas.serialized import chunked
from ..canvas.signature import Canvas, Signature
from ..canvas.structure import ending_in_one_call, final_calls, frozen
from ..core.celery_names import TASK, knows
from ..core.child import is_child
from ..core.sync import expect_loop, no_loop
from ..core.tracebacks import described
from ..core.values import shown
from ..exceptions import CallError, InvalidOption, MaxRetriesExceededError, Retry
from ..results import handle
from ..results.eager_result import EagerResult
from ..wire.message import MAX_NAME, is_name
from .calls import CallHere, Configured, SyncCalls, sync_call
from .checkpoints import Checkpointing
from .current_app import default_core
from .dependencies import dependencies_of
from .handlers import Handlers, overridden
from .models import with_models
from .on_commit import OnCommit
from .options import (
    DECLARABLE,
    READABLE,
    CallOptions,
    Declared,
    TaskOptions,
    check_options_here,
    said,
)
from .own_events import tell_own
from .request import Request, running_request
from .retries import check_retry
from .running import Running, call_apart, calling_run, current_request, entered, gives_coroutine, is_generator
from .streaming import Streaming, streamed, streams
from .streams import Streamed
from .taking import Taking
from .task_core import TaskCore

if TYPE_CHECKING:
    from ..app import AioTQ
    from ..canvas.stamping import StampingVisitor

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")

#: The error for a method that only a running task can call.
_NOT_RUNNING: Final = "no task runs here; call it in a task's code, while a worker (or apply) runs that"


@knows(TASK)
class Task(Declared, Handlers, Taking, Streaming, Checkpointing, OnCommit[P], Generic[P, R]):
    """A registered function; made by `@app.task`.

    ```python
    await add.delay(2, 2)                        # send a call
    await add.options(queue="hi").delay(2, 2)    # with options
    add(2, 2)                                    # call the function in this process
    ```
    """

    fn: Callable[..., Any]
    is_coroutine: bool
    called: Callable[..., Any]  #: by a worker: the function, or the `__call__` that a task class has of its own
    handlers: frozenset[str]
    __name__: str
    shared: Task[..., Any] | None  #: the task of `shared_task` that it is one app's own of
    _own_core: TaskCore | None
    _own_copies: weakref.WeakSet[Task[..., Any]]
    _calls_its_own_way: bool

    OperationalError: ClassVar = exceptions.OperationalError
    MaxRetriesExceededError: ClassVar = exceptions.MaxRetriesExceededError

    @classmethod
    def of(
        cls,
        fn: Callable[..., Any],
        name: str,
        options: TaskOptions,
        core: TaskCore | None = None,
        like: Task[..., Any] | None = None,
    ) -> Self:
        """Return the task that calls `fn`; with the attributes of `like`, or as the class's own constructor makes it.

        Without a `core` it is a shared task, whose app depends on where it is used.

        Raises:
            InvalidOption: the options don't go with the function, or the constructor needs arguments.
        """
        task = cls.__new__(cls)
        if options.pydantic:
            fn = with_models(fn)
        functools.update_wrapper(task, fn)
        task.fn = fn
        task.__dict__["name"] = name
        task.handlers = overridden(cls)
        task._own_core = core
        task._returned = None
        task.shared = None
        task._own_copies = weakref.WeakSet()
        task._calls_its_own_way = calls_its_own_way(cls)
        task.is_coroutine = gives_coroutine(fn) or is_generator(fn)
        task.runs_in = options.run or ("loop" if task.is_coroutine else "thread")
        if task.runs_in == "loop" and not task.is_coroutine:
            raise InvalidOption(f'task {name}: run="loop" needs an async def function; leave it out or use "thread"')
        if task.runs_in == "thread" and task.is_coroutine:
            raise InvalidOption(f'task {name}: run="thread" needs a plain function; leave it out for an async def')
        if options.transactional and (task.runs_in != "loop" or options.acks_late is False):
            raise InvalidOption(
                f"task {name}: a transactional task is an async def that runs on the loop and is acknowledged late"
            )
        if inspect.iscoroutinefunction(cls.__call__) and not task.is_coroutine:
            raise InvalidOption(f"task {name}: {cls.__name__} has an async __call__, which needs an async def")
        task.declare(options)
        needs = task.dependencies = dependencies_of(fn, name, skip_first=options.bind)
        if needs is not None:
            needs.check_way(runs_in=task.runs_in, is_coroutine=task.is_coroutine)
        injected = () if needs is None else needs.names
        task._arguments = ArgumentCheck(fn, name, skip_first=options.bind, injected=injected)
        task.check_keys()
        if like is not None:
            own = {name: given for name, given in vars(like).items() if name not in DECLARABLE}
            task.__dict__.update(own)
        elif cls.__init__ is not object.__init__:
            _construct(task)
        task.called = task._function if cls.__call__.__module__ == __name__ else partial(entered, task)
        if streams(task):
            task.called = streamed(task, task.called)
        return task

    def __repr__(self) -> str:
        return f"<Task: {self.name}>"

    def __setattr__(self, name: str, given: Any) -> None:
        super().__setattr__(name, given)
        if name in READABLE:
            for copy in self.__dict__.get("_own_copies", ()):
                setattr(copy, name, given)

    def be_one_of(self, shared: Task[..., Any]) -> None:
        """Make this the copy of `shared` that one app has: an option that is set on `shared` is set here too."""
        self.shared = shared
        shared._own_copies.add(self)

    @property
    def app(self) -> AioTQ:
        """The app this task belongs to; for a shared task the one whose task runs here, or the last one made."""
        return self._core.app

    @property
    def _core(self) -> TaskCore:
        """The core of its app."""
        if self._own_core is not None:
            return self._own_core
        running: Task[..., Any] | None = running_request.get().runner
        if running is not None and running._own_core is not None:
            return running._own_core
        if not default_core:
            raise CallError(f"shared task {self.name} has no app: create an AioTQ first")
        return default_core[0]

    @property
    def request(self) -> Request:
        """The running call; of a task that another one calls as a function, that call."""
        return current_request()

    @property
    def sync(self) -> SyncCalls[P, R]:
        """The calling API for code without a loop: `add.sync.delay(2, 2).get(timeout=3)`."""
        return SyncCalls(self)

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Call the function in this process, without a queue.

        In the code of a running task it has a request of its own (`called_directly`), and can't retry or replace that
        task.
        """
        if (run := calling_run(self)) is None:
            return self._function(*args, **kwargs)
        own = Request(task=self.name, args=tuple(args), kwargs=kwargs, runner=self)
        return call_apart(self._function, own, run, args, kwargs, is_coroutine=self.is_coroutine)

    @property
    def _function(self) -> Callable[..., Any]:
        """The function as it is called: with the task as the first argument, if that is declared."""
        return partial(self.fn, self) if self.declared.bind else self.fn

    def delay(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, handle.AsyncResult[R]]:
        """Send a call with these arguments. On return the broker has accepted it, and it won't be lost.

        Raises:
            CallError: no event loop runs here; use `task.sync.delay(…)`.
            InvalidArguments: they don't fit the function's signature; no message was sent.
            EncodeError, MessageTooLarge: an argument can't be sent; no message was sent.
            PublishTimeout: the broker did not accept the call in time.
        """
        if self._calls_its_own_way:
            return self.apply_async(args, kwargs)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise no_loop(sync_call(self.__name__, args, kwargs)) from None
        return self._core.call(self, args, kwargs, {})

    def apply_async(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Coroutine[Any, Any, handle.AsyncResult[R]]:
        """Send a call with options (`CallOptions`; None: not given). Raises like `delay`, and `InvalidOption`.

        A task class that overrides this is asked for each call of its tasks by `delay`, `options`, a signature, and
        their `.sync`; not for the steps of workflows.
        """
        expect_loop(f"{self.__name__}.sync.apply_async(…)")
        return self._core.call(self, *given_arguments(self.name, args, kwargs), said(options))

    def options(self, **options: Unpack[CallOptions]) -> Configured[P, R]:
        """Return this task with options for its calls, checked by type checkers."""
        return Configured(self, said(options))

    async def apply(
        self,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        *,
        throw: bool | None = None,
        retries: int = 0,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R]:
        """Run a call in this process, by the rules of a worker.

        Arguments and value are serialized and decoded, limits apply, and exceptions are caught. A function that workers
        run in a thread or process runs in a thread, without a hard limit. Retries, callbacks and a replacement run at
        once. Signals of runs, middleware and handlers are called as in a worker. `throw` (default: the setting
        `task_eager_propagates`) raises the task's exception. The call runs as if it had been retried `retries` times.

        Raises:
            InvalidOption: an option has no meaning for a call that runs in this process.
        """
        args, kwargs = given_arguments(self.name, args, kwargs)
        options = said(options)
        check_options_here(self.name, options, retries)
        return await self._core.apply_call(CallHere(self, args, kwargs, options, throw, retries))

    def s(self, /, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return a signature of this task with these arguments."""
        return Signature(self.name, args, kwargs, sender=self._core)

    def si(self, /, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return a signature that takes no further arguments."""
        return Signature(self.name, args, kwargs, immutable=True, sender=self._core)

    def signature(
        self, args: Sequence[Any] | None = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature[R]:
        """Return a signature with arguments and options of the call."""
        args, kwargs = given_arguments(self.name, args, kwargs)
        return Signature(self.name, tuple(args), kwargs, said(options), sender=self._core)

    subtask = signature

    def AsyncResult(self, task_id: str) -> handle.AsyncResult[R]:
        """Return the result of a call of this task by its id."""
        return handle.AsyncResult(task_id, self._core, task_name=self.name)

    def map(self, items: Iterable[Any]) -> Signature[list[R]]:
        """Return a signature of one call that runs the task for each of `items`, in order; its value is a list."""
        return Signature(self.name, (list(items),), immutable=True, mode="map", sender=self._core)

    def starmap(self, items: Iterable[Sequence[Any]]) -> Signature[list[R]]:
        """Like `map`, with items that are sequences of arguments."""
        return Signature(self.name, (list(items),), immutable=True, mode="starmap", sender=self._core)

    def chunks(self, items: Iterable[Sequence[Any]], size: int) -> Chunks[list[R]]:
        """Return a group of `starmap`s over `items`, `size` of them in each.

        Raises:
            CallError: `size` is not a whole number above 0.
        """
        return chunked(self.s(), items, size)

    def replace(self, canvas: Canvas[Any], visitor: StampingVisitor | None = None) -> Replace:
        """Replace this call by `canvas`: it runs under the same id, and gets this call's next steps and callbacks.

            raise self.replace(add.s(2, 2))

        A caller that awaits this call gets the value of `canvas`; of a group, the list of its values. `canvas` gets the
        stamps of this call too, before its own and those that `visitor` returns.

        Raises:
            Replace: always, except for errors.
            CallError: no task runs here, or `canvas` is not a signature.
        """
        if current_request().called_directly:
            raise CallError(f"{self.name}.replace: {_NOT_RUNNING}")
        if not isinstance(cast(object, canvas), Canvas):
            raise CallError(f"{self.name}.replace takes a signature, not {canvas!r}")
        return self.on_replace(canvas if visitor is None else canvas.stamp(visitor, append_stamps=True))

    def on_replace(self, canvas: Canvas[Any]) -> Replace:
        """Called by `replace` with what takes this call's place; a class may override it to give another one.

            def on_replace(self, canvas):
                return super().on_replace(canvas.set(priority=9))

        Raises:
            Replace: always; one of your own raises it by calling this one.
        """
        raise Replace(canvas)

    def add_to_chord(self, canvas: Canvas[Any]) -> Coroutine[Any, Any, handle.AsyncResult[Any]]:
        """Add `canvas` to the header of the chord that this call is a member of; return its result.

        It is sent together with the outcome of this call, if this call succeeds; otherwise it is not sent. Its value
        comes after those of the other members.

        Raises:
            CallError: no task runs here, or it is not a member of a chord.
        """
        expect_loop("self.sync.add_to_chord(…)")
        return self._add_to_chord(canvas)

    async def _add_to_chord(self, canvas: Canvas[Any]) -> handle.AsyncResult[Any]:
        request = current_request()
        if request.step is None or request.step.chord_member is None:
            raise CallError(f"{self.name}.add_to_chord: the running task is not in the header of a chord")
        whole = frozen(ending_in_one_call(canvas))
        request.added.append(whole)
        return handle.AsyncResult(
            final_calls(whole)[0].options["task_id"], self._core, task_name=canvas.__class__.__name__, sent=True
        )

    def update_state(self, state: str, meta: Any = None, *, task_id: str | None = None) -> Coroutine[Any, Any, None]:
        """Store a state of this call with `meta` as its info, and push it to callers that follow the call.

        `task_id`, if given, must be this call's id.

        Raises:
            CallError: no task runs here, `task_id` is another call, or `state` is one that only a worker sets.
            EncodeError: `meta` can't be serialized.
        """
        expect_loop("self.sync.update_state(…)")
        return self._update_state(state, meta, task_id)

    async def _update_state(self, state: str, meta: Any, task_id: str | None) -> None:
        request = current_request()
        if request.id is None:
            raise CallError(f"{self.name}.update_state: {_NOT_RUNNING}")
        if task_id is not None and task_id != request.id:
            raise CallError(
                f"{self.name}.update_state: {task_id} is not the running call, and only that can change its state"
            )
        if not is_name(state):
            raise CallError(
                f"{self.name}.update_state: a state is a string of 1 to {MAX_NAME} printable characters, not {state!r}"
            )
        if states.is_ready(state) or state == states.PENDING:
            raise CallError(f"state {state} is set by the worker when the task ends; choose another for progress")
        await self._core.update_state(request, state, meta)

    def send_event(self, type_: str, **fields: Any) -> None:
        """Tell an event of this call, if somebody reads events: `self.send_event("upload-stored", size=7)`.

        It is sent with others a moment later, or lost: nobody waits. From a child process it comes when the task has
        returned.

        Raises:
            CallError: no task runs here; the type is no group and what happened; the fields have over 16 kB, or names
                that every event has.
            EncodeError: a field has no form in JSON.
        """
        request = current_request()
        if is_child():  # where there may be no app
            tell_own(None, request, self.name, type_, fields, time.time())
        else:
            self._core.send_event(request, self.name, type_, fields)

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | None = None,
        countdown: float | timedelta | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run this call again later, under the same id: `raise self.retry(exc=exc, countdown=60)`.

        The retry is due after `countdown` seconds, at `eta`, or after the task's `default_retry_delay`. Until then it
        waits in the broker. `args`, `kwargs` and `options` (queue, priority, expires, time limits, shadow, headers)
        replace those of the call. With `throw=False` the exception is returned instead of raised.

        Raises:
            Retry: always, except in the cases below.
            MaxRetriesExceededError, or `exc` if given: the call has had `max_retries` retries already.
            CallError, or `exc` if given: no task runs here.
            InvalidOption: an option is unknown or has an impossible value.
            EncodeError: a header has no form in JSON.
        """
        request = current_request()
        if request.called_directly:
            if exc is not None:
                raise exc
            raise CallError(f"{self.name}.retry: {_NOT_RUNNING}")
        if isinstance(countdown, timedelta):
            countdown = countdown.total_seconds()
        name = f"{self.name}.retry"
        check_retry(name, {**options, "eta": eta, "countdown": countdown}, self.runs_in)
        options = said(options)
        if "queue" in options:
            self._core.builder.check_queue(options["queue"])
        given_arguments(name, args, kwargs)
        if exc is not None and not isinstance(cast(object, exc), BaseException):
            raise InvalidOption(f"{name}: exc must be an exception, not {shown(exc)}")
        if max_retries is not None and (type(max_retries) is not int or max_retries < 0):
            raise InvalidOption(f"{name}: max_retries must be a whole number, 0 or more, not {max_retries!r}")
        most = self.max_retries if max_retries is None else max_retries
        if most is not None and request.retries >= most:
            if exc is not None:
                raise exc
            raise MaxRetriesExceededError(
                f"Can't retry {self.name}[{request.id}] more than {most} times: "
                f"args {shown(request.args)}, kwargs {shown(request.kwargs)}"
            )
        delay = self.default_retry_delay if countdown is None and eta is None else countdown
        when = f"at {eta.isoformat()}" if eta is not None else f"in {delay:g} s"
        reason = f"retry {when}" if exc is None else f"retry {when}: {described(exc)}"
        again = Retry(reason, exc, delay=delay, eta=eta, call_args=args, call_kwargs=kwargs, options=options or None)
        if throw:
            raise again from exc
        return again

    def running(self, request: Request) -> Running:
        """Make this task the running one of this context, for `request` and `current_task`."""
        return Running(self, request)


def calls_its_own_way(kind: type[Task[..., Any]]) -> bool:
    """Whether a task class overrides `apply_async`, and so is to be asked for each call."""
    original: Any = vars(Task)["apply_async"]
    return getattr(kind, "apply_async") is not original  # noqa: B009 (of a class that is generic)


def _construct(task: Task[..., Any]) -> None:
    """Call the constructor that a task class has of its own."""
    kind: Any = type(task)
    try:
        inspect.signature(kind.__init__).bind(task)
    except TypeError as exc:
        raise InvalidOption(
            f"task class {kind.__qualname__}: its __init__ needs arguments ({exc}); give app.register_task an instance"
        ) from None
    kind.__init__(task)


class CoroutineTask(Task[P, R]):
    """A task made from an `async def`: calling it returns the coroutine."""

    if TYPE_CHECKING:

        def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]: ...


class FunctionTask(Task[P, R]):
    """A task made from a plain function: calling it returns its value."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        return cast(R, super().__call__(*args, **kwargs))


class StreamTask(Task[P, Streamed[C]]):
    """A task made from an async generator: calling it returns the generator."""

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> AsyncIterator[C]:
        calling_run(self)  # it was, if a worker was about to call it
        return cast("AsyncIterator[C]", self._function(*args, **kwargs))
