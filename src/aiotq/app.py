"""The composition root: an app is settings, tasks and connections, put together; what it does is done by its parts."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, Unpack, overload

from .calling.arguments import given_arguments
from .calling.core import AppCore, Inline, Part
from .canvas import Canvas, Signature
from .canvas.serialized import signature
from .control.admin import Admin
from .core.celery_names import APP, knows
from .core.clock import SYSTEM_CLOCK, Clock
from .core.sync import expect_loop
from .flows.declaring import Flowing
from .results.handle import AsyncResult
from .results.sets import ResultSet
from .tasks.batches import Batching
from .tasks.current_app import set_default_app
from .tasks.options import CallOptions, said
from .tasks.task import Task

if TYPE_CHECKING:
    from starlette.applications import Starlette

    from .beat.entries import PeriodicOptions
    from .beat.manage import Schedules
    from .beat.scheduler import Scheduler
    from .beat.schedules import AnySchedule
    from .control.events import Events
    from .control.remote import Control
    from .web.dashboard.application import Dashboard, DashboardOptions
    from .worker.options import WorkerChoices
    from .worker.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
TaskT = TypeVar("TaskT", bound="Task[..., Any]")
Handle = TypeVar("Handle")


@knows(APP)
class AioTQ:
    """An application: its tasks, its settings and its connections.

        app = AioTQ("proj", broker="sqlite:///proj.db")

        @app.task
        async def add(x: int, y: int) -> int:
            return x + y

        async with app:
            result = await add.delay(2, 2)
            assert await result == 4

    `main` names the module of tasks declared in a script. `broker` and `backend` are URLs (settings `broker_url` and
    `result_backend`); other settings may be given by name. Without `async with` the app connects with its first call,
    once for each running loop. `task_cls` is the class of tasks that name no `base`.

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
        given = {"broker_url": broker, "result_backend": backend, "include": tuple(include) or None}
        arguments = {name: value for name, value in given.items() if value is not None} | more_settings
        self._core = AppCore(self, main, clock, arguments, task_cls=task_cls, inline=_inline)
        self.main = main
        self.tasks: dict[str, Task[..., Any]] = self._core.tasks  #: by name, with those that every app has
        set_default_app(self._core)

    def __repr__(self) -> str:
        return repr(self._core)

    conf = Part(lambda core: core.conf)
    """Its settings."""
    config_from_object = Part(lambda core: core.sources.config_from_object)
    """Take settings from a mapping, a module, class or object, or the import path of one (`"proj.config"`)."""
    config_from_envvar = Part(lambda core: core.sources.config_from_envvar)
    """Take settings from the module that an environment variable names; return whether it is set."""
    task = Part(lambda core: core.registry.task)
    """Make a function a task: `@app.task`, or `@app.task(queue="hi", …)`. See `TaskRegistry.task`."""
    batch = Part(lambda core: Batching(core.registry).batch)
    """Make a function of a list a task of one item, whose calls are run together: `@app.batch(size=100, within=2)`."""
    flow = Part(lambda core: Flowing(core).flow)
    """Make a function durable, from the journal of its steps: `@app.flow`."""
    register_task = Part(lambda core: core.registry.register_task)
    """Make a task of a class: its `run` is the function, its attributes the options."""
    autodiscover_tasks = Part(lambda core: core.registry.autodiscover_tasks)
    """Have `package.tasks` of each of some packages imported before a worker starts, where there is one."""
    load_tasks = Part(lambda core: core.registry.load_tasks)
    """Import the modules of `include` and of `autodiscover_tasks`, so that their tasks are registered."""
    add_middleware = Part(lambda core: core.middleware.add)
    """Put middleware round the calls that this app sends and the tasks that its workers run from now on."""
    worker_lifespan = Part(lambda core: core.lifespans.declare)
    """Have each worker of this app open something before its first task, and close it after its last commit."""
    dependency_overrides = Part(lambda core: core.dependency_overrides)
    """What tasks get in place of a dependency, for tests: `app.dependency_overrides[get_session] = fake_session`."""
    register_serializer = Part(lambda core: core.codecs.register_serializer)
    """Make another content type known; to be decoded it must also be in `accept_content`."""
    register_compression = Part(lambda core: core.codecs.register_compression)
    """Make another compression known, for calls, settings and what arrives."""
    register_type = Part(lambda core: core.codecs.register_type)
    """Let messages and results bring values of an Enum, dataclass or pydantic model."""
    setup_security = Part(lambda core: core.codecs.setup_security)
    """Sign messages with a private key; take only those signed by known certificates."""

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Coroutine[Any, Any, AsyncResult[Any]]:
        """Call a task by name, which need not be registered here; raises as `Task.delay`."""
        expect_loop("app.sync(app.send_task, …)")
        task = self._core.tasks.get(name, name)
        return self._core.calling.call(task, *given_arguments(name, args, kwargs), said(options))

    def send_many(self, signatures: Iterable[Canvas[AsyncResult[R]]]) -> Coroutine[Any, Any, ResultSet[R]]:
        """Send many calls in one round trip, all or none; their results in order.

        `values = await (await app.send_many(add.s(i, i) for i in range(1000)))`. Chains and chords too, but no groups.

        Raises:
            CallError: one of them can't be sent like this; none was sent.
        """
        expect_loop("app.sync(app.send_many, …)")
        return self._core.calling.send_many(signatures)

    in_transaction = Part(lambda core: core.in_transaction)
    """Send in a transaction of a session of yours, with its commit or not at all; PostgreSQL only."""
    outbox = Part(lambda core: core.outbox)
    """The same where messages are elsewhere than your data: leave calls in a table, from which workers send them."""

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

    def AsyncResult(self, task_id: str) -> AsyncResult[Any]:
        """Return the handle of a call by its id."""
        return AsyncResult(task_id, self._core)

    def sync(self, function: Callable[P, Coroutine[Any, Any, T]], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `await function(*args, **kwargs)` returns, in code without a loop (with one: `CallError`)."""
        return self._core.bridge.run(function, *args, **kwargs)

    def set_default(self) -> None:
        """Be the app of shared tasks, of signatures by name and of `current_app`, where no task of another app runs."""
        set_default_app(self._core)

    async def __aenter__(self) -> Self:
        await self._core.connections.enter()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._core.connections.leave()

    async def close(self) -> None:
        """Disconnect in this loop: what is under way is sent first. `CallError`: leave the worker that runs in it."""
        await self._core.connections.close()

    @asynccontextmanager
    async def lifespan(self, _asgi_app: object = None) -> AsyncGenerator[None, None]:
        """Stay connected while an ASGI application runs: `FastAPI(lifespan=app.lifespan)`."""
        async with self:
            yield

    def health_app(self) -> Starlette:
        """Return an ASGI application with `/live`, `/ready` and `/metrics` of this process: for `api.mount`."""
        from .web.health import Health  # noqa: PLC0415

        return Health(self._core, works=False).application()

    def dashboard(self, **options: Unpack[DashboardOptions]) -> Dashboard:
        """Return the dashboard, an ASGI application for `api.mount`; `InvalidOption` if `auth` lets nobody in."""
        from .web.dashboard.application import Dashboard  # noqa: PLC0415

        return Dashboard(self, **options)

    def worker(self, queues: Sequence[str] | None = None, **choices: Unpack[WorkerChoices]) -> Worker:
        """Return a worker to run in this loop: `async with app.worker(): …`; leaving it stops it.

        Queues default to `task_queues`, choices to the settings `worker_…`; `InvalidOption` if one can't be so.
        """
        from .worker.options import worker_options  # noqa: PLC0415
        from .worker.worker import Worker  # noqa: PLC0415

        return Worker(self._core, worker_options(self.conf, queues, choices))

    on_after_configure = Part(lambda core: core.on_after_configure)
    """Sent once, before the app is first used in a process: the place to call `add_periodic_task`. Settings can still
    be changed then, but not `worker_…`. What a receiver raises is raised where the app is used."""
    on_after_finalize = Part(lambda core: core.on_after_finalize)
    """Sent after `on_after_configure`; a worker and a scheduler have registered all their tasks before."""

    def add_periodic_task(
        self,
        schedule: AnySchedule,
        sig: Canvas[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **options: Unpack[PeriodicOptions],
    ) -> str:
        """Have schedulers send `sig`, a call or a workflow, with further arguments, when `schedule` is due; its name.

        `schedule`: seconds, a timedelta, `crontab(...)` or another one. `name`: by default the call, `"proj.add(2)"`.

        Raises:
            ScheduleError: it can't be, or another one has this name; the text has the name.
        """
        from .beat.declared import declare  # noqa: PLC0415

        return declare(self._core, schedule, sig, args, kwargs, name, options)

    def periodic(
        self,
        schedule: AnySchedule,
        *,
        name: str | None = None,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[PeriodicOptions],
    ) -> Callable[[TaskT], TaskT]:
        """Make a task periodic: `@app.periodic(crontab(hour=7))` above `@app.task`; raises as `add_periodic_task`."""
        from .beat.declared import periodic  # noqa: PLC0415

        return periodic(self._core, schedule, args, kwargs, name, options)

    def beat(self, *, name: str | None = None) -> Scheduler:
        """Return a scheduler of periodic tasks for this loop: `async with app.beat(): …`; any number may run."""
        from .beat.scheduler import Scheduler  # noqa: PLC0415

        return Scheduler(self._core, name=name)

    @property
    def schedules(self) -> Schedules:
        """Periodic tasks at run time: `await app.schedules.list()`, `add`, `pause`, `fire` and others."""
        from .beat.manage import Schedules  # noqa: PLC0415

        return Schedules(self._core)

    flows = Part(lambda core: Flowing(core).handles)
    """Flows that are under way: `await app.flows.signal(id, "shipped")`, `revoke`, `show`."""
    admin = Part(Admin)
    """Queues, dead letters, revocations and blocks, for operators."""
    block = Part(lambda core: Admin(core).block)
    """Have calls with certain arguments wait: `await app.block(charge, where={"customer": "c_42"}, for_=3600)`."""
    inspect_command = Part(lambda core: core.command_decorator("inspect"))
    """Have workers answer a command of your own, which changes nothing: `@app.inspect_command`."""
    control_command = Part(lambda core: core.command_decorator("control"))
    """Have workers obey a command of your own: `@app.control_command`."""

    @property
    def control(self) -> Control:
        """The workers: who is there, what they do, and telling them what to do."""
        from .control.remote import Control  # noqa: PLC0415

        return Control(self._core)

    @property
    def events(self) -> Events:
        """What workers tell while it happens: `async for event in app.events.capture(): …`."""
        from .control.events import Events  # noqa: PLC0415

        return Events(self._core)


def _inline() -> Inline:
    from .worker import inline  # noqa: PLC0415

    return inline
