"""A worker on memory://: whatever stands on the queue or comes out of a task has a stated end, and it goes on."""

from __future__ import annotations

import asyncio
import logging
import random
import sys
import threading
import time
from typing import Any

import msgpack
import pytest

from aiotq import AioTQ, AsyncResult, RemoteError, Worker, current_task
from aiotq.backends.memory.broker import MemoryBroker
from aiotq.core.inside import core_of
from aiotq.exceptions import (
    AioTQError,
    DeadLettered,
    EncodeError,
    MessageTooLarge,
    OperationalError,
    TaskRevokedError,
    WorkerLostError,
)
from aiotq.transport import QueueStats
from aiotq.wire.message import Envelope, Message, new_id

from ..guide import cpu
from ..waiting import wait_until


def make_app(**settings: Any) -> AioTQ:
    return AioTQ("proj", broker="memory://", **settings)


@pytest.fixture
def app() -> AioTQ:
    return make_app()


async def queue(app: AioTQ, name: str = "default") -> QueueStats:
    (stats,) = await app.admin.queues([name])
    return stats


async def works(app: AioTQ) -> None:
    """Assert that the app's worker still runs tasks of each kind that it has, and holds nothing else."""

    async def good(x: int) -> int:
        return x + 1

    def good_in_a_thread(x: int) -> int:
        return x + 1

    for fn in (good, good_in_a_thread):
        task: Any = app.task(name=f"good.{fn.__name__}.{new_id()}")(fn)
        assert await (await task.delay(1)).get(timeout=5) == 2
    await settled(app)


async def settled(app: AioTQ) -> None:
    """Wait until the queue is empty and nothing is held."""

    async def is_settled() -> bool:
        stats = await queue(app)
        return stats.ready + stats.leased + stats.delayed == 0

    await wait_until(is_settled, "everything is settled")


# What comes in


async def send_raw(
    app: AioTQ,
    body: bytes = b"[[1],{},{}]",
    *,
    task: str = "proj.add",
    content_type: str = "application/json",
    **more: Any,
) -> str:
    """Put a message on the queue that no call would make; return its id."""
    task_id = new_id()
    connection = await core_of(app).connection()
    address = connection.records.address
    message = Message(task_id, task, body, content_type, reply_to=address, **more)
    await connection.broker.send([Envelope(message, "default")])
    return task_id


def nested(depth: int) -> bytes:
    return b"[[" + b"[" * depth + b"]" * depth + b"],{},{}]"


@pytest.mark.parametrize(
    ("message", "reason", "detail"),
    [
        ({"task": "proj.nothing"}, "unknown_task", "no task is registered as 'proj.nothing'"),
        (
            {"body": b"N.", "content_type": "application/x-python-serialize"},
            "content_disallowed",
            "not accepted",
        ),
        ({"body": b"\x93\x90\x80\x80", "content_type": "application/x-msgpack"}, "content_disallowed", "not accepted"),
        ({"body": b"", "content_type": ""}, "content_disallowed", "''"),
        ({"body": b""}, "undecodable", "is not json"),
        ({"body": b"\xff\xfe"}, "undecodable", "is not json"),
        ({"body": nested(5000)}, "undecodable", "is not json"),
        ({"body": nested(400_000)}, "undecodable", "is not json"),
        ({"body": b"[" + b"0," * 600_000 + b"0]"}, "malformed", "over task_message_max_size (1000000)"),
        ({"body": b"5"}, "malformed", "not [args, kwargs, embed]"),
        ({"body": b"null"}, "malformed", "not [args, kwargs, embed]"),
        ({"body": b"{}"}, "malformed", "not [args, kwargs, embed]"),
        ({"body": b"[[],{}]"}, "malformed", "not [args, kwargs, embed]"),
        ({"body": b'["ab",{},{}]'}, "malformed", "not a list and an object"),
        ({"body": b"[{},[],{}]"}, "malformed", "not a list and an object"),
        ({"body": b"[[1],null,{}]"}, "malformed", "not a list and an object"),
        ({"body": b'[[1],{},{"chain":[{"args":[1]}]}]'}, "malformed", "workflow"),
        ({"body": b'[[1],{},{"chord":{"task":"x"}}]'}, "malformed", "chord"),
        ({"body": b"[[1],{},5]"}, "malformed", "workflow"),
    ],
)
async def test_a_message_that_cannot_be_run_is_a_dead_letter_and_a_failure(
    message: dict[str, Any], reason: str, detail: str
) -> None:
    app = make_app(accept_content=["json"], task_message_max_size=1_000_000, worker_unknown_task_timeout=0)

    @app.task(name="proj.add")
    async def add(x: int) -> int:
        raise AssertionError("it must not run")

    async with app, app.worker():
        task_id = await send_raw(app, **message)
        error = await app.AsyncResult(task_id).get(timeout=5, propagate=False)
        (letter,) = await app.admin.dead_letters()

        assert isinstance(error, DeadLettered)
        assert str(error).startswith(f"{reason}: ")
        assert (letter.reason, letter.message and letter.message.id) == (reason, task_id)
        assert detail in letter.detail
        await works(app)


async def test_keyword_names_that_are_no_strings_are_malformed(app: AioTQ) -> None:
    @app.task(name="proj.add")
    async def add(**kwargs: int) -> None: ...

    async with app, app.worker():
        body: bytes = msgpack.packb([[], {1: 2}, {}])
        task_id = await send_raw(app, body, content_type="application/x-msgpack")

        with pytest.raises(DeadLettered, match="names of keyword arguments"):
            await app.AsyncResult(task_id).get(timeout=5)
        await works(app)


@pytest.mark.parametrize("body", [b"[[],{},{}]", b"[[1,2],{},{}]", b'[[1],{"z":2},{}]', b'[[1],{"x":2},{}]'])
@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_arguments_that_do_not_fit_are_a_failure(app: AioTQ, kind: str, body: bytes) -> None:
    """Another program's call is not checked against the signature; it fails where it runs."""

    async def on_the_loop(x: int) -> None: ...

    def in_a_thread(x: int) -> None: ...

    app.task(name="proj.add")(on_the_loop if kind == "loop" else in_a_thread)
    async with app, app.worker():
        task_id = await send_raw(app, body)

        with pytest.raises(TypeError, match=r"argument"):
            await app.AsyncResult(task_id).get(timeout=5)
        assert not await app.admin.dead_letters()
        await works(app)


# What comes out


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class HostileValue:
    def __repr__(self) -> str:
        raise RuntimeError("no text")


class Number(int):
    pass


RAISED = [
    SystemExit(3),
    KeyboardInterrupt(),
    GeneratorExit(),
    BaseException("base"),
    asyncio.CancelledError("mine"),
    StopIteration(5),
    StopAsyncIteration(),
    RecursionError("deep"),
    MemoryError(),
    Hostile("x"),
    ValueError("\ud800"),
    ValueError(HostileValue()),
    ValueError(Number(5), 2**100, float("nan")),
    ValueError(*range(100_000)),
    ValueError("x" * 5_000_000),
    ExceptionGroup("several", [ValueError("a"), OSError("b")]),
    TaskRevokedError("not by us"),
    WorkerLostError("not by us"),
    OperationalError("the task's own broker is away"),
]


@pytest.mark.parametrize("kind", ["loop", "thread"])
@pytest.mark.parametrize("error", RAISED, ids=lambda error: type(error).__name__)
async def test_whatever_a_task_raises_is_its_failure(
    kind: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    if "\ud800" in error.args:
        caplog.set_level(logging.CRITICAL, "aiotq.task")  # parallel test runners can't send a log that has it
    app = make_app(result_max_size=1000)

    async def on_the_loop() -> None:
        await asyncio.sleep(0)
        raise error

    def in_a_thread() -> None:
        raise error

    task: Any = app.task(name="proj.fail")(on_the_loop if kind == "loop" else in_a_thread)
    async with app, app.worker():
        result = await task.delay()
        found = await result.get(timeout=5, propagate=False)

        assert await result.state() == "FAILURE"
        assert isinstance(found, Exception)
        if not isinstance(error, (StopIteration, StopAsyncIteration, Hostile)):
            assert type(error).__name__ in f"{type(found).__name__} {found}"
        await works(app)


async def test_a_task_that_cancels_itself_fails(app: AioTQ) -> None:
    @app.task
    async def cancel_myself() -> None:
        running = asyncio.current_task()
        assert running is not None
        running.cancel()
        await asyncio.sleep(60)

    async with app, app.worker():
        with pytest.raises(RemoteError, match="CancelledError"):
            await (await cancel_myself.delay()).get(timeout=5)
        await works(app)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (object(), EncodeError, "the result can't be serialized as json: <object object"),
        ([1, {"a": {2: 2}}], EncodeError, r"the result\[1\]\['a'\] can't be serialized"),
        (HostileValue(), EncodeError, "of type HostileValue"),
        (float("nan"), EncodeError, "nan of type float"),
        ("\ud800", EncodeError, "of type str"),
        ({1: 2}, EncodeError, "keys? must be str"),
        ("x" * 2000, MessageTooLarge, "raise the setting 'result_max_size'"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_a_value_that_cannot_be_kept_is_a_failure_that_says_so(
    kind: str, value: object, error: type[AioTQError], text: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)  # the value is shown in the log
    app = make_app(result_max_size=2000)

    async def on_the_loop() -> object:
        return value

    def in_a_thread() -> object:
        return value

    task: Any = app.task(name="proj.give")(on_the_loop if kind == "loop" else in_a_thread)
    async with app, app.worker():
        with pytest.raises(error, match=text):
            await (await task.delay()).get(timeout=5)
        await works(app)


async def test_a_value_nested_too_deeply_is_a_failure(app: AioTQ) -> None:
    @app.task
    async def nest() -> Any:
        value: Any = 1
        for _ in range(sys.getrecursionlimit() * 2):
            value = [value]
        return value

    async with app, app.worker():
        with pytest.raises(EncodeError):
            await (await nest.delay()).get(timeout=5)
        await works(app)


async def test_a_failure_nobody_keeps_is_still_settled(app: AioTQ) -> None:
    @app.task(ignore_result=True)
    async def fail() -> None:
        raise Hostile("x")

    async with app, app.worker():
        await fail.delay()
        await works(app)


async def test_a_task_that_blocks_the_loop_is_named_and_keeps_its_lease(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(worker_loop_lag=0.2, worker_lease=0.4)
    runs = []

    @app.task
    async def block() -> str:
        runs.append(current_task.request.delivery_info["redelivered"])
        time.sleep(1.2)  # noqa: ASYNC251 (the thing under test)
        return "done"

    async with app, app.worker(name="one"), app.worker(name="two"):
        result = await block.delay()

        assert await result.get(timeout=5) == "done"
        await works(app)

    assert runs == [False], "its lease was renewed, and nobody else ran it"
    warning = next(record.getMessage() for record in caplog.records if "blocked" in record.message)
    assert f"{block.name}[{result.id}]" in warning
    assert "time.sleep(1.2)" in warning


# Stopping (P6)


async def test_running_tasks_finish_within_the_grace_time(app: AioTQ) -> None:
    gate, begun = asyncio.Event(), asyncio.Event()

    @app.task
    async def finish() -> str:
        begun.set()
        await gate.wait()
        return "finished"

    async with app:
        worker = app.worker(grace=30)
        async with worker:
            result = await finish.delay()
            await begun.wait()
            stop = asyncio.create_task(worker.stop())
            await asyncio.sleep(0.05)
            assert not stop.done()
            late = await finish.delay()
            gate.set()
            await stop

        assert await result.get(timeout=0.1) == "finished"
        assert await late.state() == "PENDING", "nothing was taken after the stop"
        assert (await queue(app)).ready == 1


async def test_what_outlasts_the_grace_time_is_cancelled_and_handed_back(app: AioTQ) -> None:
    events: list[object] = []

    @app.task
    async def work() -> str:
        events.append(current_task.request.delivery_info["redelivered"])
        if len(events) > 1:
            return "done"
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            events.append("cleaned up")
        return "never"

    async with app:
        async with app.worker(grace=0.05):
            result = await work.delay()
            await wait_until(lambda: events, "the task has begun")
        assert events == [False, "cleaned up"]
        assert (await queue(app)).ready == 1

        async with app.worker():
            assert await result.get(timeout=5) == "done"
    assert events == [False, "cleaned up", True]


async def test_a_second_stop_cuts_the_grace_time_short(app: AioTQ) -> None:
    begun = asyncio.Event()

    @app.task
    async def work() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with app:
        worker = app.worker(grace=60)
        async with worker:
            await work.delay()
            await begun.wait()
            stop = asyncio.create_task(worker.stop())
            await asyncio.sleep(0)
            worker.stop_now()
            async with asyncio.timeout(5):
                await stop

        assert (await queue(app)).ready == 1


@pytest.mark.parametrize("kind", ["loop", "thread"])
async def test_what_was_not_started_is_handed_back_at_once(app: AioTQ, kind: str) -> None:
    gate, begun = threading.Event(), threading.Event()

    async def on_the_loop() -> None:
        begun.set()
        await wait_until(gate.is_set, "the test goes on")

    def in_a_thread() -> None:
        begun.set()
        gate.wait(10)

    work: Any = app.task(name="proj.work")(on_the_loop if kind == "loop" else in_a_thread)
    async with app:
        for _ in range(4):
            await work.delay()
        worker = app.worker(concurrency=1, threads=1, prefetch=3, grace=30)
        async with worker:
            await wait_until(begun.is_set, "the first has begun")

            async def all_held() -> bool:
                return (await queue(app)).leased == 4

            await wait_until(all_held, "the others wait in the worker")
            stop = asyncio.create_task(worker.stop())

            async def handed_back() -> bool:
                stats = await queue(app)
                return (stats.ready, stats.leased) == (3, 1)

            await wait_until(handed_back, "they are back in the queue while the first still runs")
            gate.set()
            await stop

        assert (await queue(app)).ready == 3


async def test_a_thread_outlasts_the_grace_time_and_keeps_its_lease() -> None:
    """It can't be cancelled: an embedded worker waits for it."""
    app = make_app(worker_lease=0.3)
    gate, runs = threading.Event(), []

    @app.task
    def work() -> str:
        runs.append(1)
        gate.wait(10)
        return "done"

    async with app, app.worker(name="other", queues=["elsewhere"]):
        worker = app.worker(grace=0)
        async with worker:
            result = await work.delay()
            await wait_until(lambda: runs, "the task has begun")
            stop = asyncio.create_task(worker.stop())
            await asyncio.wait({stop}, timeout=0.7)
            assert not stop.done()
            assert (await queue(app)).leased == 1, "two leases later it still holds it"
            gate.set()
            await stop

        assert await result.get(timeout=0.1) == "done"
    assert runs == [1]


async def test_a_task_that_refuses_to_end_is_named(
    app: AioTQ, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aiotq.worker.worker._CLEANUP", 0.02)
    gate, begun = asyncio.Event(), asyncio.Event()

    @app.task
    async def refuse() -> str:
        begun.set()
        while not gate.is_set():
            try:
                await gate.wait()
            except asyncio.CancelledError:
                continue
        return "in the end"

    async with app:
        worker = app.worker(grace=0)
        async with worker:
            result = await refuse.delay()
            await begun.wait()
            stop = asyncio.create_task(worker.stop())
            await wait_until(lambda: "does not end" in caplog.text, "the log names it")
            gate.set()
            await stop

        assert f"{refuse.name}[{result.id}] was cancelled and does not end" in caplog.text
        assert await result.get(timeout=0.1) == "in the end"


async def test_a_cancelled_stop_hands_everything_back(app: AioTQ) -> None:
    begun = asyncio.Event()

    @app.task
    async def work() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with app:
        worker = await app.worker(grace=60).__aenter__()
        result = await work.delay()
        await begun.wait()
        stop = asyncio.create_task(worker.stop())
        await asyncio.sleep(0.01)
        stop.cancel()
        with pytest.raises(asyncio.CancelledError):
            await stop

        stats = await queue(app)
        assert (stats.ready, stats.leased) == (1, 0)
        assert await result.state() == "PENDING"


async def test_a_worker_that_fails_says_so_and_hands_everything_back(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A defect of ours is no outcome of the tasks that it interrupts."""
    begun = asyncio.Event()

    @app.task
    async def work() -> None:
        begun.set()
        await asyncio.sleep(60)

    async with app:
        worker = app.worker()
        result = await work.delay()
        with pytest.raises(ExceptionGroup) as caught:
            async with worker:
                await begun.wait()
                assert worker._intake is not None
                monkeypatch.setattr(worker._intake, "_take_in", _defect)
                await work.delay()
                await worker.wait()

        assert caught.group_contains(ZeroDivisionError)
        stats = await queue(app)
        assert (stats.ready, stats.leased) == (2, 0)
        assert await result.state() == "PENDING"


async def _defect(*_: object) -> None:
    raise ZeroDivisionError("a defect")


async def test_a_worker_is_entered_once(app: AioTQ) -> None:
    worker = app.worker()
    async with app:
        async with worker:
            pass
        with pytest.raises(RuntimeError, match="was started before"):
            async with worker:
                pass


# Leases (P2)


async def lose_all_leases(app: AioTQ) -> None:
    """What happens to a worker that was silent for too long: its deliveries are somebody else's."""
    transport = (await core_of(app).connection()).broker
    assert isinstance(transport, MemoryBroker)
    broker = transport.queues
    with broker.lock:
        for entry in broker._held.values():
            entry.ends = 0.0
        broker.reclaim()


async def test_a_lost_lease_cancels_the_run_and_nothing_of_it_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(worker_lease=0.3)
    events: list[str] = []

    @app.task
    async def work() -> str:
        number = events.count("begun") + 1
        events.append("begun")
        try:
            if number == 1:
                await asyncio.sleep(60)
        except asyncio.CancelledError:
            events.append("cancelled")
        return f"run {number}"

    async with app, app.worker():
        result = await work.delay()
        await wait_until(lambda: events, "the task has begun")
        await lose_all_leases(app)

        assert await result.get(timeout=5) == "run 2"
        await wait_until(lambda: "cancelled" in events, "the first run was cancelled")
        await works(app)
        assert await app.AsyncResult(result.id).get(timeout=1) == "run 2"

    assert f"the lease of {work.name}[{result.id}] was lost" in caplog.text


async def test_a_lease_lost_while_the_task_waits_for_a_slot_means_it_is_not_run_here() -> None:
    app = make_app(worker_lease=0.3)
    gate, runs = asyncio.Event(), []

    @app.task
    async def work(number: int) -> int:
        runs.append(number)
        await gate.wait()
        return number

    async with app:
        results = [await work.delay(number) for number in range(3)]
        async with app.worker(concurrency=1, prefetch=2):

            async def all_held() -> bool:
                return (await queue(app)).leased == 3

            await wait_until(all_held, "one runs and two wait")
            await lose_all_leases(app)
            await wait_until(lambda: len(runs) > 1, "the first was cancelled, and comes again")
            gate.set()
            assert [await result.get(timeout=5) for result in results] == [0, 1, 2]
            await settled(app)

    assert sorted(runs[1:]) == [0, 1, 2], "each once after the loss"


async def test_acknowledged_early_it_runs_at_most_once() -> None:
    app = make_app(worker_lease=0.3)
    gate, runs = asyncio.Event(), []

    @app.task(acks_late=False)
    async def pay() -> str:
        runs.append(1)
        await gate.wait()
        return "paid"

    async with app, app.worker():
        result = await pay.delay()
        await wait_until(lambda: runs, "the task has begun")
        assert (await queue(app)).leased == 0
        await lose_all_leases(app)
        asyncio.get_running_loop().call_later(0.4, gate.set)

        assert await result.get(timeout=5) == "paid"
    assert runs == [1]


# Kinds that share a queue


async def test_coroutines_flow_while_threads_are_full(app: AioTQ) -> None:
    gate = threading.Event()

    @app.task
    def slow() -> str:
        gate.wait(10)
        return "slow"

    @app.task
    async def quick(x: int) -> int:
        return x

    async with app, app.worker(threads=2, concurrency=10):
        slow_ones = await app.send_many(slow.s() for _ in range(30))
        quick_ones = await app.send_many(quick.s(x) for x in range(30))
        more = await app.send_many(slow.s() for _ in range(30))

        assert await quick_ones.get(timeout=10) == list(range(30))
        gate.set()
        assert set(await slow_ones.get(timeout=20)) == {"slow"}
        assert set(await more.get(timeout=20)) == {"slow"}
        await settled(app)


async def test_coroutines_flow_while_processes_are_full() -> None:
    app = cpu.app
    async with app, app.worker(processes=1):
        await (await cpu.burn.delay(0)).get(timeout=10)
        busy = await app.send_many(cpu.burn.s(0.2) for _ in range(5))
        quick = await app.send_many(cpu.on_the_loop.s() for _ in range(20))
        await quick.get(timeout=10)

        assert not await busy.ready()
        await busy.get(timeout=20)


async def test_a_burst_for_one_kind_leaves_the_slots_of_another_to_it(app: AioTQ) -> None:
    """Two threads and no more than two wait for them: the rest stays in the queue for other workers."""
    gate = threading.Event()

    @app.task
    def slow() -> None:
        gate.wait(10)

    async with app, app.worker(threads=2):
        results = await app.send_many(slow.s() for _ in range(50))

        async def is_bounded() -> bool:
            stats = await queue(app)
            return stats.leased <= 6 and stats.leased + stats.ready + stats.delayed == 50

        await wait_until(is_bounded, "the worker holds little beyond what it runs")
        gate.set()
        await results.get(timeout=30)


# Start and stop


async def test_started_and_stopped_at_any_moment_nothing_is_lost_and_nothing_left(app: AioTQ) -> None:
    chance = random.Random(7)
    finished: list[int] = []

    @app.task
    async def nap(number: int) -> int:
        await asyncio.sleep(chance.random() / 100)
        finished.append(number)
        return number

    @app.task
    def nap_in_a_thread(number: int) -> int:
        time.sleep(chance.random() / 200)
        finished.append(number)
        return number

    async def live(worker: Worker) -> None:
        async with worker:
            await asyncio.sleep(chance.random() / 50)

    async with app:
        results: list[AsyncResult[int]] = []
        for round_ in range(50):
            results += await app.send_many(
                [nap.s(round_), nap.s(round_), nap_in_a_thread.s(round_), nap.options(countdown=0.01).s(round_)]
            )
            worker = app.worker(
                concurrency=2, threads=1, prefetch=chance.randrange(4), grace=chance.choice([0, 0.001, 1])
            )
            living = asyncio.create_task(live(worker))
            await asyncio.sleep(chance.random() / 50)
            if chance.random() < 0.5:
                living.cancel()
            await asyncio.wait({living})
            assert (await queue(app)).leased == 0, "what a worker held is handed back when it is gone"
        async with app.worker():
            for result in results:
                await result.get(timeout=20)
        await settled(app)

    assert {number: finished.count(number) >= 4 for number in range(50)} == dict.fromkeys(range(50), True)


async def test_a_worker_whose_tasks_cannot_be_imported_does_not_start() -> None:
    app = make_app(include=["a_module_that_is_not_installed"])

    async with app:
        with pytest.raises(ModuleNotFoundError, match="a_module_that_is_not_installed"):
            async with app.worker():
                pass
