"""The composition root: an app's registry of tasks, its settings, and its connections, one a running loop."""

from __future__ import annotations

import importlib
import os
import socket
import weakref
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar, Unpack, cast, overload

from .calling.builder import Builder
from .calling.connection import DISABLED, Connection
from .calling.connections import Connections
from .calling.envelopes import given_arguments
from .calling.middleware import OutgoingCall
from .calling.publish_signals import Call, tell_after, tell_before
from .calling.publisher import RetryPolicy, persistence_of_calls
from .calling.surroundings import Surroundings
from .calling.workflows import send_workflow, through_middleware
from .canvas import Signature
from .canvas.planner import Planner, firsts
from .canvas.serialized import signature
from .canvas.signature import Canvas
from .control.admin import Admin
from .core import settings
from .core.clock import SYSTEM_CLOCK, Clock
from .core.settings import Settings
from .core.sync import Bridge
from .exceptions import ResultsDisabled, SettingsError
from .results import Joined, Record, handle
from .results.document import Called, DocumentCodec
from .results.handle import Reader
from .results.neighbours import Neighbours
from .results.sets import ResultSet
from .signals import after_task_publish, before_task_publish, connected
from .tasks.options import CallOptions, check_options, check_retry_policy, check_route_option, said
from .tasks.registry import TaskRegistry
from .tasks.request import Request, running_request
from .tasks.task import Task, current_trails, set_default_home
from .transport.routing import Router, check_queues, check_routes, check_weights
from .wire.codecs import Codecs, check_secret, check_secrets
from .wire.message import Envelope, Message

if TYPE_CHECKING:
    from .canvas.coordinator import Coordinator
    from .worker.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
Handle = TypeVar("Handle")
T = TypeVar("T")

_CHECKS: Final[Mapping[str, settings.Check]] = {
    "security_key": check_secret,
    "security_previous_keys": check_secrets,
    "task_publish_retry_policy": check_retry_policy,
    "task_queues": check_queues,
    "task_routes": lambda given: check_routes(given, check_route_option),
    "worker_queue_weights": check_weights,
}
#: Options that count before a message is made.
_OF_SENDING: Final = frozenset({"publish_timeout", "retry", "retry_policy"})
_LINKS: Final = frozenset({"link", "link_error"})
#: What an app under test has another one of.
_REPLACED: Final = (
    *("conf", "clock", "bridge", "_memory", "_codec", "_router", "_coordinator_class"),
    *("_connections", "_last_loop", "_last_connection"),
)


class AioTQ(TaskRegistry, Surroundings, Codecs, Connections):
    """An application: its tasks, its settings and its connections.

        app = AioTQ("proj", broker="sqlite:///proj.db")

        @app.task
        async def add(x: int, y: int) -> int:
            return x + y

        async with app:
            result = await add.delay(2, 2)
            assert await result == 4

    `main` is the name given to the module of tasks declared in a script. `broker` and `backend` are URLs (settings
    `broker_url` and `result_backend`); other settings may be given by name. Without `async with` the app connects
    with its first call, once for each running loop. `task_cls` is the class of tasks that name no `base`.

    Raises:
        SettingsError: a setting is unknown or has a value it can't have.
    """

    def __init__(
        self,
        main: str | None = None,
        *,
        broker: str | None = None,
        backend: str | None = None,
        include: Iterable[str] = (),
        clock: Clock = SYSTEM_CLOCK,
        task_cls: type[Task[..., Any]] | None = None,
        **more_settings: Any,
    ) -> None:
        checks = {**_CHECKS, "task_annotations": self.annotate_tasks}
        TaskRegistry.__init__(self, main, Settings(checks=checks), task_cls)
        Surroundings.__init__(self)
        self.clock = clock
        self.conf.update(settings.from_environment(os.environ))
        given = {"broker_url": broker, "result_backend": backend, "include": tuple(include) or None}
        self._arguments = {name: value for name, value in given.items() if value is not None} | more_settings
        self.conf.update(self._arguments)
        Codecs.__init__(self, lambda: [task.fn for task in self.tasks.values()], main)
        Connections.__init__(self)
        self._codec: DocumentCodec | None = None
        self._router: Router | None = None
        self._coordinator_class: type[Coordinator] | None = None
        self.origin = f"{os.getpid()}@{socket.gethostname()}"
        self.builder = Builder(self)
        set_default_home(self)

    def __repr__(self) -> str:
        return f"<AioTQ {self.main or '(no name)'}>"

    def config_from_object(self, source: object, *, namespace: str = "") -> None:
        """Take settings from a mapping, a module, class or object, or the import path of one (`"proj.config"`).

        The environment and the arguments given to `AioTQ` stay above them. With `namespace="AIOTQ"` only names
        that begin with `AIOTQ_` count.

        Raises:
            SettingsError: one of them is unknown or has a value it can't have.
        """
        if isinstance(source, str):
            source = _import_object(source)
        self.conf.update(settings.from_object(source, namespace))
        self.conf.update(settings.from_environment(os.environ))
        self.conf.update(self._arguments)

    def config_from_envvar(self, variable_name: str, silent: bool = False, *, namespace: str = "") -> bool:
        """Take settings from the module that an environment variable names (`PROJ_CONFIG=proj.config`).

        Otherwise as `config_from_object`. With `silent` nothing happens if the variable is not set; whether it is, is
        returned.

        Raises:
            SettingsError: it is not set, names no module, or a setting in that can't be used.
        """
        path = os.environ.get(variable_name, "").strip()
        if not path:
            if silent:
                return False
            raise SettingsError(f"environment variable {variable_name} is not set: it is to name a module of settings")
        try:
            found = _import_object(path)
        except (ImportError, AttributeError) as exc:
            raise SettingsError(f"environment variable {variable_name}: {path!r} can't be imported: {exc}") from exc
        self.config_from_object(found, namespace=namespace)
        return True

    @contextmanager
    def replaced(
        self,
        changed: Mapping[str, Any],
        *,
        clock: Clock,
        memory: Mapping[tuple[str, str], Any],
        coordinator: type[Coordinator],
    ) -> Generator[None, None, None]:
        """Have other settings and other parts for a while, and connections apart; what a test does to an app.

        Raises:
            SettingsError: one of the `changed` settings can't be so.
        """
        conf = self.conf.copy()
        conf.update(changed)
        own = {name: getattr(self, name) for name in _REPLACED}
        try:
            self.conf, self.clock, self._memory, self._coordinator_class = conf, clock, dict(memory), coordinator
            self._connections = weakref.WeakKeyDictionary()
            self._last_loop = self._last_connection = self._codec = self._router = None
            self.bridge = Bridge(self.close)
            yield
        finally:
            vars(self).update(own)
            self.annotate_tasks(self.conf.task_annotations)

    def _home(self) -> AioTQ:
        return self

    async def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> handle.AsyncResult[Any]:
        """Call a task by name, which need not be registered here; raises as `Task.delay`."""
        return await self.call(self.tasks.get(name, name), *given_arguments(name, args, kwargs), said(options))

    async def send_many(self, signatures: Iterable[Signature[R]]) -> ResultSet[R]:
        """Send many calls in one round trip; their results in order.

            results = await app.send_many(add.s(i, i) for i in range(1000))
            values = await results

        All of them are checked before any is sent.
        """
        if not self.onion.senders:
            return ResultSet(await self._send(signatures), self)
        calls = [OutgoingCall(it.task, it.args, it.kwargs, cast(CallOptions, it.options)) for it in signatures]
        return ResultSet(await self.onion.send(calls, self._send), self)

    async def _send(self, asked: Iterable[Call]) -> Sequence[handle.AsyncResult[Any]]:
        """Send calls in one round trip, inside of all middleware."""
        calls = [(self.tasks.get(each.task, each.task), each) for each in asked]
        if self.conf.task_always_eager:
            return [await self._call_eagerly(task, it.args, it.kwargs, it.options) for task, it in calls]
        timeouts: list[float] = []
        for _, call in calls:
            wanted = call.options.get("publish_timeout")
            if not _OF_SENDING.isdisjoint(call.options):
                check_options(call.task, call.options)
            timeouts.append(self.conf.task_publish_timeout if wanted is None else wanted)
        if not calls:
            return []
        timeout = max(timeouts)
        persistence = self.persistence(call.options for _, call in calls)
        connection = await self.connected_within(timeout, calls[0][1].options.get("task_id"), persistence)
        sent: list[Envelope] = []
        copies: list[Envelope] = []
        for task, call in calls:
            envelopes = self._envelopes(connection, task, call.args, call.kwargs, call.options)
            if before_task_publish.receivers:
                envelopes = await tell_before(call, envelopes, partial(self._envelopes, connection, task))
            sent.append(envelopes[0])
            if len(envelopes) > 1:
                copies.extend(envelopes[1:])
        await connection.publisher.publish([*sent, *copies] if copies else sent, timeout, (), persistence)
        if running_request.get().id is not None:
            for envelope, (_, call) in zip(sent, calls, strict=True):
                self._remember_child(envelope.message.id, call.options)
        if after_task_publish.receivers:
            for envelope, (_, call) in zip(sent, calls, strict=True):
                await tell_after(call, envelope)
        return [self._result(envelope) for envelope in sent]

    async def call(
        self, task: Task[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> handle.AsyncResult[Any]:
        """Send one call; what `Task.delay` and `send_task` do."""
        if options and ("link" in options or "link_error" in options):
            name = task if isinstance(task, str) else task.name
            linked: Signature[Any] = Signature(name, tuple(args), kwargs, options, sender=self)
            return await self.send_workflow(linked)
        if connected or self.onion.senders:
            name = task if isinstance(task, str) else task.name
            calls = [OutgoingCall(name, cast("tuple[Any, ...]", args), kwargs, options)]
            return (await self.onion.send(calls, self._send))[0]
        if self.conf.task_always_eager:
            return await self._call_eagerly(task, args, kwargs, options)
        timeout = options.get("publish_timeout")
        if options and not _OF_SENDING.isdisjoint(options):
            check_options(task if isinstance(task, str) else task.name, options)
        persistence = self.persistence((options,)) if options else None
        connection = await self.connected_within(timeout, options.get("task_id"), persistence)
        envelopes = self._envelopes(connection, task, args, kwargs, options)
        await connection.publisher.publish(envelopes, timeout, (), persistence)
        self._remember_child(envelopes[0].message.id, options)
        return self._result(envelopes[0])

    def persistence(self, calls: Iterable[Mapping[str, Any]]) -> RetryPolicy | None:
        """Return how often calls with these options are sent again; None: as the settings say."""
        return persistence_of_calls(calls, self.conf.task_publish_retry, self.conf.task_publish_retry_policy)

    async def _call_eagerly(
        self, task: Task[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> handle.AsyncResult[Any]:
        result: handle.AsyncResult[Any] = await _loaded("worker.inline").call_eagerly(self, task, args, kwargs, options)
        self._remember_child(result.id, options)
        return result

    def remember_children(self, envelopes: Sequence[Envelope], options: Mapping[str, Any]) -> None:
        """As for one call, for those that a workflow begins with."""
        for envelope in envelopes:
            self._remember_child(envelope.message.id, cast(CallOptions, options))

    async def run_eagerly(
        self, task: Task[..., Any], message: Message, request: Request, call: Callable[[Request], Awaitable[Any]]
    ) -> Any:
        """Run `call` here as a run of `task`, with the signals, middleware and handlers that stand round one."""
        if not (connected or task.handlers or self.onion.runners):
            return await call(request)
        return await _loaded("worker.inline").run_surrounded(self.onion, task, message, request, call)

    async def send_workflow(self, workflow: Canvas[Handle]) -> Handle:
        """Send a signature, chain, group or chord, in one round trip; what `workflow.delay()` does."""
        if self.conf.task_always_eager:
            return await through_middleware(self, workflow, self._send_eagerly)
        if isinstance(workflow, Signature) and workflow.mode == "once" and not _LINKS & workflow.options.keys():
            call = cast("Signature[Any]", workflow)
            task = self.tasks.get(call.task, call.task)
            return cast(Handle, await self.call(task, call.args, call.kwargs, cast(CallOptions, call.options)))
        return await send_workflow(self, cast("Canvas[Handle]", workflow))

    async def _send_eagerly(self, workflow: Canvas[Any]) -> Any:
        result = await self.apply_workflow(workflow, throw=None)
        for first in firsts(workflow):
            self._remember_child(first.options["task_id"], cast(CallOptions, first.options))
        return result

    async def apply_workflow(
        self, workflow: Canvas[Handle], *, throw: bool | None, root_id: str | None = None
    ) -> Handle:
        """Run a workflow here, step after step; what `workflow.apply()` does."""
        applied = await _loaded("worker.inline_workflows").apply_workflow(self, workflow, throw=throw, root_id=root_id)
        return cast(Handle, applied)

    @property
    def links_errors_of_headers(self) -> bool:
        """Whether error callbacks of a chord are those of its header's tasks too."""
        return self.conf.task_allow_error_cb_on_chord_header

    async def joined(self, join_id: str) -> Joined | None:
        """Return what became of a join."""
        (found,) = await (await self.connection()).ledger.joined([join_id])
        return found

    def _remember_child(self, task_id: str, options: CallOptions) -> None:
        """Note a call that was made by the task which runs here, for the `children` of its result."""
        request = running_request.get()
        if request.id is not None and current_trails() and options.get("add_to_parent", True):
            request.children.append(task_id)

    @overload
    def signature(
        self, task: str, args: Sequence[Any] = ..., kwargs: Mapping[str, Any] | None = ..., **options: Any
    ) -> Signature[Any]: ...
    @overload
    def signature(self, task: Canvas[Handle] | Mapping[str, Any], **options: Any) -> Canvas[Any]: ...
    def signature(
        self,
        task: str | Canvas[Any] | Mapping[str, Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Canvas[Any]:
        """Return a signature of a task by name, or of the form that `as_form` gave."""
        return signature(task, args, kwargs, app=self, **options)

    def AsyncResult(self, task_id: str) -> handle.AsyncResult[Any]:
        """Return the handle of a call by its id."""
        return handle.AsyncResult(task_id, self)

    def _envelopes(
        self,
        connection: Connection,
        task: Task[..., Any] | str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions,
    ) -> Sequence[Envelope]:
        reply_to = connection.records.address if connection.keeps_results else None
        return self.builder.envelopes(task, args, kwargs, options, reply_to=reply_to)

    def _result(self, envelope: Envelope) -> handle.AsyncResult[Any]:
        message = envelope.message
        return handle.AsyncResult(
            message.id,
            self,
            task_name=message.task,
            reply_to=message.reply_to,
            due=envelope.due,
            ignored=message.ignore_result,
        )

    async def reader(self) -> Reader:
        """Return what reads results in the running loop."""
        connection = await self.connection()
        if not connection.keeps_results:
            raise ResultsDisabled(f"{self!r} keeps no results (result_backend is {DISABLED!r})")
        if connection.reader is None:
            connection.reader = Reader(
                connection.records, connection.ledger, connection.waiting, self.codec, self.conf.result_expires
            )
        return connection.reader

    def now(self) -> float:
        """Wall time by the app's clock."""
        return self.clock.time()

    @property
    def codec(self) -> DocumentCodec:
        """What encodes and decodes results, as the settings say when it is first used."""
        if self._codec is None:
            self._codec = DocumentCodec(
                self.serializers,
                serializer=self.conf.result_serializer,
                compression=self.conf.result_compression,
                accept=frozenset(self.conf.accept_content),
                max_size=self.conf.result_max_size,
                exception_types=self.conf.result_exception_types,
                celery_compat=self.conf.celery_compat,
                extended=self.conf.result_extended,
            )
        return self._codec

    @property
    def router(self) -> Router:
        """What decides where calls go, as the settings say when it is first used."""
        if self._router is None:
            self._router = Router(self.conf, check_route_option)
        return self._router

    async def update_state(self, request: Request, state: str, meta: Any) -> None:
        """Store and push the state of a running call; nothing if its result is ignored."""
        connection = await self.connection()
        if request.id is None or request.ignore_result or not connection.keeps_results:
            return
        now = self.clock.time()
        around = Neighbours(None if request.root_id == request.id else request.root_id, request.group)
        is_told = self.codec.is_extended
        body = self.codec.encode(
            request.id,
            state,
            meta,
            done_at=now,
            parent_id=request.parent_id,
            worker=request.hostname if is_told else None,
            name=request.task,
            neighbours=around,
            called=Called.by(request) if is_told else None,
        )
        expires = now + self.conf.result_expires
        record = Record(request.id, state, body, self.codec.content_type, expires, request.reply_to)
        await connection.records.put([record])

    def _settle(self) -> None:
        self._router = self._router if self.conf.is_frozen else Router(self.conf, check_route_option)
        self.check_security()
        self.check_content()
        _ = self.codec  # imports what `result_exception_types` names

    def forget_connections(self) -> None:
        super().forget_connections()
        self.origin = f"{os.getpid()}@{socket.gethostname()}"

    def worker(
        self,
        queues: Sequence[str] | None = None,
        *,
        exclude_queues: Sequence[str] = (),
        queue_weights: Mapping[str, int] | None = None,
        strict_queues: bool | None = None,
        name: str | None = None,
        concurrency: int | None = None,
        threads: int | None = None,
        processes: int | None = None,
        prefetch: int | None = None,
        grace: float | None = None,
    ) -> Worker:
        """Return a worker to run in this loop: `async with app.worker(): …`; leaving it stops it (P6).

        It consumes from `queues` (default: `task_queues`) but for `exclude_queues`. They take turns; from
        one with a weight of 3 in `queue_weights` three times as much is taken as from one with 1. With `strict_queues`
        nothing is taken from a queue while one before it has anything. What is not given is as the settings
        `worker_…` say.

        Raises:
            InvalidOption: a queue's name or a number is impossible.
        """
        room: Any = _loaded("worker.worker")
        made: Worker = room.Worker(
            self,
            room.WorkerOptions.of(
                self.conf,
                queues=queues,
                exclude_queues=exclude_queues,
                queue_weights=queue_weights,
                strict_queues=strict_queues,
                name=name,
                concurrency=concurrency,
                threads=threads,
                processes=processes,
                prefetch=prefetch,
                grace=grace,
            ),
        )
        return made

    @property
    def admin(self) -> Admin:
        """Queues and dead letters, for whoever looks after them."""
        return Admin(self)

    def coordinator(self, worker: str, *, has_joins: bool) -> Coordinator:
        """Return what decides, for the worker called so, what follows from an outcome."""
        kind: type[Coordinator] = self._coordinator_class or _loaded("canvas.coordinator").Coordinator
        return kind(
            self.codec,
            self.clock,
            Planner(self.builder, has_joins=has_joins),
            worker=worker,
            result_expires=self.conf.result_expires,
            keeps_results=self.conf.result_backend != DISABLED,
        )


def _loaded(room: str) -> Any:
    """Return a room that most processes never need: to send calls is not to run them."""
    return importlib.import_module(f".{room}", __package__)


def _import_object(path: str) -> object:
    module, colon, attribute = path.partition(":")
    try:
        found: object = importlib.import_module(module)
    except ModuleNotFoundError:
        parent, dot, attribute = module.rpartition(".")
        if colon or not dot:
            raise
        found = importlib.import_module(parent)
        colon = ":"
    return getattr(found, attribute) if colon else found
