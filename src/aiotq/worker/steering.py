"""A worker as commands see it: what it runs and has, and what of it may be changed while it runs."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

from ..calling.connection import Connection
from ..calling.core import AppCore
from ..control.commands import DelayedCall, RunningCall
from ..control.presence import Presence
from ..core.bounds import Bounds
from ..exceptions import AioTQError
from ..tasks.options import RunsIn
from ..transport import Delivery
from ..wire.message import Message
from .autoscale import Autoscaler
from .events import WorkerEvents
from .intake import Intake
from .processes.pool import ProcessPool
from .run import Run
from .standing import standing
from .taken_queues import TakenQueues

if TYPE_CHECKING:
    from .worker import Worker

#: Bytes of arguments that are decoded to be shown.
_MOST_DECODED: Final = 65_536


class Steering:
    """The actions on one running worker that commands use."""

    def __init__(
        self,
        worker: Worker,
        core: AppCore,
        connection: Connection,
        intake: Intake,
        scaler: Autoscaler,
        pool: ProcessPool,
        presence: Presence,
        queues: TakenQueues,
        events: WorkerEvents,
        *,
        started: float,
    ) -> None:
        self.core = core
        self.started = started
        self.commands: Counter[str] = Counter()  #: what became of commands that were heard
        self._worker = worker
        self._connection = connection
        self._intake = intake
        self._scaler = scaler
        self._pool = pool
        self._presence = presence
        self._queues = queues
        self._events = events

    @property
    def user_facing(self) -> object:
        return self._worker

    @property
    def name(self) -> str:
        return self._worker.name

    @property
    def queues(self) -> tuple[str, ...]:
        return self._queues.names

    @property
    def paused_queues(self) -> Collection[str]:
        return self._queues.paused

    def add_queue(self, name: str) -> bool:
        return self._queues.add(name)

    def remove_queue(self, name: str) -> bool:
        return self._queues.remove(name)

    async def delayed(self, limit: int) -> Sequence[DelayedCall] | None:
        broker = self._connection.broker
        if not broker.can_list:
            return None
        found = [envelope for name in self._queues.names for envelope in await broker.delayed(name, limit=limit)]
        return [DelayedCall(each, self._verified_arguments(each.message)) for each in found]

    async def revocations(self) -> Mapping[str, float]:
        return await self._connection.ledger.revocations()

    def row(self) -> Mapping[str, Any]:
        return self._presence.row()

    async def announce(self) -> None:
        if self._events.sender.is_on:
            self._events.beat()
        await self._presence.announce()

    @property
    def completed(self) -> Mapping[str, int]:
        return {"tasks": self._worker.completed}

    @property
    def is_paused(self) -> bool:
        return self._intake.is_paused

    def running(self) -> Sequence[RunningCall]:
        now, wall = time.perf_counter(), self.core.clock.time()
        return [
            RunningCall(run.delivery, run.kind, wall - (now - run.started_at), run.is_settled, self._arguments(run))
            for run in self._intake.runs.values()
        ]

    def reserved(self) -> Sequence[Delivery]:
        return self._intake.waiting

    def slots(self) -> Mapping[str, tuple[int, int]]:
        return {kind: (slots.taken, slots.capacity) for kind, slots in self._intake.slots.items()}

    def resize(self, kind: str, capacity: int) -> None:
        self._intake.resize(cast("RunsIn", kind), capacity)

    def autoscale(self, kind: str, least: int, most: int) -> None:
        self._scaler.set(cast("RunsIn", kind), Bounds(least, most))

    async def restart_processes(self) -> int:
        return await self._pool.restart()

    def limit_rate(self, task: str, interval: float | None) -> None:
        self._intake.starting.limiter.set_interval(task, interval)

    def limit_time(self, task: str, soft: float | None, hard: float | None) -> None:
        self._intake.execution.time_limits[task] = soft, hard

    def pause(self) -> None:
        self._intake.pause()

    def resume(self) -> None:
        self._intake.resume()

    @property
    def sends_events(self) -> bool:
        return self._events.sender.enabled

    def send_events(self, to_all: bool) -> None:
        self._events.sender.enabled = to_all

    def ask_to_stop(self) -> None:
        self._worker.ask_to_stop()

    def standing(self) -> Sequence[str]:
        return list(standing(tuple(self._intake.runs.values()), asyncio.get_running_loop()))

    def _arguments(self, run: Run) -> tuple[str, str] | None:
        """Return the arguments of a run as they may be shown. What is not verified yet is not decoded."""
        return self._decoded(run.delivery.message) if run.is_started else None

    def _verified_arguments(self, message: Message) -> tuple[str, str] | None:
        signer = self.core.signer
        if signer is not None:
            try:
                signer.verify(message)
            except AioTQError:  # it will be refused
                return None
        return self._decoded(message)

    def _decoded(self, message: Message) -> tuple[str, str] | None:
        if len(message.body) > _MOST_DECODED:
            return None
        try:
            args, kwargs, _ = self._intake.execution.decode(message)
        except AioTQError:  # whoever runs it says so
            return None
        return self.core.arguments.reprs(args, kwargs, self.core.parameters_of(message.task))
