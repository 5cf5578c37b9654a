"""Signals: what is told of calls, runs and workers, when, and to whom."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from aiotq import AioTQ, Ignore, Reject, Snooze, Task, signals
from aiotq.exceptions import DeadLettered, EncodeError, NotRegistered
from aiotq.signals import Signal
from aiotq.worker import observers, task_signals

from ..waiting import wait_until
from . import hook_tasks
from .conftest import NOT_ON_RABBITMQ, MakeApp
from .hearing import Heard

BROKERS_HERE = NOT_ON_RABBITMQ


async def test_a_call_is_told_before_and_after_it_is_sent(app: AioTQ, heard: Heard) -> None:
    @app.task(name="proj.add", queue="sums")
    async def add(x: int, y: int) -> int:
        return x + y

    heard.listen(signals.before_task_publish, signals.after_task_publish)
    async with app:
        one = await add.options(priority=7, headers={"user": 3}).delay(2, y=3)
        many = await app.send_many([add.s(1, 2)])
        assert heard.names == ["before_task_publish", "after_task_publish"] * 2
        _name, sender, named = heard.told[0]
        assert sender == "proj.add"
        assert set(signals.before_task_publish.provides) == set(named)
        assert named["body"][:2] == ([2], {"y": 3})
        assert named["headers"]["id"] == one.id
        assert named["headers"]["task"] == "proj.add"
        assert named["headers"]["user"] == 3
        assert named["routing_key"] == "sums"
        assert named["properties"]["priority"] == 7
        assert set(signals.after_task_publish.provides) == set(heard.told[1][2])
        assert heard.told[3][2]["headers"]["id"] == many[0].id


async def test_a_receiver_may_change_headers_and_arguments(app: AioTQ, heard: Heard) -> None:
    @app.task(bind=True)
    async def show(self: Task[..., Any], *args: Any, **kwargs: Any) -> list[Any]:
        return [list(args), kwargs, dict(self.request.headers), self.request.id]

    def change(headers: dict[str, Any], body: tuple[list[Any], dict[str, Any], Any], **named: Any) -> None:
        headers["trace"] = "t1"
        headers["id"] = "not this one"
        body[0].append(2)
        body[1]["z"] = 3

    signals.before_task_publish.connect(change, sender=show.name)
    try:
        async with app, app.worker():
            for send in (show.options(headers={"task": "mine"}).delay(1, y=1), show.delay(1, y=1)):
                result = await send
                args, kwargs, headers, task_id = await result.get(timeout=10)
                assert (args, kwargs, task_id) == ([1, 2], {"y": 1, "z": 3}, result.id)
                assert headers in ({"trace": "t1", "task": "mine"}, {"trace": "t1"})
    finally:
        signals.before_task_publish.disconnect(change, sender=show.name)


async def test_nothing_is_told_of_a_call_that_can_not_be_sent(app: AioTQ, heard: Heard) -> None:
    @app.task
    async def show(x: object) -> None: ...

    heard.listen(signals.before_task_publish, signals.after_task_publish)
    async with app:
        with pytest.raises(EncodeError):
            await show.delay(object())
    assert heard.names == []


async def test_a_run_is_told_from_receipt_to_its_end(app: AioTQ, heard: Heard) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        heard.told.append(("(runs)", None, {}))
        return x + y

    heard.listen(signals.task_received, signals.task_prerun, signals.task_success, signals.task_postrun)
    async with app, app.worker(name="here") as worker:
        result = await add.delay(2, y=3)
        assert await result.get(timeout=10) == 5
        assert heard.names == ["task_received", "task_prerun", "(runs)", "task_success", "task_postrun"]
        assert heard.sender("task_received") is worker
        assert heard.arguments("task_received")["request"].id == result.id
        assert heard.arguments("task_received")["request"].hostname == "here"
        assert heard.sender("task_prerun") is heard.sender("task_success") is heard.sender("task_postrun") is add
        assert heard.arguments("task_prerun") == {"task_id": result.id, "task": add, "args": (2,), "kwargs": {"y": 3}}
        assert heard.arguments("task_success") == {"result": 5}
        assert heard.arguments("task_postrun") == {
            **heard.arguments("task_prerun"),
            "retval": 5,
            "state": "SUCCESS",
        }


async def test_a_failure_is_told_with_its_exception(app: AioTQ, heard: Heard) -> None:
    @app.task
    async def fail(x: int) -> None:
        raise LookupError(f"no {x}")

    heard.listen(signals.task_failure, signals.task_postrun, signals.task_success)
    async with app, app.worker():
        result = await fail.delay(7)
        with pytest.raises(LookupError):
            await result.get(timeout=10)
        assert heard.names == ["task_failure", "task_postrun"]
        named = heard.arguments("task_failure")
        assert set(named) == set(signals.task_failure.provides)
        assert (named["task_id"], named["args"], named["kwargs"]) == (result.id, (7,), {})
        assert repr(named["exception"]) == "LookupError('no 7')"
        assert named["traceback"] is named["exception"].__traceback__
        assert "LookupError: no 7" in str(named["einfo"])
        assert heard.arguments("task_postrun")["state"] == "FAILURE"
        assert heard.arguments("task_postrun")["retval"] is named["exception"]


async def test_a_retry_is_told_with_its_reason(app: AioTQ, heard: Heard) -> None:
    @app.task(bind=True)
    async def flaky(self: Task[..., Any]) -> str:
        if self.request.retries == 0:
            raise self.retry(exc=ConnectionError("down"), countdown=0)
        return "up"

    heard.listen(signals.task_retry, signals.task_postrun)
    async with app, app.worker():
        result = await flaky.delay()
        assert await result.get(timeout=10) == "up"
    named = heard.arguments("task_retry")
    assert named["request"].id == result.id
    assert str(named["reason"]) == "down"
    assert "ConnectionError" in str(named["einfo"])
    assert [named["state"] for told, _, named in heard.told if told == "task_postrun"] == ["RETRY", "SUCCESS"]


async def test_what_is_revoked_before_it_starts_is_told(app: AioTQ, heard: Heard) -> None:
    @app.task
    async def nothing() -> None: ...

    heard.listen(signals.task_revoked, signals.task_prerun, signals.task_postrun)
    async with app:
        result = await nothing.delay()
        await result.revoke()
        late = await nothing.options(expires=0.01).delay()
        await asyncio.sleep(0.02)
        async with app.worker():
            await result.get(timeout=10, propagate=False)
            await late.get(timeout=10, propagate=False)
    assert heard.names == ["task_revoked", "task_revoked"]
    told = {named["request"].id: (named["expired"], named["terminated"]) for _, _, named in heard.told}
    assert told == {result.id: (False, False), late.id: (True, False)}
    assert {sender for _, sender, _ in heard.told} == {nothing}


async def test_what_is_revoked_where_it_runs_is_told(app: AioTQ, heard: Heard) -> None:
    running = asyncio.Event()

    @app.task
    async def wait() -> None:
        running.set()
        await asyncio.Event().wait()

    heard.listen(signals.task_revoked, signals.task_postrun)
    async with app, app.worker():
        result = await wait.delay()
        await running.wait()
        await result.revoke(terminate=True)
        await result.get(timeout=10, propagate=False)
    assert heard.arguments("task_revoked")["terminated"] is True
    assert heard.arguments("task_postrun")["state"] == "REVOKED"


async def test_an_unknown_task_is_told(make_app: MakeApp, heard: Heard) -> None:
    app = make_app(worker_unknown_task_timeout=0)
    heard.listen(signals.task_unknown, signals.task_rejected)
    async with app, app.worker() as worker:
        result = await app.send_task("no.such.task")
        with pytest.raises(DeadLettered):
            await result.get(timeout=10)
    assert heard.names == ["task_unknown"]
    named = heard.arguments("task_unknown")
    assert (named["name"], named["id"], heard.sender("task_unknown")) == ("no.such.task", result.id, worker)
    assert isinstance(named["exc"], NotRegistered)


async def test_what_goes_to_the_dead_letters_is_told(app: AioTQ, heard: Heard) -> None:
    @app.task
    async def refuse() -> None:
        raise Reject("no thanks")

    heard.listen(signals.task_rejected, signals.task_postrun)
    async with app, app.worker() as worker:
        result = await refuse.delay()
        with pytest.raises(DeadLettered):
            await result.get(timeout=10)
    named = heard.arguments("task_rejected")
    assert (named["message"].id, named["reason"], heard.sender("task_rejected")) == (result.id, "rejected", worker)
    assert str(named["exc"]) == "rejected: no thanks"
    assert heard.arguments("task_postrun")["state"] == "REJECTED"


@pytest.mark.parametrize(("raised", "state"), [(Ignore(), "IGNORED"), (Snooze(60), "RETRY")])
async def test_every_run_that_began_is_told_to_have_ended(
    app: AioTQ, heard: Heard, raised: Exception, state: str
) -> None:
    @app.task
    async def steer() -> None:
        raise raised

    heard.listen(signals.task_prerun, signals.task_postrun)
    async with app, app.worker():
        await steer.delay()
        await wait_until(lambda: len(heard.told) == 2, "it ran")
    assert heard.names == ["task_prerun", "task_postrun"]
    assert heard.arguments("task_postrun")["state"] == state


async def test_a_run_that_is_handed_back_is_told_to_have_ended(app: AioTQ, heard: Heard) -> None:
    running = asyncio.Event()

    @app.task
    async def wait() -> None:
        running.set()
        await asyncio.Event().wait()

    heard.listen(signals.task_prerun, signals.task_postrun, signals.worker_shutdown)
    async with app, app.worker(grace=0):
        await wait.delay()
        await running.wait()
    assert heard.names == ["task_prerun", "task_postrun", "worker_shutdown"]
    assert heard.arguments("task_postrun")["state"] == "PENDING"


async def test_a_receiver_that_is_slow_when_the_worker_stops_costs_no_outcome(app: AioTQ) -> None:
    began = asyncio.Event()

    @app.task
    async def quick() -> int:
        return 7

    async def dawdle(**named: Any) -> None:
        began.set()
        await asyncio.Event().wait()

    signals.task_success.connect(dawdle, sender=quick)
    try:
        async with app:
            async with app.worker(grace=0):
                result = await quick.delay()
                await began.wait()
            assert await result.get(timeout=10) == 7
    finally:
        signals.task_success.disconnect(dawdle, sender=quick)


async def test_a_variable_that_a_receiver_sets_is_seen_by_the_task(app: AioTQ) -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")

    async def set_tenant(task_id: str, **named: Any) -> None:
        tenant.set(task_id)

    @app.task
    async def on_the_loop() -> str:
        return tenant.get()

    @app.task
    def in_a_thread() -> str:
        return tenant.get()

    signals.task_prerun.connect(set_tenant)
    try:
        async with app, app.worker():
            for task in (on_the_loop, in_a_thread):
                result = await app.send_task(task.name)
                assert await result.get(timeout=10) == result.id
    finally:
        signals.task_prerun.disconnect(set_tenant)
    assert tenant.get() == "nobody"


async def test_a_failing_receiver_harms_no_task(app: AioTQ, caplog: pytest.LogCaptureFixture) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    def fail(**named: Any) -> None:
        raise ValueError("a receiver's failure is its own")

    told = [
        each
        for each in vars(signals).values()
        if isinstance(each, Signal) and not each.name.startswith("worker_process_")
    ]
    for signal in told:
        signal.connect(fail)
    try:
        async with app, app.worker():
            assert await (await add.delay(2, 2)).get(timeout=10) == 4
    finally:
        for signal in told:
            signal.disconnect(fail)
    failed = {record.getMessage().split()[-2] for record in caplog.records if record.name == "aiotq.signals"}
    assert {"before_task_publish", "task_received", "task_prerun", "task_success", "worker_ready"} <= failed


async def test_the_life_of_a_worker_is_told_in_order(app: AioTQ, heard: Heard) -> None:
    @app.task
    async def nothing() -> None: ...

    @app.worker_lifespan
    async def resource() -> AsyncGenerator[int, None]:
        heard.told.append(("(opened)", None, {}))
        yield 1
        heard.told.append(("(closed)", None, {}))

    heard.listen(
        signals.import_modules,
        signals.worker_init,
        signals.worker_ready,
        signals.task_postrun,
        signals.worker_shutting_down,
        signals.worker_shutdown,
    )
    async with app, app.worker(name="here") as worker:
        await (await nothing.delay()).get(timeout=10)
    assert heard.names == [
        "import_modules",
        "worker_init",
        "(opened)",
        "worker_ready",
        "task_postrun",
        "worker_shutting_down",
        "worker_shutdown",
        "(closed)",
    ]
    assert heard.sender("import_modules") is app
    assert heard.sender("worker_ready") is worker
    assert heard.arguments("worker_shutting_down") == {"sig": None, "how": "Warm", "exitcode": 0}
    assert resource.name.endswith("resource")


async def test_receivers_are_told_in_the_child_of_a_process_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "mark"
    monkeypatch.setenv("HOOK_TASKS_MARK", str(mark))
    async with hook_tasks.app, hook_tasks.app.worker():
        *opened, pid = await (await hook_tasks.what_was_opened.delay()).get(timeout=60)
    assert opened == [f"plain {pid}", f"coroutine {pid}"]
    assert mark.read_text() == f"{pid} 0"


async def test_a_receiver_that_hangs_does_not_keep_a_worker_from_stopping(
    app: AioTQ, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(task_signals, "_LAST_WORDS", 0.05)
    monkeypatch.setattr(observers, "_LAST_WORDS", 0.05)
    running = asyncio.Event()

    @app.task
    async def wait() -> None:
        running.set()
        await asyncio.Event().wait()

    async def hang(**named: Any) -> None:
        await asyncio.Event().wait()

    hung = (signals.task_postrun, signals.worker_shutting_down, signals.worker_shutdown)
    for signal in hung:
        signal.connect(hang)
    try:
        async with app, asyncio.timeout(10), app.worker(grace=0):
            await wait.delay()
            await running.wait()
    finally:
        for signal in hung:
            signal.disconnect(hang)
    assert "receivers of signal worker_shutting_down took more than" in caplog.text
    assert "receivers of signal worker_shutdown took more than" in caplog.text
    assert "its signal receivers were cancelled" in caplog.text
