"""The life of a worker: start, consume, stop cleanly (P6)."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, Final, NamedTuple, Self

from .. import signals
from ..calling.connection import Connection
from ..calling.core import AppCore
from ..canvas.coordinator import Coordinator
from ..commit import Committer
from ..control.presence import MOST_TASKS, Presence, about_process
from ..core.aio import Service, finish
from ..exceptions import OperationalError
from ..results.blocks import BLOCKED
from ..results.revocations import is_among
from ..tasks.options import RunsIn
from ..transport import Consumer, Delivery
from ..wire.message import new_id
from .advice import check_queues, check_tasks
from .autoscale import Autoscaler
from .blocks import Blocks
from .celery_commands import CeleryCommands
from .completer import Completer
from .concurrency_limits import ConcurrencyLimits
from .delivery_info import DeliveryInfo
from .events import WorkerEvents
from .execution import Execution
from .intake import Intake
from .keys import Keys
from .lifeline import Lifeline
from .limit_names import LimitNames
from .neighbours import Neighbours
from .obeying import Obeying
from .observers import Observer, Observers, Told
from .options import WorkerOptions
from .processes.policy import child_policy
from .processes.pool import ProcessPool
from .rate_limits import Limiter
from .recent import RecentRuns
from .run import Cancelled, Run, Slots
from .run_handlers import Handlers
from .starting import Starting
from .steering import Steering
from .taken_queues import TakenQueues, watched
from .task_signals import TaskSignals
from .transactions import Ends, check_transactional
from .upkeep import Reclaiming, fail_overdue

logger = logging.getLogger("aiotq.worker")

#: Seconds a cancelled coroutine has for its cleanup before the log says that it refuses to end.
_CLEANUP: Final = 5.0
#: Seconds that it has beyond those: it is cancelled some more times, and then abandoned.
_LAST_CLEANUP: Final = 10.0
#: Seconds that the last commits of a stopping worker may take; after that their leases end by themselves.
_LAST_COMMITS: Final = 30.0


class _Parts(NamedTuple):
    """The parts of a worker that are there while it is entered."""

    connection: Connection
    consumer: Consumer
    committer: Committer
    permits: ConcurrencyLimits
    presence: Presence
    lifeline: Lifeline
    pool: ProcessPool
    completer: Completer
    blocks: Blocks


class Worker:
    """Runs tasks in this loop while entered; leaving it stops it.

        async with app.worker(queues=["default"], concurrency=100):
            ...

    It runs under a supervisor of its own: a failure ends the worker, is raised when it is left, and cancels nobody.
    No signal handlers are installed.
    """

    def __init__(self, core: AppCore, options: WorkerOptions) -> None:
        self._core = core
        self._options = options
        mark = new_id()[-8:]
        self.name = options.name or f"{socket.gethostname()}-{os.getpid()}-{mark}"
        self._holder = f"{self.name}#{mark}"  # two workers may be given one name, and must not share leases
        self._service: Service[Worker] = Service(self._main, f"aiotq.worker.{self.name}")
        self._stop_now = asyncio.Event()
        self._lifeline: Lifeline | None = None
        self._reclaiming = Reclaiming(core.conf.worker_lease)
        self.is_ready = False  #: whether it takes tasks
        self._grace = options.grace
        self._held: dict[int | str, Delivery] = {}
        self._queues = TakenQueues(options.queues)
        self._intake: Intake | None = None
        self._completer: Completer | None = None
        self._permits: ConcurrencyLimits | None = None
        self._limit_names = LimitNames(core.tasks)
        self._started = core.clock.time()
        signalling = TaskSignals(self, self.name, core.tasks, DeliveryInfo(core.conf))
        self._recent = RecentRuns(core.clock.time)
        self._observers = Observers(signalling, Handlers(), self._recent)
        #: Runs that were left behind: in threads (see `WorkerOptions.leaves_threads`), or that swallow cancellations.
        self.left_running = 0
        #: Tasks that had ended and could not be committed before the stop: they run again when their leases end.
        self.left_uncommitted = 0
        #: The name of the signal by which the process was asked to stop, if it was.
        self.stop_signal: str | None = None

    async def __aenter__(self) -> Self:
        await self._service.start()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.stop()

    @property
    def options(self) -> WorkerOptions:
        """How it consumes."""
        return self._options

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues that it takes from; what is paused for all workers is among them."""
        return self._queues.names

    @property
    def completed(self) -> int:
        """How many tasks this worker has finished."""
        return self._completer.completed if self._completer is not None else 0

    @property
    def running(self) -> int:
        """How many tasks run now."""
        return len(self._intake.runs) if self._intake is not None else 0

    @property
    def runs(self) -> Sequence[Run]:
        """The runs that are under way."""
        return tuple(self._intake.runs.values()) if self._intake is not None else ()

    @property
    def silence(self) -> float:
        """Seconds since the broker answered last. It is asked something every few seconds."""
        return self._reclaiming.silence

    def facts(self) -> Mapping[str, Any]:
        """Return what its row says of it, and more that changes at any moment. May be called in another thread."""
        return {
            **self._describe(),
            "loop_lag_seconds": 0.0 if self._lifeline is None else self._lifeline.lag,
            "broker_silence_seconds": self.silence,
            "uncommitted": 0 if self._completer is None else self._completer.uncommitted,
        }

    def observe(self, observer: Observer) -> None:
        """Have `observer` told what happens in this worker."""
        self._observers.add(observer)

    async def stop(self, grace: float | None = None) -> None:
        """Take no more, let running tasks finish for `grace` seconds, hand back the rest; return when all is done."""
        if grace is not None:
            self._grace = grace
            if grace <= 0:
                self._stop_now.set()
        await self._service.stop()

    def ask_to_stop(self) -> None:
        """Have it stop as `stop` does, without waiting for that: `wait` returns when it has."""
        self._service.ask_to_stop()

    def stop_now(self) -> None:
        """Cut the grace time short."""
        self._stop_now.set()

    async def wait(self) -> None:
        """Return when the worker has ended; raises what it failed with."""
        await self._service.wait()

    async def _main(self, ready: Callable[[Worker], None], stopping: asyncio.Event) -> None:
        conf = self._core.conf
        await signals.import_modules.send(self._core.app)
        self._core.registry.load_tasks()
        await self._tell(lambda each: each.starting(self))
        check_tasks(conf, self._core.tasks.values())
        check_queues(conf, self.queues)
        lease = conf.worker_lease
        async with AsyncExitStack() as stack:
            stack.enter_context(self._core.having_worker(self))
            connection = await stack.enter_async_context(self._core.connections.holding())
            await stack.enter_async_context(self._core.lifespans.all_entered())
            stack.push_async_callback(self._tell, lambda each: each.stopped(self))
            check_transactional(self._core.tasks.values(), conf, connection)
            await self._queues.look(connection.ledger)
            consumer = await stack.enter_async_context(
                connection.broker.consumer(self._holder, self.queues, lease=lease, order=self._options.order)
            )
            committer = connection.committer(consumer, self._holder, lease)
            permits = self._permits = self._make_permits(connection, lease)
            row = self._recent.beside(self._describe)
            presence = await stack.enter_async_context(Presence(connection.ledger, self._holder, row, lease))
            lifeline = self._lifeline = await stack.enter_async_context(
                Lifeline(
                    presence.beside(partial(permits.renew, committer)),
                    self._held,
                    lease=lease,
                    loop_lag=conf.worker_loop_lag,
                    on_lost=self._lost,
                    on_blocked=presence.tell_blocked,
                )
            )
            pool = await stack.enter_async_context(self._pool())
            completer = self._completer = Completer(committer, self._settled, self._wrote)
            connection.revocation_listeners.add(self._revoked)
            stack.callback(connection.revocation_listeners.discard, self._revoked)
            blocks = Blocks(connection.ledger, connection.broker, self._core.shared_clock, self._limit_names)
            await blocks.look()
            parts = _Parts(connection, consumer, committer, permits, presence, lifeline, pool, completer, blocks)
            await self._work(parts, ready, stopping)

    async def _work(self, parts: _Parts, ready: Callable[[Worker], None], stopping: asyncio.Event) -> None:
        """Run tasks until the worker is to stop, and all that goes on beside them."""
        core, connection, completer = self._core, parts.connection, parts.completer
        async with asyncio.TaskGroup() as upkeep:
            intake = self._intake = self._make_intake(parts)
            scaler = Autoscaler(intake.slots, intake.resize, self._options.bounds)
            events = WorkerEvents(self, core, connection, intake, self._observers)
            steering = Steering(
                *(self, core, connection, intake, scaler, parts.pool, parts.presence, self._queues, events),
                started=self._started,
            )
            commands = Obeying(connection.bus, steering, core.commands, key=self._holder, signer=core.signer)
            beside = {
                "completer": completer.run(),
                "reclaim": self._reclaiming.run(connection, parts.consumer, parts.committer, parts.lifeline),
                "permits": parts.permits.run(),
                "overdue": fail_overdue(connection, self._coordinator(connection), completer, core.conf.join_timeout),
                "autoscale": scaler.run(),
                "events": events.run(),
                "paused_queues": self._queues.watch(connection.ledger, connection.bus),
                "blocks": watched(connection.bus, BLOCKED, parts.blocks.look, "which calls are blocked"),
                "control": commands.run(),
            }
            if core.conf.outbox is not None:
                from .relay import Relay  # noqa: PLC0415

                beside["outbox"] = Relay(core, connection, self._holder).run()
            if connection.celery is not None:
                beside["control.celery"] = CeleryCommands(connection.celery, steering, commands).run()
            running = [upkeep.create_task(each, name=f"aiotq.{name}") for name, each in beside.items()]
            await parts.presence.announce()  # before it takes anything: who is told that it is ready finds its row
            died, every = self._reclaiming.know_dead, core.conf.worker_lease
            neighbours = Neighbours(connection.ledger, connection.bus, self._holder, died, every)
            running.append(upkeep.create_task(neighbours.run(), name="aiotq.neighbours"))
            await self._take(intake, connection, ready, stopping)
            await self._commit_the_rest(completer, parts.permits)
            await events.say_good_bye()
            for each in running:
                each.cancel()

    async def _take(
        self, intake: Intake, connection: Connection, ready: Callable[[Worker], None], stopping: asyncio.Event
    ) -> None:
        """Take tasks until the worker is to stop; return when none of them runs any more."""
        async with intake.owning_runs(), asyncio.TaskGroup() as receiving:
            taking = receiving.create_task(intake.run(), name="aiotq.intake")
            try:
                await self._tell(lambda each: each.ready(self))
                self.is_ready = True
                ready(self)
                await _until(stopping, taking, connection)
                self.is_ready = False
                taking.cancel()
                intake.close()
                how = "Cold" if self._stop_now.is_set() else "Warm"
                await self._tell(lambda each: each.stopping(self, how))
                await self._end_runs(intake)
            except BaseException:
                intake.give_up()
                raise

    async def _commit_the_rest(self, completer: Completer, permits: ConcurrencyLimits) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_COMMITS):
                await completer.drained()
                await permits.drained()
        self.left_uncommitted = completer.uncommitted
        if self.left_uncommitted:
            logger.error("stopping with %d uncommitted tasks: they run again", self.left_uncommitted)

    async def _tell(self, tell: Callable[[Observer], Told]) -> None:
        if self._observers:
            await self._observers.tell(tell)

    def _make_permits(self, connection: Connection, lease: float) -> ConcurrencyLimits:
        core = self._core
        return ConcurrencyLimits(
            core.tasks,
            connection.ledger,
            connection.broker,
            core.shared_clock,
            self._limit_names,
            holder=self._holder,
            lease=lease,
        )

    def _make_intake(self, parts: _Parts) -> Intake:
        connection, completer = parts.connection, parts.completer
        options = self._options

        async def settle(run: Run) -> None:
            run.is_settled = await completer.acknowledge(run.delivery)

        async def acknowledge(run: Run) -> bool:
            # To its end, once begun: what is acknowledged and not run must at least have an outcome.
            await finish(settle(run), _LAST_COMMITS, once_cancelled=True)
            return run.is_settled

        execution = Execution(
            self._core, worker=self.name, pool=parts.pool, observers=self._observers, acknowledge=acknowledge
        )
        coordinator = self._coordinator(connection)
        execution.transactions.ends = Ends(coordinator.follow, connection.statement, completer.committed_elsewhere)
        completer.instead = lambda finish, delivery, why: coordinator.instead(
            finish, delivery, why, execution.links(delivery.message)
        )
        capacities: dict[RunsIn, int] = {
            "loop": options.concurrency,
            "thread": options.threads,
            "process": options.processes,
        }
        slots: dict[RunsIn, Slots] = {kind: Slots(capacity) for kind, capacity in capacities.items()}
        self._limit_names.arguments = execution.arguments
        default_rate = self._core.conf.task_default_rate_limit
        limiter = Limiter(self._core.tasks, default_rate, connection.ledger.book, self._limit_names)
        keys = Keys(connection.ledger, self._core.shared_clock)
        return Intake(
            consumer=parts.consumer,
            committer=parts.committer,
            completer=completer,
            execution=execution,
            coordinator=coordinator,
            tasks=self._core.tasks,
            slots=slots,
            held=self._held,
            lease=self._core.conf.worker_lease,
            prefetch=options.prefetch,
            revoked=connection.ledger.revoked,
            starting=Starting(self._core.tasks, slots, limiter, parts.permits, keys, parts.blocks),
            permits=parts.permits,
            observers=self._observers,
            queues=self._queues,
        )

    def _describe(self) -> Mapping[str, Any]:
        """Return what the worker says of itself. Called in the lifeline's thread as well."""
        intake, tasks = self._intake, tuple(self._core.tasks)
        slots = {} if intake is None else {kind: (each.taken, each.capacity) for kind, each in intake.slots.items()}
        return {
            **about_process(),
            "kind": "worker",
            "name": self.name,
            "queues": self.queues,
            "tasks": sorted(tasks)[:MOST_TASKS],
            "task_count": len(tasks),
            "slots": slots,
            "running": self.running,
            "completed": self.completed,
            "is_paused": intake is not None and intake.is_paused,
            "started": self._started,
            "seen": self._core.clock.time(),
        }

    def _coordinator(self, connection: Connection) -> Coordinator:
        return self._core.coordinator(self.name, has_joins=connection.ledger.has_joins)

    def _pool(self) -> ProcessPool:
        return ProcessPool(self._options.processes, child_policy(self._core.conf, self._core.tasks.values()))

    async def _end_runs(self, intake: Intake) -> None:
        """Let running tasks finish for the grace time, then cancel them; threads can't be, and are waited for."""
        if intake.runs:
            logger.debug("stopping: %d tasks running, %g s for them to finish", len(intake.runs), self._grace)
        await self._until_ended(intake, lambda run: True, self._grace, self._stop_now)
        for run in list(intake.runs.values()):
            if run.kind != "thread":
                run.cancel(Cancelled.STOPPING)
        if not await self._until_ended(intake, lambda run: run.kind != "thread", _CLEANUP, None):
            for run in intake.runs.values():
                if run.kind != "thread" and run.task is not None:
                    logger.error("%s was cancelled and does not end", run.task.get_name())
            await self._until_ended(intake, lambda run: run.kind != "thread", _LAST_CLEANUP, self._stop_now)
            self._abandon([run for run in intake.runs.values() if run.kind != "thread"], intake)
        threads = [run for run in intake.runs.values() if run.kind == "thread"]
        if not threads:
            return
        names = ", ".join(run.task.get_name() for run in threads if run.task is not None)
        if self._options.leaves_threads:
            logger.warning("threads can't be stopped; handing back the tasks that run in them: %s", names)
            self.left_running += len(threads)
            for run in threads:
                run.cancel(Cancelled.STOPPING)
        else:
            logger.warning("threads can't be stopped; waiting for the tasks that run in them: %s", names)

    def _abandon(self, runs: Sequence[Run], intake: Intake) -> None:
        """Have a stop end although tasks swallow every cancellation."""
        for run in runs:
            name = "" if run.task is None else run.task.get_name()
            logger.error("%s swallows its cancellation: it is handed back, and what it still does is lost", name)
            intake.abandon(run)
        self.left_running += len(runs)

    async def _until_ended(
        self, intake: Intake, which: Callable[[Run], bool], seconds: float, cut_short: asyncio.Event | None
    ) -> bool:
        """Wait until no run of `which` is left, at most `seconds`; whether that is so."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        async with asyncio.TaskGroup() as group:
            cut = group.create_task(cut_short.wait()) if cut_short is not None else None
            while True:
                waited = {run.task for run in intake.runs.values() if which(run) and run.task is not None}
                left = deadline - loop.time()
                if not waited or left <= 0 or (cut is not None and cut.done()):
                    break
                await asyncio.wait(
                    {*waited, cut} if cut is not None else waited,
                    timeout=left,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            if cut is not None:
                cut.cancel()
        return not any(which(run) for run in intake.runs.values())

    def _settled(self, delivery: Delivery) -> None:
        self._held.pop(delivery.lease, None)
        # What is acknowledged before it runs has its permit until it has run.
        if self._permits and self._intake is not None and delivery.lease not in self._intake.runs:
            self._permits.leave(delivery)

    def _wrote(self, count: int, seconds: float) -> None:
        if self._observers:
            self._observers.watch(lambda each: each.committed(count, seconds), "a commit")

    def _lost(self, lost: Collection[Delivery]) -> None:
        """Cancel the runs whose lease was lost. A run that was committed while the leases were renewed lost nothing."""
        if self._intake is None:
            return
        if self._observers:
            self._observers.watch(lambda each: each.lost(lost), "lost leases")
        for delivery in lost:
            run = self._intake.runs.get(delivery.lease)
            message = delivery.message
            if run is not None and (run.is_settled or run.is_ending):
                continue
            if run is not None:
                logger.warning("the lease of %s[%s] was lost: its run is cancelled", message.task, message.id)
                run.cancel(Cancelled.LEASE_LOST)
            elif self._intake.drop_waiting(delivery):
                logger.warning("the lease of %s[%s] was lost before it started", message.task, message.id)
                self._held.pop(delivery.lease, None)
                if self._permits:
                    self._permits.leave(delivery)

    def _revoked(self, ids: Collection[str]) -> None:
        if self._intake is None:
            return
        for run in list(self._intake.runs.values()):
            if run.kind != "thread" and is_among(run.delivery.message, ids):
                run.cancel(Cancelled.REVOKED)


async def _until(stopping: asyncio.Event, taking: asyncio.Task[None], connection: Connection) -> None:
    """Return when the worker is to stop, or its intake ended.

    Raises:
        OperationalError: the connection was closed under it.
    """
    async with asyncio.TaskGroup() as group:
        stop = group.create_task(stopping.wait())
        closed = group.create_task(connection.ended())
        await asyncio.wait({stop, taking, closed}, return_when=asyncio.FIRST_COMPLETED)
        was_closed = closed.done() and not stop.done()
        stop.cancel()
        closed.cancel()
    if was_closed:
        raise OperationalError("the app's connection ended under the worker")
