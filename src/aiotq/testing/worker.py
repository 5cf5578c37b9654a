"""An app under test: in memory, with its real worker, and a clock that the test moves."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Self

from anyio import to_thread

from ..app import AioTQ
from ..backends.memory.state import MemoryState
from ..beat.agenda import Agenda
from ..beat.declared import declared, scope_of
from ..calling.connection import DISABLED
from ..canvas.links import NO_LINKS
from ..canvas.outcome import Outcome, Success
from ..commit import Finish
from ..core.inside import core_of
from ..exceptions import MessageError
from ..wire.message import Envelope, Message
from ..worker.observers import Observer
from ..worker.run import Run
from ..worker.worker import Worker
from .broker import WatchedQueues
from .clock import SAME, SteppingClock
from .records import Expected, Named, Ran, Sent, as_call, listed, matching, none_matching, wall

#: Turns of the loop in which a caller that got a result may have sent the next call.
_TURNS: Final = 20
#: Results are there as long as the test, however far it moves the clock: who awaits one that is gone waits for ever.
_KEPT: Final = 100 * 365 * 86_400.0
_UNKNOWN: Final = "(arguments that can't be read)"


class TestWorker:
    """Runs the tasks of `app` in this loop while entered: in memory, apart from where the app is otherwise connected.

        async with TestWorker(app) as t:
            await remind.options(countdown=3 * 86_400).delay("ann")
            await t.advance(days=3)
            t.assert_ran(remind, args=("ann",))

    Time (`t.now`, first `now` or the present second) stands still until it is moved; what comes due on the way runs
    then, in order, and never early; periodic tasks too. Every queue is consumed, or only `queues`. Further `settings`
    hold for the test. To wait for something that takes more than `patience` real seconds fails the test.

    Raises:
        AssertionError: from its methods: what was waited for or asserted is not so.
        SettingsError: a setting is unknown or has a value it can't have.
    """

    __test__ = False  # pytest takes a class called so for tests
    #: Those that are entered, for reports on failed tests.
    entered: ClassVar[weakref.WeakSet[TestWorker]] = weakref.WeakSet()

    def __init__(
        self,
        app: AioTQ,
        *,
        queues: Sequence[str] | None = None,
        now: datetime | None = None,
        patience: float = 10.0,
        **settings: Any,
    ) -> None:
        start = datetime.now(UTC).replace(microsecond=0) if now is None else now
        if start.tzinfo is None:
            raise ValueError(f"now must be a datetime with a zone, not {start!r}")
        self.app = app
        #: Calls that were accepted, and runs that ended, in order.
        self.sent: list[Sent] = []
        self.ran: list[Ran] = []
        self._queues = queues
        self._patience = patience
        self._settings = settings
        self._clock = SteppingClock(start.timestamp())
        self._changed = asyncio.Event()
        self._stack = AsyncExitStack()

    @property
    def now(self) -> datetime:
        """The time for the app (UTC)."""
        return datetime.fromtimestamp(self._clock.time(), UTC)

    async def __aenter__(self) -> Self:
        app, clock = self.app, self._clock
        self._loop = asyncio.get_running_loop()
        self._broker = WatchedQueues(
            clock,
            only=self._queues,
            on_sent=self._note_sent,
            on_change=self._note_change,
            dead_letter_expires=app.conf.dead_letter_expires,
        )
        changed: Mapping[str, Any] = {
            "broker_url": "memory://",
            "result_backend": DISABLED if app.conf.result_backend == DISABLED else None,
            "ledger": None,
            "outbox": None,
            "result_expires": _KEPT,
            "task_always_eager": False,
            "worker_unknown_task_timeout": 0.0,  # there is nobody else to hand it on to
            **self._settings,
        }
        memory = {("", "broker"): self._broker, ("", "records"): MemoryState(clock=clock)}
        app.load_tasks()
        await core_of(app).configured()
        async with AsyncExitStack() as stack:
            stack.enter_context(core_of(app).replaced(changed, clock=clock, memory=memory))
            stack.push_async_callback(app.close)
            stack.push_async_callback(to_thread.run_sync, core_of(app).bridge.stop)
            worker: Worker = app.worker(self._queues)
            worker.observe(_Recorder(self._note_end))
            await worker.__aenter__()
            stack.push_async_callback(worker.stop, 0.0)
            await self._begin_schedules()
            self._stack = stack.pop_all()
        TestWorker.entered.add(self)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        TestWorker.entered.discard(self)
        await self._stack.aclose()

    async def advance(
        self,
        by: timedelta | float = 0.0,
        *,
        weeks: float = 0,
        days: float = 0,
        hours: float = 0,
        minutes: float = 0,
        seconds: float = 0,
    ) -> None:
        """Let this much time pass: what is due on the way runs then, one due time after the other, to its end."""
        more = timedelta(weeks=weeks, days=days, hours=hours, minutes=minutes, seconds=seconds)
        span = (by.total_seconds() if isinstance(by, timedelta) else by) + more.total_seconds()
        await self._advance_to(round(self._clock.time() + span, 6))

    async def advance_to(self, when: datetime) -> None:
        """Let time pass until `when`, as `advance` does."""
        await self._advance_to(when.timestamp())

    async def _advance_to(self, target: float) -> None:
        if target < self._clock.time() - SAME:
            raise ValueError(f"time can't go back: it is {self.now}, and {wall(target)} is earlier")
        while True:
            await self._send_periodic()
            await self.idle()
            with self._broker.lock:
                due = self._broker.first_due()
            look = self._agenda.next_look
            due = look if due is None or (look is not None and look < due) else due
            if due is None or due > target + SAME:
                break
            self._clock.move_to(due)
        self._clock.move_to(target)
        await self._send_periodic()
        await self.idle()

    async def _begin_schedules(self) -> None:
        """Read the periodic tasks of code."""
        core = core_of(self.app)
        connection = await core.connection()
        sender = connection.sender("test", core.conf.worker_lease)
        self._agenda = Agenda(core, connection, sender, await declared(core))
        self._ledger, self._revision = connection.ledger, -1
        await self._agenda.reconcile(self._clock.time())

    async def _send_periodic(self) -> None:
        """Send what is due of periodic tasks, those added meanwhile among them."""
        now = self._clock.time()
        revision = await self._ledger.schedules_revision(scope_of(core_of(self.app)))
        if revision != self._revision:
            self._revision = revision
            await self._agenda.load(now)
        await self._agenda.step(now)

    async def idle(self) -> None:
        """Return when nothing is running or ready to run; what is delayed stays."""
        __tracebackhide__ = True
        connection = await core_of(self.app).connection()
        limit = asyncio.timeout(self._patience)
        try:
            async with limit:
                quiet = 0
                while quiet < _TURNS:
                    await connection.publisher.drained()
                    self._changed.clear()
                    if self._is_busy():
                        quiet = 0
                        await self._changed.wait()
                    else:
                        quiet += 1
                        await asyncio.sleep(0)
        except TimeoutError:
            if not limit.expired():
                raise
        else:
            return
        raise AssertionError(f"not idle after {self._patience:g} s\n{self._unfinished()}")

    async def drained(self, *, steps: int = 1000) -> None:
        """Return when nothing is left, delayed or not: time moves from one due time to the next, at most `steps` times.

        Periodic tasks are not sent: they have no end.

        Raises:
            AssertionError: there is something left after that; a task that sends itself again has no end.
        """
        __tracebackhide__ = True
        for step in range(steps + 1):
            await self.idle()
            with self._broker.lock:
                due = self._broker.first_due()
            if due is None:
                return
            if step < steps:
                self._clock.move_to(due)
        raise AssertionError(f"still not drained after {steps} steps in time\n{listed('delayed', self.delayed)}")

    @property
    def delayed(self) -> list[Sent]:
        """What waits for its time, the first first: calls with a countdown or eta, and retries."""
        with self._broker.lock:
            waiting = self._broker.delayed()
        return [self._as_sent(envelope, envelope.message.sent_at or due) for due, envelope in waiting]

    def clear(self) -> None:
        """Forget what was sent and ran so far."""
        self.sent.clear()
        self.ran.clear()

    def assert_sent(
        self,
        task: Named,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        countdown: float | timedelta | None = None,
        due: datetime | None = None,
        queue: str | None = None,
        priority: int | None = None,
        expires: datetime | None = None,
        headers: Mapping[str, Any] | None = None,
        times: int | None = None,
    ) -> Sent:
        """See that `task` was called so, once or more or `times` times; return the last such call."""
        __tracebackhide__ = True
        more = {"countdown": countdown, "due": due, "queue": queue, "priority": priority, "expires": expires}
        expected = Expected(task, args, kwargs, {**more, "headers": headers})
        return matching(expected, self.sent, expected.fits, times, "sent")[-1]

    def assert_not_sent(
        self, task: Named, *, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """See that `task` was not called (so)."""
        __tracebackhide__ = True
        expected = Expected(task, args, kwargs, {})
        none_matching(expected, self.sent, expected.fits, "sent")

    def assert_ran(
        self,
        task: Named,
        *,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        state: str | None = None,
        value: Any = None,
        error: type[BaseException] | None = None,
        retries: int | None = None,
        at: datetime | None = None,
        times: int | None = None,
    ) -> Ran:
        """See that `task` ran and ended so, once or more or `times` times; return the last such run."""
        __tracebackhide__ = True
        more = {"state": state, "value": value, "error": error, "retries": retries, "at": at}
        expected = Expected(task, args, kwargs, more)
        return matching(expected, self.ran, expected.fits, times, "run")[-1]

    def assert_not_ran(
        self, task: Named, *, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """See that no run of `task` (so called) has ended."""
        __tracebackhide__ = True
        expected = Expected(task, args, kwargs, {})
        none_matching(expected, self.ran, expected.fits, "run")

    def story(self) -> str:
        """Return all that was sent, ran and waits, for a report."""
        parts = [listed("sent", self.sent), listed("run", self.ran), self._unfinished()]
        return "\n".join([f"it is {self.now}", *parts])

    def _note_sent(self, envelope: Envelope, now: float) -> None:
        if envelope.message.runs_before == 0:
            self.sent.append(self._as_sent(envelope, now))

    def _note_change(self) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._changed.set)

    def _note_end(self, run: Run, outcome: Outcome) -> None:
        message = run.delivery.message
        args, kwargs = getattr(outcome, "links", NO_LINKS).called_with
        if not (args or kwargs):  # it is no step that others gave an argument, or it was not called
            args, kwargs = self._arguments(message)
        value = outcome.value if isinstance(outcome, Success) else None
        ended = Ran(
            message.task,
            tuple(args),
            kwargs,
            message.id,
            outcome.state,
            value,
            outcome.error,
            message.retries,
            self.now,
        )
        self.ran.append(ended)

    def _as_sent(self, envelope: Envelope, at: float) -> Sent:
        message, due = envelope.message, envelope.due
        args, kwargs = self._arguments(message)
        if message.step is not None and message.step.wait is not None:  # of what it awaited until now
            due = at + message.step.wait
        return Sent(
            message.task,
            args,
            kwargs,
            message.id,
            envelope.queue,
            envelope.priority,
            datetime.fromtimestamp(at, UTC),
            wall(due),
            wall(message.expires),
            message.headers or {},
            message.parent_id,
            envelope,
        )

    def _arguments(self, message: Message) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
        conf = self.app.conf
        try:
            args, kwargs, _ = core_of(self.app).serializers.decode(
                message.content_type,
                message.body,
                frozenset(conf.accept_content),
                compression=message.compression,
                max_size=conf.task_message_max_size,
            )
        except (MessageError, ValueError, TypeError):  # that is what is tested, perhaps
            return (_UNKNOWN,), {}
        return tuple(args), kwargs

    def _is_busy(self) -> bool:
        with self._broker.lock:
            return bool(self._broker.running() or self._broker.ready())

    def _unfinished(self) -> str:
        with self._broker.lock:
            running, ready = self._broker.running(), self._broker.ready()
        parts = [
            listed("running", [as_call(each.task, *self._arguments(each)) for each in running]),
            listed("ready", [as_call(each.task, *self._arguments(each)) for each in ready]),
            listed("delayed", self.delayed),
        ]
        return "\n".join(part for part in parts if not part.startswith("nothing")) or "nothing is left to run"


class _Recorder(Observer):
    """Notes the runs of a test's worker that ended."""

    def __init__(self, note: Callable[[Run, Outcome], None]) -> None:
        self._note = note

    def ended(self, run: Run, outcome: Outcome | None, finish: Finish | None) -> None:
        if outcome is not None and outcome.is_reported:
            self._note(run, outcome)
