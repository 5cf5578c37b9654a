"""Takes deliveries that free slots can start, and starts them (P5: at most one suspect at a time)."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any, Final, TypeVar

from anyio import to_thread

from .. import states
from ..canvas.coordinator import Coordinator
from ..canvas.outcome import Failure, Outcome, Policy, Returned
from ..commit import Committer, Finish
from ..core.aio import back_off, start
from ..core.logs import WarnOnce
from ..exceptions import OperationalError, StorageGone
from ..results.revocations import keys_of
from ..tasks.options import RunsIn
from ..tasks.task import Task
from ..transport import Consumer, Delivery
from .completer import Completer
from .concurrency_limits import ConcurrencyLimits
from .execution import Execution
from .observers import Observers, Told
from .run import Cancelled, Run, Slots
from .starting import Starting
from .taken_queues import TakenQueues

T = TypeVar("T")

logger = logging.getLogger("aiotq.worker")

#: One read at most; a larger one would only make the first of it wait for the last.
_MAX_READ: Final = 500
#: Seconds one read waits for a message; the transport wakes it earlier.
_WAIT: Final = 30.0
#: Seconds after which what no free slot of its kind could take comes back to the queue.
_OVERFLOW_DELAY: Final = 0.2
#: Seconds between reads while something waits here for a slot of its kind.
_OVERFLOW_PAUSE: Final = 0.05
_FIRST_PAUSE: Final = 0.05
#: Calls that ended, and are remembered for those who wait for their results: more than may wait to be committed.
_MOST_ENDED: Final = 4_000
#: A broker that is back waits no longer than this for us.
_LONGEST_PAUSE: Final = 1.0


class Intake:
    """Feeds `execution` from `consumer` for as long as `run` lasts.

    A queue may mix kinds (coroutine, thread, process), and a read can't choose. What comes for a kind whose slots
    are full waits here if its turn comes soon (`Slots.room`), and goes back to the queue for a moment beyond that;
    reads are small until the kind has room again. So a burst of slow CPU tasks is neither hoarded nor does it stop
    the others.
    """

    def __init__(
        self,
        *,
        consumer: Consumer,
        committer: Committer,
        completer: Completer,
        execution: Execution,
        coordinator: Coordinator,
        tasks: Mapping[str, Task[..., Any]],
        slots: Mapping[RunsIn, Slots],
        held: dict[int | str, Delivery],
        lease: float,
        prefetch: int,
        revoked: Callable[[Sequence[str]], Awaitable[Collection[str]]],
        starting: Starting,
        permits: ConcurrencyLimits,
        observers: Observers,
        queues: TakenQueues,
    ) -> None:
        self._consumer = consumer
        self._queues = queues
        self._read_from = queues.names  #: what the consumer reads from
        queues.on_change = self._look_again
        self._committer = committer
        self._completer = completer
        self.execution = execution
        self._coordinator = coordinator
        self._tasks = tasks
        self._slots = slots
        self._held = held
        self._lease = lease
        self._prefetch = prefetch
        self._revoked = revoked
        self.starting = starting
        self._permits = permits
        self._observers = observers
        self._context = contextvars.copy_context()
        self._freed = asyncio.Event()
        self._kinds: frozenset[RunsIn] = frozenset()
        self._tasks_seen = -1
        self._waiting: dict[RunsIn, deque[Delivery]] = {kind: deque() for kind in slots}
        self._limit = _MAX_READ
        self._suspects = 0  #: those that run or wait here
        self._reading: asyncio.Timeout | None = None  #: of the read under way, to cut it short
        self._is_paused = False
        self._closed = False
        #: Ids of calls that ended lately: who waits for them hears of it soon.
        self._ended: deque[str] = deque(maxlen=_MOST_ENDED)
        self._has_given_up = False
        self.runs: dict[int | str, Run] = {}

    async def run(self) -> None:
        """Take and start deliveries until cancelled; a broker that fails is asked again."""
        try:
            await self._run_on()
        except Exception:
            self.give_up()
            raise

    async def _run_on(self) -> None:
        pause = _FIRST_PAUSE
        complaint = WarnOnce(logger, "receiving failed")
        while True:
            await self._completer.room()
            queues = self._queues.open
            if (limit := self._wanted()) <= 0 or self._is_paused or not (queues or self._read_from):
                self._freed.clear()
                await self._freed.wait()
                continue
            try:
                if queues != self._read_from:
                    await self._consumer.read_from(queues)
                    self._read_from = queues
                    continue
                read = await self._receive(limit)
            except StorageGone:  # the worker can't bring it back: it fails, and its supervisor may start another
                raise
            except OperationalError as exc:
                complaint.make(exc)
                pause = await back_off(pause, _LONGEST_PAUSE)
            except Exception:  # a defect must not end the loop that everything depends on
                logger.exception("receiving failed, trying again")
                pause = await back_off(pause, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
                complaint.withdraw()
                if read:
                    await self._take_in(read)

    def close(self) -> None:
        """Hand back at once what was not started (P6); nothing is started any more."""
        self._closed = True
        for waiting in self._waiting.values():
            while waiting:
                self._hand_back(waiting.popleft())
        self._hand_back_waiters()

    def _hand_back_waiters(self) -> None:
        """Cancel runs that wait for results which no run here will bring: a worker that goes on may bring them."""
        waiting = [run for run in self.runs.values() if run.waited and not run.is_settled]
        if waiting:
            here = {*self._ended, *(run.delivery.message.id for run in self.runs.values())}
            for run in waiting:
                if here.isdisjoint(run.waited):
                    run.cancel(Cancelled.STOPPING)

    def abandon(self, run: Run) -> None:
        """Settle a run that does not end, however often it is cancelled; what its task does then counts no more."""
        outcome = self.execution.stopped(run)
        if outcome is not None:
            self._complete(run, self._coordinator.follow(outcome))
        self._leave(run, outcome)

    def give_up(self) -> None:
        """The worker failed: what runs is cancelled, once, so that it can clean up, and its end is no outcome."""
        if self._has_given_up:
            return
        self._has_given_up = True
        self.close()
        for run in self.runs.values():
            if run.cancelled_for is None:
                run.cancelled_for = Cancelled.STOPPING
            if run.task is not None:
                run.task.cancel()

    @asynccontextmanager
    async def owning_runs(self) -> AsyncGenerator[None, None]:
        """Whoever leaves it, by an error or not, has waited for all runs; an error, and a cancellation, cancels them.

        It is a task group for runs, each of which says itself that it has ended; to learn it as a group does costs
        as much as a tenth of all that is done for a call that does nothing.
        """
        cancelled: asyncio.CancelledError | None = None
        try:
            yield
        except BaseException:
            self.give_up()
            raise
        finally:
            while waited := {run.task for run in self.runs.values() if run.task is not None and not run.task.done()}:
                try:
                    await asyncio.wait(waited)
                except asyncio.CancelledError as exc:
                    cancelled = exc
                    self.give_up()
        if cancelled is not None:
            raise cancelled

    def drop_waiting(self, delivery: Delivery) -> bool:
        """Forget a delivery that was not started; False if it is not here."""
        for waiting in self._waiting.values():
            if delivery in waiting:
                waiting.remove(delivery)
                self._let_go_of(delivery)
                return True
        return False

    @property
    def is_paused(self) -> bool:
        return self._is_paused

    def pause(self) -> None:
        """Take no more deliveries until `resume`; those that are here go on."""
        self._is_paused = True
        self._end_read()

    def resume(self) -> None:
        """Take deliveries again."""
        self._is_paused = False
        self._freed.set()

    def _look_again(self) -> None:
        """Have the next read take from other queues."""
        self._freed.set()
        self._end_read()

    def resize(self, kind: RunsIn, capacity: int) -> None:
        """Let so many of a kind run at once; those that are too many go on."""
        slots = self._slots[kind]
        slots.capacity = capacity
        slots.let_go_on()
        self._on_freed(kind)
        self._end_read()

    @property
    def slots(self) -> Mapping[RunsIn, Slots]:
        """The places for runs, by kind."""
        return self._slots

    @property
    def waiting(self) -> Sequence[Delivery]:
        """The deliveries that were taken and wait here for a slot."""
        return [delivery for waiting in self._waiting.values() for delivery in waiting]

    @property
    def unstarted(self) -> int:
        return sum(len(waiting) for waiting in self._waiting.values())

    def _wanted(self) -> int:
        """How much to read: what the kind with the most free slots can start, and what may be held beyond that."""
        if len(self._tasks) != self._tasks_seen:
            self._tasks_seen = len(self._tasks)
            self._kinds = frozenset({"loop", *(task.runs_in for task in self._tasks.values())})
        free = max(0, *(self._slots[kind].free for kind in self._kinds))
        return min(free + max(0, self._prefetch - self.unstarted), self._limit)

    async def _receive(self, limit: int) -> Sequence[Delivery]:
        """Read. While we have a suspect no other is brought; the read ends with it, and the next may bring one (P5)."""
        try:
            async with asyncio.timeout(None) as self._reading:
                return await self._consumer.receive(limit, suspect=not self._suspects, wait=_WAIT)
        except TimeoutError:
            return ()
        finally:
            self._reading = None

    async def _take_in(self, read: Sequence[Delivery]) -> None:
        for delivery in read:
            self._held[delivery.lease] = delivery
        left = {delivery.lease: delivery for delivery in read}
        try:
            admission = await self._until_done(functools.partial(self._committer.admit, read))
            for delivery in (*admission.run, *admission.revoked):
                self._held[delivery.lease] = delivery  # it may know more by now than when it was read
            late = [each for each in admission.run if time.monotonic() - each.read_at > self._lease / 2]
            lost: set[int | str] = set()
            if late:

                async def renew() -> Collection[Delivery]:
                    return await to_thread.run_sync(self._committer.renew, late)

                lost = {delivery.lease for delivery in await self._until_done(renew)}
            taken = [each for each in admission.run if each.lease not in lost] if lost else admission.run
            allowed = await self.starting.allowed(taken, admission.revoked, self._until_done)
            self._held.update(allowed.changed)
            taken, waits, unable = allowed.taken, allowed.waits, allowed.unable
            for delivery in (*admission.revoked, *allowed.rejected):
                del left[delivery.lease]
                self._suspects += delivery.is_suspect
                self._start(delivery, "loop", is_revoked=True)
            overflow = 0
            if self._observers:
                await self._observers.tell(lambda each: each.received(taken), "what was received")
            # Those that have their start or permit go before the others: it is spent if they don't begin.
            for delivery in sorted(taken, key=lambda each: each.lease not in waits) if waits else taken:
                del left[delivery.lease]
                wait = waits.get(delivery.lease, 0.0)
                if wait > 0:
                    self._hand_back(delivery, wait)
                elif delivery.lease in unable or not self._place(delivery):
                    overflow += 1
                    self._hand_back(delivery, _OVERFLOW_DELAY)
        except asyncio.CancelledError:
            for delivery in left.values():  # the worker stops: somebody else may have them at once
                self._hand_back(delivery)
            raise
        for lease in left:  # settled when they were admitted, or lost
            self._held.pop(lease, None)
        self._limit = max(1, (len(read) - overflow) // 2) if overflow else min(self._limit * 2, _MAX_READ)
        if self.unstarted > self._prefetch:
            await self._let_start()

    def _hand_back(self, delivery: Delivery, delay: float = 0.0) -> None:
        """Let somebody else have what was not started here, in `delay` seconds."""
        if self._observers:
            self._observers.watch(lambda each: each.handed_back(delivery, delay), "what was handed back")
        self._completer.add(self._coordinator.follow(Returned(delivery, delay)))

    async def _let_start(self) -> None:
        """Wait a moment for what waits here to start: more of its kind may come with the next read."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_OVERFLOW_PAUSE):
                while self.unstarted > self._prefetch:
                    self._freed.clear()
                    await self._freed.wait()

    async def _until_done(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask broker or store until they answer: what was read is held, and must not be forgotten meanwhile."""
        pause = _FIRST_PAUSE
        complaint = WarnOnce(logger, "checking received messages failed")
        while True:
            try:
                return await ask()
            except OperationalError as exc:
                complaint.make(exc)
            except Exception:  # a defect must not end the loop that everything depends on
                logger.exception("checking received messages failed, trying again")
            pause = await back_off(pause, _LONGEST_PAUSE)

    def _place(self, delivery: Delivery) -> bool:
        """Start `delivery`, or let it wait for a slot of its kind; False if there is no room for either."""
        if self._closed:
            return False
        task = self._tasks.get(delivery.message.task)
        kind: RunsIn = task.runs_in if task is not None else "loop"
        slots = self._slots[kind]
        if slots.free > 0:
            self._start(delivery, kind)
        elif len(self._waiting[kind]) < max(slots.room, self._prefetch):
            self._waiting[kind].append(delivery)
        else:
            return False
        self._suspects += delivery.is_suspect
        return True

    def _let_go_of(self, delivery: Delivery) -> None:
        """Have the next read bring suspects again if this was the one we had."""
        if delivery.is_suspect:
            self._suspects -= 1
            if not self._suspects:
                self._end_read()

    def _end_read(self) -> None:
        """Have the read under way end with what it has, so that the next one is another."""
        if self._reading is not None:
            self._reading.reschedule(asyncio.get_running_loop().time())

    def _start(self, delivery: Delivery, kind: RunsIn, *, is_revoked: bool = False, has_waited: bool = False) -> None:
        run = Run(delivery, kind, self._slots[kind], self._on_freed)
        self.runs[delivery.lease] = run
        message = delivery.message
        run.task = start(
            self._run(run, is_revoked=is_revoked, has_waited=has_waited),
            name=f"{message.task}[{message.id}]",
            context=self._context.copy(),  # and not that of the run which freed the slot
        )

    def _complete(self, run: Run, finish: Finish) -> None:
        if run.is_settled:
            self._completer.add(replace(finish, delivery=None), run.delivery)
        elif finish is not run.committed:
            self._completer.add(finish)

    async def _is_revoked(self, run: Run) -> bool:
        """Ask again, until answered or cancelled: it may have been revoked while it waited here."""
        pause = _FIRST_PAUSE
        complaint = WarnOnce(logger, "asking whether a task is revoked failed")
        while run.cancelled_for is None:
            try:
                return bool(await self._revoked(keys_of(run.delivery.message)))
            except OperationalError as exc:
                complaint.make(exc)
            pause = await back_off(pause, _LONGEST_PAUSE)
        return False

    async def _run(self, run: Run, *, is_revoked: bool, has_waited: bool) -> None:
        run.started_at = time.perf_counter()
        delivery = run.delivery
        outcome: Outcome | None = None
        try:
            try:
                is_revoked = is_revoked or (has_waited and await self._is_revoked(run))
                run.is_started = True  # until here a cancellation is only noted, and `Execution` acts on it
                if is_revoked:
                    outcome = self.execution.revoked(run)
                else:
                    outcome = await self.execution.run(run)
            except GeneratorExit as exc:
                # A future or thread of the task ended so; Python closes all frames on its way here (PEP 380).
                outcome = Failure(delivery, exc, Policy(delivery.message.ignore_result))
            if run.is_over:  # and settled: it was abandoned
                return
            if run.transaction is not None:
                outcome = await self.execution.transactions.end(run, outcome)
            finish = run.committed or (None if outcome is None else self._coordinator.follow(outcome))
            self._observers.count(run, outcome, finish)
            if self._observers.of(run.called) and (hooks := self._tell_end(run, outcome, finish)) is not None:
                await hooks
            if finish is None:
                self._held.pop(delivery.lease, None)
            else:
                self._complete(run, finish)
        except Exception as error:  # a defect of ours must not end the worker
            logger.exception("running %s[%s] failed", delivery.message.task, delivery.message.id)
            self._complete(run, self._coordinator.broke(delivery, error))
            if self._observers:
                await self._tell_defect(run, error)
        finally:
            if not run.is_over:
                self._leave(run, outcome)
            run.request = None  # which knows this run: else both are the collector's

    def _leave(self, run: Run, outcome: Outcome | None) -> None:
        """Let go of what a run had here."""
        delivery = run.delivery
        del self.runs[delivery.lease]
        if self._permits and (run.is_settled or outcome is None):  # others leave when they are committed
            self._permits.leave(delivery)
        self._let_go_of(delivery)
        if run.kind != "loop":
            run.slots.took(run.seconds)
        run.end()
        if outcome is not None and states.is_ready(outcome.state):
            self._ended.append(delivery.message.id)
        if self._closed:
            self._hand_back_waiters()

    def _tell_end(self, run: Run, outcome: Outcome | None, finish: Finish | None) -> Told:
        if outcome is not None and finish is not None:
            outcome = self._coordinator.as_kept(outcome, finish)
        return self._observers.tell_end(run, lambda each: each.ended(run, outcome, finish))

    async def _tell_defect(self, run: Run, error: Exception) -> None:
        hooks = self._observers.tell_end(run, lambda each: each.broke(run, error))
        if hooks is not None:
            await hooks

    def _on_freed(self, kind: RunsIn) -> None:
        waiting = self._waiting[kind]
        while waiting and self._slots[kind].free > 0 and not self._closed:
            self._start(waiting.popleft(), kind, has_waited=True)
        self._freed.set()
        if self._closed:
            self._hand_back_waiters()
