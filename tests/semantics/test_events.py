"""Events: what workers tell while somebody wants it, on every broker; and nothing else is done or left."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from aiotq import AioTQ, Reject, Task, Worker
from aiotq.control.event_format import EVENTS, WISHES, Wish, pack_wish
from aiotq.control.events import Capture
from aiotq.control.state import State
from aiotq.core.inside import core_of
from aiotq.exceptions import AioTQError, CallError, InvalidOption
from aiotq.worker.observers import Observers

from ..waiting import wait_until
from .conftest import MakeApp

#: What each event of a call has, in Celery's format.
COMMON = {"type", "timestamp", "hostname", "pid", "utcoffset", "clock"}


class Read:
    """What one reader has read so far."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.state = State()

    def of(self, task_id: str) -> list[str]:
        return [each["type"] for each in self.events if each.get("uuid") == task_id]

    def first(self, kind: str) -> dict[str, Any] | None:
        return next((each for each in self.events if each["type"] == kind), None)

    async def came(self, kind: str) -> dict[str, Any]:
        found = await wait_until(lambda: self.first(kind), f"{kind} comes")
        assert found is not None
        return found

    async def told(self, task_id: str, *kinds: str) -> None:
        await wait_until(lambda: self.of(task_id) == list(kinds) or None, f"events of {task_id}: {kinds}")


@asynccontextmanager
async def reading(app: AioTQ, **how: Any) -> AsyncIterator[Read]:
    read = Read()

    async def take(capture: Capture) -> None:
        async for event in capture:
            read.events.append(event)
            read.state.event(event)

    async with app.events.capture(**how) as capture, asyncio.TaskGroup() as group:
        taking = group.create_task(take(capture))
        yield read
        taking.cancel()


def is_on(worker: Worker) -> bool:
    observers: Observers = worker._observers  # pyright: ignore[reportPrivateUsage]
    return bool(observers._added)  # pyright: ignore[reportPrivateUsage]


async def test_a_call_is_told_of_from_its_arrival_to_its_end(make_app: MakeApp) -> None:
    app, reader = make_app(), make_app()

    @app.task
    async def add(x: int, *, y: int) -> int:
        return x + y

    @app.task
    async def fails() -> None:
        raise ValueError("no")

    @app.task(bind=True, max_retries=1)
    async def flaky(self: Task[..., Any]) -> None:
        if not self.request.retries:
            raise self.retry(countdown=0, exc=OSError("again"))

    @app.task
    async def rejects() -> None:
        raise Reject("unwanted")

    async with app, reader, app.worker(name="w1"), reading(reader) as read:
        await read.came("worker-online")
        added = await add.delay(2, y=3)
        failed, retried, rejected = await fails.delay(), await flaky.delay(), await rejects.delay()
        await app.admin.revoke("unwanted")
        revoked = await add.options(task_id="unwanted").delay(1, y=1)
        for each in (added, failed, retried, rejected, revoked):
            await each.get(timeout=20, propagate=False)

        await read.told(added.id, "task-received", "task-started", "task-succeeded")
        await read.told(failed.id, "task-received", "task-started", "task-failed")
        await read.told(rejected.id, "task-received", "task-started", "task-rejected")
        run = ("task-received", "task-started")
        await read.told(retried.id, *run, "task-retried", *run, "task-succeeded")

        await read.told(revoked.id, "task-received", "task-revoked")

    assert (await read.came("task-revoked"))["terminated"] is False
    received, started, succeeded = (each for each in read.events if each.get("uuid") == added.id)
    assert received.keys() == COMMON | {
        *("uuid", "name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires")
    }
    assert (received["name"], received["args"], received["kwargs"]) == (add.name, "(2,)", "{'y': 3}")
    assert (received["hostname"], received["root_id"], received["retries"]) == ("w1", added.id, 0)
    assert started.keys() == COMMON | {"uuid"}
    assert succeeded.keys() == COMMON | {"uuid", "result", "runtime"}
    assert succeeded["result"] == "5"
    assert received["timestamp"] <= started["timestamp"] <= succeeded["timestamp"]
    assert received["clock"] < started["clock"] < succeeded["clock"]
    failure = await read.came("task-failed")
    assert failure["exception"] == "ValueError('no')"
    assert 'raise ValueError("no")' in failure["traceback"]
    assert (await read.came("task-retried"))["exception"] == "OSError('again')"
    assert (await read.came("task-rejected"))["requeue"] is False
    assert read.state.tasks[added.id].state == "SUCCESS"
    assert read.state.names[add.name].succeeded == 1


async def test_what_runs_is_told_before_it_ends_and_a_late_reader_hears_of_it(make_app: MakeApp) -> None:
    app, reader, late = make_app(), make_app(), make_app()
    release = asyncio.Event()

    @app.task
    async def waits(x: int) -> None:
        await release.wait()

    async with app, reader, late, app.worker(name="w1", concurrency=1, prefetch=1) as worker:
        before = await waits.delay(1)
        await wait_until(lambda: worker.running, "it runs")
        async with reading(reader) as read:
            await read.told(before.id, "task-received", "task-started")
            behind = await waits.delay(2)
            await read.told(behind.id, "task-received")
            assert read.state.tasks[before.id].args == "(1,)"
            assert [task.uuid for task in read.state.running()] == [before.id]
            assert (await read.came("worker-heartbeat"))["active"] == 1
            release.set()
            await behind.get(timeout=20)
            await read.told(before.id, "task-received", "task-started", "task-succeeded")
            await wait_until(lambda: "task-succeeded" in read.of(behind.id), "the other ends")
            assert read.of(behind.id).count("task-received") == 1


async def test_nothing_is_observed_while_nobody_reads(make_app: MakeApp) -> None:
    app, reader = make_app(), make_app()
    async with app, reader, app.worker(name="w1") as worker:
        assert not is_on(worker)
        async with reading(reader) as read:
            await read.came("worker-online")
            assert is_on(worker)
        await wait_until(lambda: not is_on(worker), "the worker observes nothing any more")


async def test_a_worker_that_starts_later_learns_who_reads_and_says_good_bye(make_app: MakeApp) -> None:
    app, reader = make_app(), make_app()
    async with app, reader, reading(reader, types=["worker-o*"]) as read:
        async with app.worker(name="late"):
            online = await read.came("worker-online")
        offline = await read.came("worker-offline")

    assert (online["hostname"], online["sw_ident"], online["freq"]) == ("late", "py-aiotq", 2.0)
    assert len(online["loadavg"]) == 3
    assert offline["processed"] == 0
    assert read.state.workers["late"].is_offline
    assert {each["type"] for each in read.events} == {"worker-online", "worker-offline"}


async def test_a_reader_that_does_not_ask_has_what_workers_send_anyway(make_app: MakeApp) -> None:
    quiet, told, reader = make_app(), make_app(worker_send_task_events=True), make_app()
    workers = quiet.worker(name="quiet"), told.worker(name="told")
    async with quiet, told, reader, workers[0], workers[1], reading(reader, wakeup=False) as read:
        await read.came("worker-heartbeat")
        assert {each["hostname"] for each in read.events} == {"told"}
        assert (await reader.control.enable_events(destination="quiet", timeout=20))["quiet"] == {
            "ok": "task events enabled"
        }
        await wait_until(lambda: {each["hostname"] for each in read.events} == {"quiet", "told"}, "both tell")
        for name in ("quiet", "told"):
            await reader.control.disable_events(destination=name, timeout=20)
        seen = len(read.events)
        answers = await reader.control.broadcast("heartbeat", timeout=20)
        assert len(answers) == 2
        assert len(read.events) == seen


async def test_a_capture_ends_after_so_many_events_or_so_long_without_one(make_app: MakeApp) -> None:
    app, reader = make_app(), make_app()

    async def captured(**how: Any) -> Sequence[str]:
        return [event["type"] async for event in reader.events.capture(**how)]

    async with app, reader, app.worker(name="w1"):
        assert await captured(limit=1) == ["worker-online"]
        assert await captured(types=["never"], timeout=0.2) == []
        assert await captured(limit=0) == []
    impossible: list[dict[str, Any]] = [{"limit": -1}, {"timeout": 0}, {"types": []}, {"types": [3]}]
    for wrong in impossible:
        with pytest.raises(InvalidOption):
            reader.events.capture(**wrong)


async def test_a_reader_that_is_forgotten_is_no_reader_any_more(make_app: MakeApp) -> None:
    app, reader = make_app(), make_app()
    async with app, reader, app.worker(name="w1"):
        async for _ in reader.events.capture():
            break
        gc.collect()
        bus = (await core_of(reader).connection()).bus
        await wait_until(lambda: not any(bus._handlers.get(EVENTS, ())), "nobody hears")  # pyright: ignore[reportPrivateUsage]


async def test_what_is_not_signed_or_no_wish_is_refused_and_counted(make_app: MakeApp) -> None:
    key = "k" * 40
    app, reader, stranger = make_app(security_key=key), make_app(security_key=key), make_app()
    async with app, reader, stranger, app.worker(name="w1") as worker:
        bus = (await core_of(stranger).connection()).bus
        await bus.tell_all(WISHES, pack_wish(Wish(bus.address, 10.0, True), None))
        await bus.tell_all(WISHES, b"\x00 no wish")
        sender = core_of(app).event_senders["w1"]
        await wait_until(lambda: dict(sender.counts), "they are counted")
        await wait_until(lambda: sender.counts["refused"] + sender.counts["malformed"] == 2, "both are")
        assert not is_on(worker)

        async with reader.events.capture() as capture:
            assert (await anext(capture))["type"] == "worker-online"
            theirs = (await core_of(reader).connection()).bus.address
            await bus.tell(theirs, EVENTS, b'{"id":"x","v":1}\n[]')
            async with asyncio.timeout(10):
                while not capture.refused:
                    assert (await anext(capture))["hostname"] == "w1"


async def test_a_reader_that_does_not_read_is_told_how_much_it_missed(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiotq.control import event_sender, events  # noqa: PLC0415  # whose limits are made small

    app, reader = make_app(), make_app()

    @app.task
    async def add(x: int) -> int:
        return x

    monkeypatch.setattr(events, "MOST_BYTES", 2_000)
    monkeypatch.setattr(event_sender, "_GATHER", 0.01)
    async with app, reader, app.worker(name="w1"), reader.events.capture() as capture:
        assert (await anext(capture))["type"] == "worker-online"
        results = [await add.delay(number) for number in range(50)]
        for result in results:
            await result.get(timeout=20)

        async def dropped() -> int:
            while True:
                event = await anext(capture)
                if event["type"] == "events-dropped":
                    return int(event["dropped"])

        async with asyncio.timeout(10):
            assert await dropped() > 0


async def test_a_task_tells_events_of_its_own(make_app: MakeApp) -> None:
    app, reader = make_app(), make_app()

    @app.task(bind=True)
    async def uploads(self: Task[..., Any]) -> list[str]:
        self.send_event("upload-stored", size=7)
        refused: list[str] = []
        wrong: list[tuple[str, dict[str, Any]]] = [
            ("upload", {}),
            ("upload-stored", {"uuid": "x"}),
            ("upload-stored", {"size": object()}),
            ("upload-stored", {"text": "x" * 20_000}),
        ]
        for kind, fields in wrong:
            try:
                self.send_event(kind, **fields)
            except AioTQError as exc:
                refused.append(type(exc).__name__)
        return refused

    @app.task(bind=True)
    def in_a_thread(self: Task[..., Any]) -> None:
        self.send_event("upload-begun")

    async with app, reader, app.worker(name="w1"), reading(reader) as read:
        await read.came("worker-online")
        result = await uploads.delay()
        threaded = await in_a_thread.delay()
        assert await result.get(timeout=20) == ["CallError", "CallError", "EncodeError", "CallError"]
        stored, begun = await read.came("upload-stored"), await read.came("upload-begun")

    assert stored.keys() == COMMON | {"uuid", "size"}
    assert (stored["uuid"], stored["size"], stored["hostname"]) == (result.id, 7, "w1")
    assert begun["uuid"] == threaded.id
    with pytest.raises(CallError, match="no task runs here"):
        uploads.send_event("upload-stored")


async def test_calls_that_are_sent_are_told_of_if_the_settings_say_so(make_app: MakeApp) -> None:
    app, reader = make_app(task_send_sent_event=True), make_app()

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, reader:
        events = (await core_of(app).connection()).events
        assert events is not None
        async with reading(reader) as read:
            await wait_until(lambda: events.is_on, "whoever sends knows that somebody reads")
            call = await add.delay(1, 2)
            many = await app.send_many([add.s(1, 1), add.s(2, 2)])
            await wait_until(lambda: len(read.events) >= 3, "they are told of")
            async with app.worker():
                await read.came("worker-online")
                chained = await (add.s(2, 2) | add.s(3)).delay()
                await chained.get(timeout=20)
                await wait_until(lambda: "task-sent" in read.of(chained.id), "the next step was sent by a worker")

    sent = next(each for each in read.events if each.get("uuid") == call.id)
    assert sent.keys() == COMMON | {
        *("uuid", "name", "args", "kwargs", "root_id", "parent_id", "retries", "eta", "expires"),
        *("queue", "exchange", "routing_key"),
    }
    assert (sent["args"], sent["queue"], sent["routing_key"]) == ("(1, 2)", "default", "default")
    assert {each["uuid"] for each in read.events if each["type"] == "task-sent"} >= {each.id for each in many}
