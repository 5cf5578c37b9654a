"""A worker and its app among faults: of their surroundings, of what users register with them, and of our own code."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import threading
import time
from collections.abc import Awaitable, Collection, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import orjson
import pytest

from aiotq import AioTQ, AsyncResult, SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded, Worker
from aiotq.backends.memory.broker import MemoryConsumer
from aiotq.backends.memory.commit import MemoryCommitter
from aiotq.canvas.coordinator import Coordinator
from aiotq.canvas.outcome import Outcome, Success
from aiotq.commit import COMMITTED, Answer, Committer, Finish
from aiotq.core.inside import core_of
from aiotq.exceptions import (
    CallError,
    ConnectionLost,
    DeadLettered,
    EncodeError,
    InvalidSetting,
    OperationalError,
    PublishTimeout,
    WorkerLostError,
)
from aiotq.results import Record
from aiotq.transport import Delivery
from aiotq.wire.message import Envelope, new_id
from aiotq.wire.serializers import Serializer
from aiotq.worker.run import Cancelled

from ..waiting import wait_until
from . import process_app
from .test_worker_memory import make_app, queue, send_raw, works

DAY = 86_400.0


@pytest.fixture
def app() -> AioTQ:
    return make_app()


class JumpingClock:
    """The machine's clock, put forward by `ahead` seconds."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.ahead

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def holds(app: AioTQ, count: int) -> None:
    """Wait until the app's worker holds so many deliveries."""

    async def leased() -> bool:
        return (await queue(app)).leased == count

    await wait_until(leased, f"{count} deliveries are held")


# Revocations (P8)


@pytest.mark.parametrize(("days", "by_id"), [(30, False), (300, True)], ids=["of the call", "made from its id"])
async def test_a_revocation_is_remembered_until_the_task_is_due(days: int, by_id: bool) -> None:
    clock = JumpingClock()
    app = AioTQ("proj", broker="memory://", clock=clock)
    ran: list[int] = []

    @app.task
    async def late() -> None:
        ran.append(1)

    async with app:
        result = await late.options(countdown=days * DAY).delay()
        await (app.AsyncResult(result.id) if by_id else result).revoke()
        clock.ahead = days * DAY + 1
        async with app.worker():
            with pytest.raises(TaskRevokedError):
                await result.get(timeout=5)

    assert ran == []


async def test_a_revocation_is_kept_a_day_beyond_the_due_time_and_a_year_if_that_is_not_known(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[float] = []

    async def revoke(ids: Collection[str], *, terminate: bool, expires: float) -> None:
        kept.append(expires - time.time())

    @app.task
    async def late() -> None: ...

    async with app:
        monkeypatch.setattr((await core_of(app).connection()).ledger, "revoke", revoke)
        due_now, due_later = await late.delay(), await late.options(countdown=10 * DAY).delay()
        for result in (due_now, due_later, app.AsyncResult(due_now.id)):
            await result.revoke()

    assert [round(seconds / DAY) for seconds in kept] == [1, 11, 366]


@pytest.mark.parametrize("terminate", [False, True])
@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_task_revoked_while_it_waits_in_the_worker_does_not_run(app: AioTQ, kind: str, terminate: bool) -> None:
    gate, ran = threading.Event(), list[int]()

    async def on_the_loop(number: int) -> None:
        ran.append(number)
        await wait_until(gate.is_set, "the test goes on")

    def in_a_thread(number: int) -> None:
        ran.append(number)
        gate.wait(10)

    work: Any = app.task(name="proj.work")(on_the_loop if kind == "loop" else in_a_thread)
    async with app, app.worker(concurrency=1, threads=1, prefetch=1):
        first = await work.delay(1)
        await wait_until(lambda: ran, "the first has begun")
        second = await work.delay(2)
        await holds(app, 2)
        await second.revoke(terminate=terminate)
        gate.set()

        with pytest.raises(TaskRevokedError):
            await second.get(timeout=5)
        assert await first.get(timeout=5) is None
        assert await second.state() == "REVOKED"
        await works(app)

    assert ran == [1]


async def test_a_task_cancelled_while_its_revocation_is_looked_up_is_not_left_behind(app: AioTQ) -> None:
    gate, asked, answer = threading.Event(), asyncio.Event(), asyncio.Event()

    def work(number: int) -> None:
        gate.wait(10)

    task: Any = app.task(name="proj.work")(work)
    async with app:
        ledger = (await core_of(app).connection()).ledger
        look_up = ledger.revoked

        async def slowly(ids: Sequence[str]) -> Collection[str]:
            asked.set()
            await answer.wait()
            return await look_up(ids)

        setattr(ledger, "revoked", slowly)  # noqa: B010  # a method
        async with app.worker(concurrency=1, threads=1, prefetch=1) as worker:
            await task.delay(1)
            await wait_until(lambda: worker.running == 1, "the first has begun")
            second = await task.delay(2)
            await holds(app, 2)
            gate.set()
            await asked.wait()
            intake = worker._intake
            assert intake is not None
            (run,) = [each for each in intake.runs.values() if each.delivery.message.id == second.id]
            run.cancel(Cancelled.REVOKED)
            answer.set()

            with pytest.raises(TaskRevokedError):
                await second.get(timeout=5)


# What tasks and serializers do to us (P5)


@pytest.mark.parametrize("acks_late", [True, False])
async def test_a_number_too_long_to_be_shown_is_a_failure_and_runs_once(
    app: AioTQ, acks_late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # values are shown in the log
    runs: list[int] = []

    @app.task(acks_late=acks_late)
    async def give_a_long_number() -> int:
        runs.append(1)
        return 10**5000

    async with app, app.worker():
        result = await give_a_long_number.delay()

        with pytest.raises(EncodeError, match="can't be serialized as json"):
            await result.get(timeout=5)
        assert await result.state() == "FAILURE"
        await works(app)

    assert runs == [1]


async def test_whatever_a_registered_serializer_raises_means_that_the_body_is_undecodable() -> None:
    class OddError(Exception):
        """Of no kind that we would know."""

    def decode(body: bytes) -> Any:
        decoded.append(body)
        raise OddError("junk")

    decoded: list[bytes] = []
    app = make_app(accept_content=["json", "odd"])
    app.register_serializer(Serializer("odd", "application/x-odd", "binary", orjson.dumps, decode))

    @app.task(name="proj.add")
    async def add(x: int) -> None: ...

    async with app, app.worker():
        task_id = await send_raw(app, b"junk", content_type="application/x-odd")

        with pytest.raises(DeadLettered, match=r"undecodable: .*junk"):
            await app.AsyncResult(task_id).get(timeout=5)
        assert [letter.reason for letter in await app.admin.dead_letters()] == ["undecodable"]
        await works(app)

    assert decoded == [b"junk"]


@pytest.mark.parametrize("acks_late", [True, False])
async def test_a_defect_of_ours_ends_the_task_it_met_and_not_the_worker(
    app: AioTQ, acks_late: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is not tried again: what fails here once would fail again wherever it comes."""
    follow, runs = Coordinator.follow, list[int]()

    def be_defective(self: Coordinator, outcome: Outcome) -> Finish:
        if isinstance(outcome, Success):
            monkeypatch.setattr(Coordinator, "follow", follow)
            raise ZeroDivisionError("a defect")
        return follow(self, outcome)

    @app.task(acks_late=acks_late)
    async def work() -> None:
        runs.append(1)

    async with app, app.worker():
        monkeypatch.setattr(Coordinator, "follow", be_defective)
        result = await work.delay()

        with pytest.raises(DeadLettered, match="defect: a defect in aiotq: ZeroDivisionError"):
            await result.get(timeout=5)
        assert await result.state() == "FAILURE"
        letters = [letter.reason for letter in await app.admin.dead_letters()]
        assert letters == (["defect"] if acks_late else []), "what was acknowledged is no letter any more"
        await works(app)

    assert runs == [1]
    assert f"running {work.name}[{result.id}] failed" in caplog.text


# Processes


async def test_a_process_task_may_have_a_limit_of_a_month() -> None:
    app = process_app.app
    async with app, app.worker():
        assert await (await process_app.echo_within_a_month.delay(5)).get(timeout=30) == 5


async def test_a_process_task_that_sends_to_this_process_memory_fails_and_says_why() -> None:
    app = process_app.app
    async with app, app.worker():
        result = await process_app.send_from_the_child.delay()

        with pytest.raises(OperationalError, match=r"in the memory of the worker's process.* can't reach it"):
            await result.get(timeout=30)


# The app under its worker


@pytest.mark.parametrize("broker", ["memory", "sqlite"])
async def test_a_worker_goes_on_when_the_app_is_left_and_takes_the_connection_with_it(
    broker: str, tmp_path: Path
) -> None:
    app = AioTQ("proj", broker="memory://" if broker == "memory" else f"sqlite:///{tmp_path}/proj.db")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app.worker():
        async with app:
            connection = await core_of(app).connection()
            assert await (await add.delay(1, 1)).get(timeout=5) == 2

        assert await (await add.delay(2, 2)).get(timeout=5) == 4
        assert await core_of(app).connection() is connection
    assert not connection.is_open


async def test_a_worker_of_an_app_that_is_still_entered_leaves_the_connection_alone(app: AioTQ) -> None:
    async with app:
        connection = await core_of(app).connection()
        async with app.worker(), app:
            pass
        assert connection.is_open
    assert not connection.is_open


async def test_an_app_cannot_be_closed_under_its_worker(app: AioTQ) -> None:
    async with app:
        async with app.worker():
            with pytest.raises(CallError, match="can't disconnect while a worker of it runs"):
                await app.close()
            await works(app)
        await app.close()


async def test_what_runs_when_a_worker_fails_is_cancelled_once_and_cleans_up(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = asyncio.Event()
    heard: list[str] = []

    @app.task
    async def careful() -> None:
        began.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            heard.append("cancelled")
            await asyncio.sleep(0.3)
            heard.append("cleaned up")
            raise

    async def be_defective(ids: Sequence[str]) -> None:
        raise ZeroDivisionError("a defect")

    worker = app.worker()
    with pytest.raises(ExceptionGroup):
        async with worker:
            await careful.delay()
            await asyncio.wait_for(began.wait(), 5)
            connection = await core_of(app).connection()
            monkeypatch.setattr(connection.waiting, "_look", be_defective)
            with pytest.raises(OperationalError):
                await app.AsyncResult("whatever").get(timeout=5)
            async with asyncio.timeout(5):
                await worker.wait()

    assert heard == ["cancelled", "cleaned up"]


async def test_a_connection_that_fails_ends_the_worker_and_is_said_at_once(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def be_defective(ids: Sequence[str]) -> None:
        raise ZeroDivisionError("a defect")

    worker = app.worker(name="one")
    with pytest.raises(ExceptionGroup) as caught:
        async with worker:
            connection = await core_of(app).connection()
            monkeypatch.setattr(connection.waiting, "_look", be_defective)
            with pytest.raises(OperationalError, match="closed while a result was awaited"):
                await app.AsyncResult("whatever").get(timeout=5)
            async with asyncio.timeout(5):
                await worker.wait()

    assert caught.group_contains(OperationalError, match="connection ended under the worker")
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.CRITICAL]
    assert said == ["aiotq.connection failed and has ended", "aiotq.worker.one failed and has ended"]


async def test_many_calls_to_a_locked_file_are_told_in_time_and_not_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "proj.db"
    app = AioTQ("proj", broker=f"sqlite:///{path}")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async def error_of(call: Awaitable[object]) -> BaseException | None:
        try:
            await call
        except Exception as exc:
            return exc
        return None

    loop = asyncio.get_running_loop()
    lock = sqlite3.connect(path, isolation_level=None)
    try:
        lock.execute("begin exclusive")
        began = loop.time()
        calls = [error_of(add.options(publish_timeout=0.5).delay(1, 1)) for _ in range(10)]
        errors = await asyncio.gather(*calls)
        took = loop.time() - began
    finally:
        lock.close()

    assert [isinstance(error, PublishTimeout) and not error.maybe_sent for error in errors] == [True] * 10
    assert 0.4 < took < 3
    await app.close()


async def test_settings_can_be_corrected_after_they_could_not_be_used() -> None:
    app = AioTQ("proj", broker="kafka://localhost")
    with pytest.raises(InvalidSetting):
        await core_of(app).connection()

    app.conf.broker_url = "memory://"

    async with app, app.worker():
        await works(app)


# What is whose


tenant: ContextVar[str | None] = ContextVar("tenant", default=None)


async def test_a_task_does_not_see_the_context_of_the_one_whose_slot_it_takes(app: AioTQ) -> None:
    @app.task
    async def act_for(name: str | None) -> str | None:
        seen = tenant.get()
        tenant.set(name)
        await gate.wait()
        return seen

    gate = asyncio.Event()
    async with app, app.worker(concurrency=1, prefetch=2):
        results = await app.send_many([act_for.s("acme"), act_for.s(None), act_for.s(None)])
        await holds(app, 3)
        gate.set()

        assert await results.get(timeout=5) == [None, None, None]


async def test_a_worker_and_a_connection_do_not_keep_the_context_of_who_made_them(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    @app.task
    async def see() -> str | None:
        return tenant.get()

    async def send(batch: Sequence[Envelope]) -> None:
        seen.append(tenant.get())
        await send_on(batch)

    seen: list[str | None] = []
    token = tenant.set("acme")
    async with app.worker():
        transport = (await core_of(app).connection()).broker
        send_on = transport.send
        monkeypatch.setattr(transport, "send", send)
        tenant.reset(token)

        assert await (await see.delay()).get(timeout=5) is None
    await app.close()

    assert seen == [None]


async def test_limits_of_the_declaration_hold_for_calls_by_name() -> None:
    """The caller does not know them: it is another program."""
    url = f"memory://{new_id()}"
    app, caller = AioTQ("proj", broker=url), AioTQ("caller", broker=url)

    @app.task(name="proj.hard", time_limit=0.05)
    async def hard() -> None:
        await asyncio.sleep(60)

    @app.task(name="proj.soft", soft_time_limit=0.05)
    async def soft() -> None:
        await asyncio.sleep(60)

    async with app, caller, app.worker():
        with pytest.raises(TimeLimitExceeded, match=r"0\.05 s"):
            await (await caller.send_task("proj.hard")).get(timeout=5)
        with pytest.raises(SoftTimeLimitExceeded, match=r"0\.05 s"):
            await (await caller.send_task("proj.soft")).get(timeout=5)


@pytest.mark.parametrize("given", [{}, {"expires": 100}])
async def test_a_declared_expiry_holds_for_calls_by_name_that_give_none(given: Any) -> None:
    url, clock = f"memory://{new_id()}", JumpingClock()
    app, caller = AioTQ("proj", broker=url, clock=clock), AioTQ("caller", broker=url, clock=clock)

    @app.task(name="proj.offer", expires=10)
    async def offer() -> str:
        return "taken"

    async with app, caller:
        result = await caller.send_task("proj.offer", **given)
        clock.ahead = 20
        async with app.worker():
            await wait_until(result.ready, "the offer was looked at")

        assert await result.state() == ("SUCCESS" if given else "REVOKED")


# Our own defects, and faults around us


@pytest.mark.parametrize(
    ("place", "method", "said"),
    [
        (MemoryCommitter, "admit", "checking received messages failed, trying again"),
        (MemoryConsumer, "receive", "receiving failed, trying again"),
        (MemoryConsumer, "reclaim", "looking for tasks of dead workers failed, trying again"),
        (MemoryCommitter, "commit", "committing 1 finished tasks failed, trying again"),
    ],
)
async def test_an_error_nobody_expects_is_logged_and_the_worker_goes_on(
    app: AioTQ,
    place: type[Any],
    method: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    original, failures = getattr(place, method), list[Exception]()

    async def fail_once(*args: Any, **kwargs: Any) -> Any:
        if not failures:
            failures.append(ZeroDivisionError("a defect"))
            raise failures[0]
        return await original(*args, **kwargs)

    monkeypatch.setattr(place, method, fail_once)
    async with app, app.worker():
        await works(app)
        await wait_until(lambda: said in caplog.text, "it is logged")

    (record,) = [each for each in caplog.records if each.getMessage() == said]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_a_log_filter_that_fails_does_not_end_the_renewal_of_leases(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It would be met in the thread that renews, when that names a task which blocks the loop."""
    app = make_app(worker_loop_lag=0.02, worker_lease=0.3)
    renewals, failures = list[float](), list[str]()
    renew = MemoryCommitter.renew

    def count(self: MemoryCommitter, held: Collection[Delivery]) -> Collection[Delivery]:
        renewals.append(time.monotonic())
        return renew(self, held)

    def fail(record: logging.LogRecord) -> bool:
        if threading.current_thread().name == "aiotq.lifeline":
            failures.append(record.getMessage())
            raise KeyError("a filter of the user's")
        return True

    @app.task
    async def block() -> None:
        deadline = time.monotonic() + 5
        while not failures and time.monotonic() < deadline:
            time.sleep(0.01)  # noqa: ASYNC251 (the thing under test)

    monkeypatch.setattr(MemoryCommitter, "renew", count)
    log = logging.getLogger("aiotq.worker")
    log.addFilter(fail)
    try:
        async with app, app.worker():
            await (await block.delay()).get(timeout=10)
            assert failures
            before = len(renewals)
            await wait_until(lambda: len(renewals) >= before + 3, "leases are still renewed")
    finally:
        log.removeFilter(fail)


class HeldUp:
    """Commits of one worker, from now on: `done` before they are held up until `gate`, or not begun at all."""

    def __init__(self, committer: Committer, monkeypatch: pytest.MonkeyPatch, *, is_done: bool) -> None:
        self._commit = committer.commit
        self._is_done = is_done
        self.calls = 0
        self.gate = asyncio.Event()
        monkeypatch.setattr(committer, "commit", self)

    async def __call__(self, group: Sequence[Finish]) -> Sequence[Answer]:
        self.calls += 1
        if self.calls > 1:
            return await self._commit(group)
        answer: Sequence[Answer] = [COMMITTED]
        if self._is_done:
            answer = await self._commit(group)
        await self.gate.wait()
        return answer


def committer_of(worker: Worker) -> Committer:
    assert worker._completer is not None
    return worker._completer._committer


async def stopping(worker: Worker) -> asyncio.Task[None]:
    """Stop `worker` and return when it has cancelled what runs."""
    stop = asyncio.create_task(worker.stop())

    def is_cancelled() -> bool:
        assert worker._intake is not None
        return all(run.cancelled_for is not None for run in worker._intake.runs.values())

    await wait_until(is_cancelled, "what runs was cancelled")
    return stop


async def test_stopped_during_its_early_acknowledgement_a_task_fails_and_is_not_silent(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[int] = []

    @app.task(acks_late=False)
    async def pay() -> None:
        ran.append(1)

    async with app:
        worker = app.worker(grace=0)
        async with worker:
            commits = HeldUp(committer_of(worker), monkeypatch, is_done=True)
            result = await pay.delay()
            await wait_until(lambda: commits.calls, "it is being acknowledged")
            stop = await stopping(worker)
            commits.gate.set()
            await stop

        with pytest.raises(WorkerLostError, match="stopped"):
            await result.get(timeout=5)
        stats = await queue(app)
        assert (stats.ready, stats.leased) == (0, 0)
    assert ran == []


async def test_stopped_before_it_was_acknowledged_it_is_handed_back(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotq.worker.worker._LAST_COMMITS", 0.2)

    @app.task(acks_late=False)
    async def pay() -> str:
        return "paid"

    async with app:
        worker = app.worker(grace=0)
        async with worker:
            commits = HeldUp(committer_of(worker), monkeypatch, is_done=False)
            result = await pay.delay()
            await wait_until(lambda: commits.calls, "it is being acknowledged")
            await (await stopping(worker))

        assert (await queue(app)).ready == 1
        async with app.worker():
            assert await result.get(timeout=5) == "paid"


async def test_an_early_acknowledgement_waits_for_a_store_that_is_away_for_long(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its limit is for a worker that stops; before, an outage is no end of a task that has not begun."""
    monkeypatch.setattr("aiotq.worker.worker._LAST_COMMITS", 0.02)
    attempts: list[float] = []

    @app.task(acks_late=False)
    async def pay() -> str:
        return "paid"

    async with app, app.worker() as worker:
        committer = committer_of(worker)
        commit, loop = committer.commit, asyncio.get_running_loop()

        async def be_away(group: Sequence[Finish]) -> Sequence[Answer]:
            attempts.append(loop.time())
            if attempts[-1] - attempts[0] < 0.1:
                raise ConnectionLost("away")
            return await commit(group)

        monkeypatch.setattr(committer, "commit", be_away)

        assert await (await pay.delay()).get(timeout=5) == "paid"
    assert len(attempts) > 2


# What callers are told


async def test_each_state_is_told_once_however_often_it_is_looked_at(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotq.results.waiting._SAFETY_INTERVAL", 0.01)
    gate, looks, told = asyncio.Event(), list[Record](), list[str]()

    @app.task(track_started=True)
    async def work() -> None:
        await gate.wait()

    async with app, app.worker():
        store = (await core_of(app).connection()).records
        get = store.get

        async def look(ids: Sequence[str]) -> Sequence[Record | None]:
            found = await get(ids)
            looks.extend(record for record in found if record is not None)
            return found

        result = await work.delay()
        monkeypatch.setattr(store, "get", look)
        getting = asyncio.create_task(result.get(on_message=lambda meta: told.append(meta["status"])))
        await wait_until(lambda: len(looks) > 3, "it was seen often")
        gate.set()
        await getting

    assert told == ["STARTED", "SUCCESS"]


async def test_a_set_with_ignored_results_is_ready_when_the_others_are(app: AioTQ) -> None:
    gate = asyncio.Event()

    @app.task
    async def wait() -> int:
        await gate.wait()
        return 1

    @app.task(ignore_result=True)
    async def ping() -> None: ...

    async with app, app.worker():
        results: Any = await app.send_many([wait.s(), ping.s()])
        assert not await results.ready()
        gate.set()
        assert await results.get(timeout=5) == [1, None]

        assert await results.ready()


async def test_a_failure_that_is_awaited_again_and_again_does_not_grow(app: AioTQ) -> None:
    @app.task
    async def fail() -> None:
        raise ValueError("no")

    async def entries(result: AsyncResult[None]) -> int:
        count = 0
        try:
            await result
        except ValueError as exc:
            trace = exc.__traceback__
            while trace is not None:
                count, trace = count + 1, trace.tb_next
        return count

    async with app, app.worker():
        result = await fail.delay()
        counts = {await entries(result) for _ in range(50)}

    assert len(counts) == 1
    assert counts != {0}


async def test_a_parameter_may_be_called_self(app: AioTQ) -> None:
    @app.task
    async def echo(x: int, self: int) -> list[int]:
        return [x, self]

    @app.task(bind=True)
    async def bound(task: Any, self: int) -> list[Any]:
        return [task.name, self]

    async with app, app.worker():
        assert await (await echo.delay(1, self=2)).get(timeout=5) == [1, 2]
        assert await (await echo.s(1, self=2).delay()).get(timeout=5) == [1, 2]
        assert await (await bound.delay(self=3)).get(timeout=5) == [bound.name, 3]
        assert await (await echo.apply((1,), {"self": 2})).get() == [1, 2]


async def test_the_default_counts_for_those_of_many_calls_that_give_no_deadline(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    timeouts: list[float | None] = []

    async def publish(envelopes: Sequence[Envelope], timeout: float | None = None, *more: object) -> None:
        timeouts.append(timeout)

    @app.task
    async def work() -> None: ...

    hasty, patient = work.options(publish_timeout=0.1), work.options(publish_timeout=60)
    async with app:
        monkeypatch.setattr((await core_of(app).connection()).publisher, "publish", publish)
        for calls in ([hasty.s(), work.s()], [hasty.s(), hasty.s()], [work.s(), patient.s()]):
            await app.send_many(calls)

    assert timeouts == [app.conf.task_publish_timeout, 0.1, 60]


async def test_time_limits_that_threads_cannot_keep_are_said_once_when_the_worker_starts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = make_app(task_time_limit=5)

    @app.task(name="proj.in_a_thread")
    def in_a_thread() -> str:
        return threading.current_thread().name

    @app.task(name="proj.on_the_loop")
    async def on_the_loop() -> None: ...

    async with app, app.worker():
        for _ in range(3):
            await (await in_a_thread.delay()).get(timeout=5)

    assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
        "task_time_limit does not hold for tasks that run in threads: proj.in_a_thread"
    ]


async def test_a_limit_that_comes_with_a_message_for_a_thread_is_said(
    app: AioTQ, caplog: pytest.LogCaptureFixture
) -> None:
    """Who calls by name does not know where the task runs."""

    @app.task(name="proj.work")
    def work(x: int) -> int:
        return x

    async with app, app.worker():
        task_id = await send_raw(app, task="proj.work", time_limit=5.0)

        assert await app.AsyncResult(task_id).get(timeout=5) == 1
    assert f"Task proj.work[{task_id}] runs in a thread: its time_limit can't be kept" in caplog.text
