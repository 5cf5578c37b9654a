"""The composition root: an app's registry of tasks, its settings, and its connections, one a running loop."""

from __future__ import annotations

import asyncio
import importlib
import os
import socket
import weakref
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final, ParamSpec, Self, TypeVar, Unpack, cast

from . import settings
from .admin import Admin
from .calls import build_envelopes
from .canvas import Coordinator, Signature
from .clock import SYSTEM_CLOCK, Clock
from .connection import DISABLED, Connection
from .content import Content, check_secret, check_secrets
from .eager import call_eagerly
from .exceptions import CallError, OperationalError, PublishTimeout, ResultsDisabled, SettingsError
from .message import Envelope
from .middleware import OutgoingCall
from .options import CallOptions, check_options, check_route_option
from .outgoing import Call, tell_after, tell_before
from .registry import TaskRegistry
from .request import Request, running_request
from .results import Record, handle
from .results.document import DocumentCodec
from .results.handle import Reader, ResultSet
from .routing import Router, check_queues, check_routes, check_weights, select_queues
from .serialization import sealed
from .settings import Settings
from .signals import after_task_publish, before_task_publish, connected
from .surroundings import Surroundings
from .sync import Bridge
from .task import Task, current_trails, set_default_home
from .transport import QueueOrder
from .worker import Worker, WorkerOptions

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

#: State of `memory://name` URLs, common to the apps of a process; `memory://` is each app's own.
_named_memory: Final[dict[tuple[str, str], Any]] = {}
_CHECKS: Final[Mapping[str, settings.Check]] = {
    "security_key": check_secret,
    "security_previous_keys": check_secrets,
    "task_queues": check_queues,
    "task_routes": lambda given: check_routes(given, check_route_option),
    "worker_queue_weights": check_weights,
}
#: What an app under test has another one of.
_REPLACED: Final = (
    *("conf", "clock", "bridge", "_memory", "_codec", "_router", "_coordinator_class"),
    *("_connections", "_last_loop", "_last_connection"),
)
_apps: Final[weakref.WeakSet[AioTQ]] = weakref.WeakSet()
#: Connections that a fork copied: to take them apart here is to meddle with the parent's.
_of_the_parent: Final[list[object]] = []


class AioTQ(TaskRegistry, Surroundings, Content):
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
        TaskRegistry.__init__(self, main, Settings(checks=_CHECKS), task_cls)
        Surroundings.__init__(self)
        self.clock = clock
        self.conf.update(settings.from_environment(os.environ))
        given = {"broker_url": broker, "result_backend": backend, "include": tuple(include) or None}
        self._arguments = {name: value for name, value in given.items() if value is not None} | more_settings
        self.conf.update(self._arguments)
        Content.__init__(self, lambda: [task.fn for task in self.tasks.values()], main)
        self._connections: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Slot] = weakref.WeakKeyDictionary()
        self._last_loop: asyncio.AbstractEventLoop | None = None
        self._last_connection: Connection | None = None
        self._codec: DocumentCodec | None = None
        self._router: Router | None = None
        self._memory: dict[tuple[str, str], Any] = {}
        self._coordinator_class = Coordinator
        self.bridge = Bridge(self.close)
        self.origin = f"{os.getpid()}@{socket.gethostname()}"
        _apps.add(self)
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

    def _home(self) -> AioTQ:
        return self

    async def send_task(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> handle.AsyncResult[Any]:
        """Call a task by name, which need not be registered here; raises as `Task.delay`."""
        return await self.call(self.tasks.get(name, name), args, kwargs or {}, options)

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
            if (wanted := call.options.get("publish_timeout")) is not None:
                check_options(call.task, call.options)
            timeouts.append(self.conf.task_publish_timeout if wanted is None else wanted)
        if not calls:
            return []
        timeout = max(timeouts)
        connection = await self._connected_within(timeout, None)
        sent: list[Envelope] = []
        copies: list[Envelope] = []
        for task, call in calls:
            envelopes = self._envelopes(connection, task, call.args, call.kwargs, call.options)
            if before_task_publish.receivers:
                envelopes = await tell_before(call, envelopes, partial(self._envelopes, connection, task))
            sent.append(envelopes[0])
            if len(envelopes) > 1:
                copies.extend(envelopes[1:])
        await connection.publisher.publish([*sent, *copies] if copies else sent, timeout)
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
        if connected or self.onion.senders:
            name = task if isinstance(task, str) else task.name
            calls = [OutgoingCall(name, cast("tuple[Any, ...]", args), kwargs, options)]
            return (await self.onion.send(calls, self._send))[0]
        if self.conf.task_always_eager:
            return await self._call_eagerly(task, args, kwargs, options)
        timeout = options.get("publish_timeout")
        if timeout is not None:
            check_options(task if isinstance(task, str) else task.name, options)
        connection = await self._connected_within(timeout, options.get("task_id"))
        envelopes = self._envelopes(connection, task, args, kwargs, options)
        await connection.publisher.publish(envelopes, timeout)
        self._remember_child(envelopes[0].message.id, options)
        return self._result(envelopes[0])

    async def _call_eagerly(
        self, task: Task[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> handle.AsyncResult[Any]:
        result = await call_eagerly(self, task, args, kwargs, options)
        self._remember_child(result.id, options)
        return result

    def _remember_child(self, task_id: str, options: CallOptions) -> None:
        """Note a call that was made by the task which runs here, for the `children` of its result."""
        request = running_request.get()
        if request.id is not None and current_trails() and options.get("add_to_parent", True):
            request.children.append(task_id)

    def signature(
        self, task: str, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> Signature[Any]:
        """Return a signature of a task by name."""
        return Signature(task, tuple(args), kwargs or {}, options, sender=self)

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
        reply_to = connection.store.address if connection.keeps_results else None
        envelopes = build_envelopes(
            self.conf,
            self.serializers,
            self.router,
            task,
            args,
            kwargs,
            options,
            reply_to=reply_to,
            now=self.clock.time(),
            origin=self.origin,
        )
        signer = self.signer
        return envelopes if signer is None else [sealed(signer, envelope) for envelope in envelopes]

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
            connection.reader = Reader(connection.store, connection.waiting, self.codec, self.conf.result_expires)
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
        body = self.codec.encode(request.id, state, meta, done_at=now, parent_id=request.parent_id)
        expires = now + self.conf.result_expires
        record = Record(request.id, state, body, self.codec.content_type, expires, request.reply_to)
        await connection.store.put([record])

    async def connection(self) -> Connection:
        """Return the connection of the running loop, made with the first use; the settings are frozen then.

        Raises:
            OperationalError: broker or store can't be reached.
            SettingsError: a URL can't be used.
        """
        loop = asyncio.get_running_loop()
        if loop is self._last_loop and (last := self._last_connection) is not None and last.is_open:
            return last
        slot = self._slot()
        failures = slot.failures
        async with slot.lock:
            if slot.connection is None or not slot.connection.is_open:
                if slot.failures != failures and slot.failure is not None:
                    raise slot.failure  # it was tried while we waited: a crowd must not try one after the other
                slot.connection = await self._connect(slot)
            self._last_loop, self._last_connection = loop, slot.connection
            return slot.connection

    async def _connect(self, slot: _Slot) -> Connection:
        connection = Connection(self.conf, self.clock, self._memory_for)
        self._router = self._router if self.conf.is_frozen else Router(self.conf, check_route_option)
        self.check_security()
        self.conf.freeze(f"{self!r} is in use; settings are made before the first call")
        try:
            await connection.open()
        except OperationalError as exc:
            slot.failures += 1
            slot.failure = exc
            raise
        return connection

    async def _connected_within(self, seconds: float | None, task_id: str | None) -> Connection:
        """As `connection`, under the deadline of a call (P7)."""
        last = self._last_connection
        if last is not None and last.is_open and self._last_loop is asyncio.get_running_loop():
            return last
        seconds = self.conf.task_publish_timeout if seconds is None else seconds
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await self.connection()
        except TimeoutError:
            if not limit.expired():
                raise
            raise PublishTimeout(task_id or "(not sent)", seconds, maybe_sent=False) from None

    async def close(self) -> None:
        """Disconnect in the running loop: what is under way is sent first.

        Raises:
            CallError: a worker runs in this loop: leave it first.
        """
        slot = self._slot()
        if slot.holders:
            raise CallError(f"{self!r} can't disconnect while a worker of it runs in this loop: leave that first")
        async with slot.lock:
            connection, slot.connection = slot.connection, None
            if self._last_connection is connection:
                self._last_loop = self._last_connection = None
            if connection is not None:
                await connection.close()

    async def __aenter__(self) -> Self:
        await self.connection()
        slot = self._slot()
        slot.entered += 1
        slot.is_left = False
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        slot = self._slot()
        slot.entered -= 1
        if slot.entered == 0:
            slot.is_left = True
            if not slot.holders:
                await self.close()

    @asynccontextmanager
    async def holding(self) -> AsyncGenerator[Connection, None]:
        """Be connected, and stay so although the app is left meanwhile; what a worker does while it runs."""
        connection = await self.connection()
        slot = self._slot()
        slot.holders += 1
        try:
            yield connection
        finally:
            slot.holders -= 1
            if slot.is_left and not slot.entered and not slot.holders:
                await self.close()

    @asynccontextmanager
    async def lifespan(self, _asgi_app: object = None) -> AsyncGenerator[None, None]:
        """Stay connected while an ASGI application runs: `FastAPI(lifespan=app.lifespan)`."""
        async with self:
            yield

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
        conf = self.conf
        return Worker(
            self,
            WorkerOptions(
                queues=select_queues(conf, queues, exclude_queues),
                order=QueueOrder(
                    conf.worker_queue_weights if queue_weights is None else queue_weights,
                    conf.worker_queue_order == "strict" if strict_queues is None else strict_queues,
                ),
                name=name,
                concurrency=conf.worker_concurrency if concurrency is None else concurrency,
                threads=conf.worker_threads if threads is None else threads,
                processes=(conf.worker_processes or os.cpu_count() or 1) if processes is None else processes,
                prefetch=conf.worker_prefetch if prefetch is None else prefetch,
                grace=conf.worker_grace if grace is None else grace,
            ),
        )

    @property
    def admin(self) -> Admin:
        """Queues and dead letters, for whoever looks after them."""
        return Admin(self)

    def coordinator(self, worker: str) -> Coordinator:
        """Return what decides, for the worker called so, what follows from an outcome."""
        return self._coordinator_class(
            self.codec,
            self.clock,
            worker=worker,
            result_expires=self.conf.result_expires,
            keeps_results=self.conf.result_backend != DISABLED,
        )

    def _slot(self) -> _Slot:
        loop = asyncio.get_running_loop()
        slot = self._connections.get(loop)
        if slot is None:
            for other in [each() for each in self._connections.keyrefs()]:
                if other is not None and other.is_closed():  # its connection would keep it
                    self._connections.pop(other, None)
            slot = self._connections[loop] = _Slot()
        return slot

    def _memory_for(self, name: str, kind: str, make: Callable[[], Any]) -> Any:
        """Return what lasts longer than a connection: the memory of `memory://` is ours, that with a name anybody's."""
        kept = _named_memory if name else self._memory
        if (name, kind) not in kept:
            kept.setdefault((name, kind), make())
        return kept[name, kind]

    def forget_connections(self) -> None:
        """Drop what a fork copied: the connections are the parent's."""
        _of_the_parent.append((self._connections, self._last_connection))
        self._connections = weakref.WeakKeyDictionary()
        self._last_loop = self._last_connection = None
        self.bridge.forget()
        self.origin = f"{os.getpid()}@{socket.gethostname()}"


class _Slot:
    """The connection of one loop, and who entered it."""

    __slots__ = ("__weakref__", "connection", "entered", "failure", "failures", "holders", "is_left", "lock")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.entered = 0
        self.holders = 0  #: workers
        self.is_left = False  #: whether somebody entered the app and the last one left it
        self.failures = 0  #: attempts to connect that failed, and the last one's error
        self.failure: OperationalError | None = None
        self.lock = asyncio.Lock()


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


def _after_fork() -> None:
    for app in _apps:
        app.forget_connections()


os.register_at_fork(after_in_child=_after_fork)
