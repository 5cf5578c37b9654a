"""The core of an app: the parts that its methods, its tasks, workers and result handles use."""

from __future__ import annotations

import inspect
import os
import socket
import weakref
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, Never, NoReturn, Protocol, TypeVar, cast

from ..canvas.planner import Planner
from ..canvas.signature import Canvas
from ..core.clock import Clock, SharedClock
from ..core.configured import Sources
from ..core.settings import Settings
from ..core.sync import Bridge
from ..exceptions import ResultsDisabled
from ..results import Joined, Record
from ..results.document import Called, DocumentCodec
from ..results.eager_result import EagerResult
from ..results.handle import AsyncResult
from ..results.lineage import Lineage
from ..results.reader import Reader
from ..results.shown_arguments import ArgumentsShown, arguments_shown
from ..signals import Signal
from ..tasks.calls import CallHere
from ..tasks.options import CallOptions, check_route_option
from ..tasks.own_events import tell_own
from ..tasks.rebuilding import shaped
from ..tasks.registry import TaskRegistry
from ..tasks.request import Request
from ..tasks.task import Task
from ..transport.routing import Router
from ..wire.codecs import Codecs
from ..wire.serializers import SerializerRegistry
from ..wire.signing import Signer
from ..worker.lifespans import WorkerLifespans
from .broker_checks import check_queue, check_shares
from .connection import DISABLED, Connection
from .connections import Connections
from .envelopes import EnvelopeBuilder
from .middleware import MiddlewareStack
from .pipeline import Calling
from .sending_counts import SendingCounts
from .setting_checks import CHECKS
from .unclaimed import why_unclaimed
from .wire_values import forms_of

if TYPE_CHECKING:
    from ..app import AioTQ
    from ..beat.entries import Entry
    from ..beat.scheduler import Scheduler
    from ..canvas.coordinator import Coordinator
    from ..control.declared import CommandDecorator, DeclaredCommand, Kind
    from ..control.event_sender import EventSender
    from ..worker.observers import Observer
    from ..worker.worker import Worker
    from .in_transaction import InTransaction
    from .outbox import Outbox
    from .tracing import Tracing

Handle = TypeVar("Handle")
Has = TypeVar("Has")


#: Seconds without an answer of the broker that are always allowed.
_LEAST_SILENCE: Final = 30.0
#: Those there are, for a fork.
_cores: Final[weakref.WeakSet[AppCore]] = weakref.WeakSet()


class Part(Generic[Has]):
    """What a part of an app can do, as an attribute of the app."""

    def __init__(self, of: Callable[[AppCore], Has]) -> None:
        self._of = of

    def __get__(self, app: AioTQ | None, kind: type[AioTQ]) -> Has:
        if app is None:  # of the class: for those that only look at it
            return cast(Has, self)
        return self._of(app._core)  # pyright: ignore[reportPrivateUsage]

    def __set__(self, app: AioTQ, given: Never) -> NoReturn:
        raise AttributeError("this attribute of an app can't be set")


class Inline(Protocol):
    """Runs calls where they are made; few processes do, so it is loaded with the first."""

    async def call_eagerly(
        self,
        core: AppCore,
        task: Task[..., Any] | str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions,
    ) -> AsyncResult[Any]:
        """Run a call that would be sent, but for `task_always_eager`; its result has ended."""
        ...

    async def apply_workflow(
        self, core: AppCore, canvas: Canvas[Any], *, throw: bool | None, root_id: str | None
    ) -> Any:
        """Run a workflow to its end; the handle of its result, which has ended."""
        ...

    async def apply_call(self, core: AppCore, call: CallHere) -> EagerResult[Any]:
        """Run a call whose options were checked; its result has ended."""
        ...


class AppCore:
    """The parts of one app, and what they do together; `app` is what users have of it.

    A part is made of settings when it is first used, and those are frozen with the first connection.
    """

    def __init__(
        self,
        app: AioTQ,
        main: str | None,
        clock: Clock,
        settings: Mapping[str, Any],
        *,
        task_cls: type[Task[..., Any]] | None,
        inline: Callable[[], Inline],
    ) -> None:
        self.app = app
        self.main = main
        self.conf = Settings(checks={**CHECKS, "task_annotations": self._annotated})
        self.clock = clock
        self.shared_clock = SharedClock(clock)
        self.inline = inline
        self.registry = TaskRegistry(main, self.conf, task_cls, self)
        self.tasks = self.registry.tasks
        self.codecs = Codecs(self.conf, clock, lambda: [task.fn for task in self.tasks.values()], main)
        self.codecs.add_forms(forms_of(self, self))
        self.middleware = MiddlewareStack()
        self.tracing: Tracing | None = None  #: spans and metrics, with the setting `opentelemetry`
        self.lifespans = WorkerLifespans()
        self.dependency_overrides: dict[Callable[..., Any], Callable[..., Any]] = {}
        self.commands: dict[str, DeclaredCommand] = {}  #: the user's own, which workers obey
        self.event_senders: dict[str, EventSender] = {}  #: by the names of the workers that run here
        #: Those that run in this process, and who is told what happens in them.
        self.workers: list[Worker] = []
        self.schedulers: list[Scheduler] = []
        self.sending_counts = SendingCounts()
        self.observers: list[Observer] = []
        #: Periodic tasks that were declared in code, by name.
        self.periodic: dict[str, Entry] = {}
        self.on_after_configure = Signal("on_after_configure", "source")
        self.on_after_finalize = Signal("on_after_finalize")
        self._is_configured = False  #: whether these two were sent
        self.connections = self._new_connections()
        self.calling = Calling(self)
        self.origin = _origin()
        self._builder: EnvelopeBuilder | None = None
        self._router: Router | None = None
        self._codec: DocumentCodec | None = None
        self._arguments: ArgumentsShown | None = None
        self.sources = Sources(self.conf, settings)
        _cores.add(self)

    @property
    def _core(self) -> AppCore:
        """As `core_of` it is its own."""
        return self

    def __repr__(self) -> str:
        return f"<AioTQ {self.main or '(no name)'}>"

    @property
    def builder(self) -> EnvelopeBuilder:
        """Makes the messages of calls, as the settings say when it is first used."""
        if self._builder is None:
            self._builder = EnvelopeBuilder(
                self.conf,
                self.serializers,
                self.router,
                tasks=self.tasks,
                check_queue=partial(check_queue, self.conf),
                check_shares=partial(check_shares, self.conf),
                clock=self.clock,
                shared_clock=self.shared_clock,
                origin=self.origin,
                signer=self.signer,
                carried=None if self.tracing is None else self.tracing.carried,
            )
        return self._builder

    @property
    def codec(self) -> DocumentCodec:
        """Encodes and decodes results, as the settings say when it is first used."""
        if self._codec is None:
            self._codec = DocumentCodec(
                self.serializers,
                serializer=self.conf.result_serializer,
                compression=self.codecs.result_compression,
                accept=frozenset(self.conf.accept_content),
                max_size=self.conf.result_max_size,
                exception_types=self.conf.result_exception_types,
                celery_compat=self.conf.celery_compat,
                extended=self.conf.result_extended,
            )
        return self._codec

    @property
    def arguments(self) -> ArgumentsShown:
        """Shows arguments of calls, without what `masked_arguments` names."""
        if self._arguments is None:
            self._arguments = arguments_shown(self.conf)
        return self._arguments

    def parameters_of(self, name: str) -> Sequence[str]:
        """Return the names of the parameters of the task `name`; none of one that is not known here."""
        task = self.tasks.get(name)
        return () if task is None else task.parameters

    @property
    def router(self) -> Router:
        """Decides where calls go, as the settings say when it is first used."""
        if self._router is None:
            self._router = Router(self.conf, check_route_option)
        return self._router

    @property
    def signer(self) -> Signer | None:
        """Signs and verifies messages, if anything does."""
        return self.codecs.signer

    @property
    def serializers(self) -> SerializerRegistry:
        """The content types and compressions that are known."""
        return self.codecs.serializers

    @property
    def bridge(self) -> Bridge:
        """The way in for code without a loop."""
        return self.connections.bridge

    def now(self) -> float:
        """Wall time by the app's clock."""
        return self.clock.time()

    async def configured(self) -> None:
        """Send `on_after_configure` and `on_after_finalize`, before the app is used for the first time.

        What a receiver raises goes up: it may be a periodic task that would never run. The next use tries again.
        """
        if self._is_configured:
            return
        self._is_configured = True  # a receiver may use the app
        try:
            for signal, named in ((self.on_after_configure, {"source": self.conf}), (self.on_after_finalize, {})):
                for receiver in signal.receivers_of(self.app):
                    answer = receiver(signal=signal, sender=self.app, **named)
                    if inspect.isawaitable(answer):
                        await answer
        except BaseException:
            self._is_configured = False
            raise

    def find_task(self, name: str) -> Task[..., Any]:
        """Return the task called `name`; raises `NotRegistered`."""
        return self.registry.find_task(name)

    async def connection(self) -> Connection:
        """Return the connection of the running loop, made with the first use; raises as `Connections.connection`."""
        return await self.connections.connection()

    async def reader(self) -> Reader:
        """Return what reads results in the running loop; raises `ResultsDisabled` if none are kept."""
        if self.connections.is_away():
            from .at_home import reader_at_home  # noqa: PLC0415

            return reader_at_home(await self.bridge.at_home(self.reader), self.bridge)
        connection = await self.connections.connection()
        if not connection.keeps_results:
            raise ResultsDisabled(f"{self!r} keeps no results (result_backend is {DISABLED!r})")
        if connection.reader is None:
            connection.reader = Reader(
                *(connection.records, connection.ledger, connection.bus, connection.waiting, self.codec),
                *(self.conf.result_expires, partial(why_unclaimed, connection.broker), partial(shaped, self.tasks)),
                celery=connection.celery if self.signer is None else None,
            )
        return connection.reader

    def in_transaction(self, session: object) -> InTransaction:
        """Return what sends in a transaction of `session`; raises `CallError` if that is none we know."""
        from .in_transaction import InTransaction  # noqa: PLC0415

        return InTransaction(self, session)

    def outbox(self, session: object) -> Outbox:
        """Return what leaves calls in an outbox, in a transaction of `session`; raises as `in_transaction`."""
        from .outbox import Outbox  # noqa: PLC0415

        return Outbox(self, session)

    def call(
        self, task: Task[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> Coroutine[Any, Any, AsyncResult[Any]]:
        """As `Calling.call`."""
        return self.calling.call(task, args, kwargs, options)

    def send_workflow(self, workflow: Canvas[Handle]) -> Coroutine[Any, Any, Handle]:
        """As `Calling.send`."""
        return self.calling.send(workflow)

    async def apply_workflow(
        self, workflow: Canvas[Handle], *, throw: bool | None, root_id: str | None = None
    ) -> Handle:
        """As `Calling.apply`."""
        return await self.calling.apply(workflow, throw=throw, root_id=root_id)

    async def apply_call(self, call: CallHere) -> EagerResult[Any]:
        """Run a call in this process; what `Task.apply` does."""
        return await self.inline().apply_call(self, call)

    async def joined(self, join_id: str) -> Joined | None:
        """Return what became of a join."""
        (found,) = await (await self.connections.connection()).ledger.joined([join_id])
        return found

    async def update_state(self, request: Request, state: str, meta: Any) -> None:
        """Store and push the state of a running call; nothing if its result is ignored."""
        connection = await self.connections.connection()
        if request.id is None or request.ignore_result or not connection.keeps_results:
            return
        now = self.clock.time()
        is_told = self.codec.is_extended
        body = self.codec.encode(
            request.id,
            state,
            meta,
            done_at=now,
            parent_id=request.parent_id,
            worker=request.hostname if is_told else None,
            name=request.task,
            lineage=Lineage(None if request.root_id == request.id else request.root_id),
            called=Called.by(request) if is_told else None,
        )
        expires = now + self.conf.result_expires
        record = Record(request.id, state, body, self.codec.content_type, expires, request.reply_to)
        await connection.records.put([record])

    @property
    def allowed_silence(self) -> float:
        """Seconds without an answer of the broker after which a worker or scheduler is not well: after one lease,
        others may have what it held."""
        return max(_LEAST_SILENCE, 2 * self.conf.worker_lease)

    def observe(self, observer: Observer) -> None:
        """Have `observer` told what happens in the workers of this process: those that run, and those to come."""
        self.observers.append(observer)
        for each in self.workers:
            each.observe(observer)

    @contextmanager
    def having_worker(self, worker: Worker) -> Generator[None, None, None]:
        """Know that `worker` runs here."""
        for observer in self.observers:
            worker.observe(observer)
        self.workers.append(worker)
        try:
            yield
        finally:
            self.workers.remove(worker)

    def send_event(self, request: Request, task: str, kind: str, fields: Mapping[str, Any]) -> None:
        """Tell an event of the call of `task` that runs; what `Task.send_event` does, and raises."""
        tell_own(self.event_senders.get(request.hostname or ""), request, task, kind, fields, self.clock.time())

    def command_decorator(self, kind: Kind) -> CommandDecorator:
        """Return what makes a function a command that the app's workers obey."""
        from ..control.declared import CommandDecorator  # noqa: PLC0415

        return CommandDecorator(self.commands, kind)

    def coordinator(self, worker: str, *, has_joins: bool) -> Coordinator:
        """Return what decides, for the worker called so, what follows from an outcome."""
        from ..canvas.coordinator import Coordinator  # noqa: PLC0415
        from ..results.indexing import Indexing  # noqa: PLC0415

        return Coordinator(
            self.codec,
            self.clock,
            Planner(self.builder, has_joins=has_joins),
            worker=worker,
            result_expires=self.conf.result_expires,
            keeps_results=self.conf.result_backend != DISABLED,
            indexing=Indexing(self.conf, worker),
        )

    @contextmanager
    def replaced(
        self,
        changed: Mapping[str, Any],
        *,
        clock: Clock,
        memory: Mapping[tuple[str, str], Any],
    ) -> Generator[None, None, None]:
        """Have other settings and other parts for a while, and connections apart; what a test does to an app.

        Raises:
            SettingsError: one of the `changed` settings can't be so.
        """
        before = self.conf, self.clock, self.connections, self._router, self._codec
        conf = self.conf.copy()
        conf.update(changed)
        try:
            self._act_by(conf, clock)
            self.connections = self._new_connections(memory)
            self._router = self._codec = None
            yield
        finally:
            self._act_by(before[0], before[1])
            _, _, self.connections, self._router, self._codec = before
            self.registry.annotate_tasks(self.conf.task_annotations)

    def _annotated(self, given: object) -> object:
        return self.registry.annotate_tasks(given)

    def _act_by(self, conf: Settings, clock: Clock) -> None:
        self.conf = self.registry.conf = self.codecs.conf = conf
        self.clock = self.codecs.clock = clock
        self.shared_clock = SharedClock(clock)
        self._builder = self._arguments = None

    def _new_connections(self, memory: Mapping[tuple[str, str], Any] | None = None) -> Connections:
        return Connections(
            self.conf,
            self.clock,
            self.shared_clock,
            name=repr(self),
            configured=self.configured,
            settle=self._settle,
            memory=memory,
        )

    def _settle(self, connection: Connection) -> None:
        """Make what depends on settings, which are frozen next, and what `connection` tells of what is sent.

        Raises:
            SettingsError: they don't go together.
        """
        if not self.conf.is_frozen:
            self._router = self._builder = None
        self.trace()
        _ = self.router
        self.codecs.check_security()
        self.codecs.check_content()
        connection.publisher.counts = self.sending_counts
        _ = self.codec  # imports what `result_exception_types` names
        if self.conf.task_send_sent_event:
            from ..control.event_sender import EventSender  # noqa: PLC0415

            connection.events = EventSender(
                connection.bus,
                hostname=f"gen{self.origin}",
                clock=self.clock,
                signer=self.signer,
                outlet=connection.celery,
            )
            connection.events.enabled = True

    def trace(self) -> None:
        """Make spans from now on, if the settings say so; raises `MissingLibrary` without OpenTelemetry."""
        if self.conf.opentelemetry and self.tracing is None:
            from .tracing import Tracing  # noqa: PLC0415

            self.tracing = Tracing(self.conf, self.workers)
            self.middleware.add_outermost(self.tracing)
            self._builder = None

    def after_fork(self) -> None:
        """Be another process."""
        self.origin = _origin()
        self._builder = None


def _origin() -> str:
    return f"{os.getpid()}@{socket.gethostname()}"


def _after_fork() -> None:
    for core in _cores:
        core.after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_after_fork)
