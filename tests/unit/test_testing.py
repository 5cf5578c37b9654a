"""`aiotq.testing`: time that jumps is exact, the app is put back as it was, and what is asserted is said well."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiotq import AioTQ, Ignore, Reject, Task, states
from aiotq.core.inside import core_of
from aiotq.exceptions import DeadLettered, SettingsError
from aiotq.testing import TestWorker

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture
def app() -> AioTQ:
    return AioTQ("proj", broker="redis://no.such.host.invalid:1")


async def test_time_jumps_are_exact_and_never_early(app: AioTQ) -> None:
    @app.task
    async def work() -> None: ...

    async with TestWorker(app, now=NOON) as t:
        await work.options(countdown=86_400).delay()
        await t.advance(timedelta(days=1) - timedelta(microseconds=1))
        t.assert_not_ran(work)
        await t.advance(timedelta(microseconds=1))

        t.assert_ran(work, at=NOON + timedelta(days=1), times=1)


@pytest.mark.parametrize("steps", [1, 3, 10, 30, 70])
async def test_many_small_steps_are_as_far_as_a_large_one(app: AioTQ, steps: int) -> None:
    @app.task
    async def work() -> None: ...

    async with TestWorker(app) as t:
        await work.options(countdown=steps * 0.1).delay()
        for _ in range(steps - 1):
            await t.advance(seconds=0.1)
            t.assert_not_ran(work)
        await t.advance(0.1)

        t.assert_ran(work)


async def test_what_comes_due_on_the_way_runs_in_order_each_at_its_time(app: AioTQ) -> None:
    seen: list[tuple[str, float]] = []

    async with TestWorker(app, now=NOON) as t:

        @app.task
        async def note(name: str) -> None:
            seen.append((name, (t.now - NOON).total_seconds()))

        @app.task(bind=True, max_retries=None, default_retry_delay=10)
        async def tick(self: Task[..., Any]) -> None:
            await note("tick")
            if self.request.retries < 2:
                raise self.retry()

        await note.options(eta=NOON + timedelta(seconds=15)).delay("fifteen")
        await note.options(countdown=25, queue="other").delay("twenty-five")
        await note.options(countdown=5).delay("five")
        await tick.delay()
        await t.advance_to(NOON + timedelta(seconds=20))
        at_twenty = list(seen)
        await t.advance(minutes=1)

    assert at_twenty == [("tick", 0), ("five", 5), ("tick", 10), ("fifteen", 15), ("tick", 20)]
    assert seen[5:] == [("twenty-five", 25)]


async def test_a_year_takes_no_time(app: AioTQ) -> None:
    @app.task
    async def again(left: int) -> None:
        if left:
            await again.options(countdown=86_400).delay(left - 1)

    began = time.monotonic()
    async with TestWorker(app) as t:
        first = await again.delay(365)
        start = t.now
        await t.drained()

        assert t.now - start == timedelta(days=365)
        assert len(t.ran) == 366
        assert await first.successful(), "results are kept, however far the time is moved"
    assert time.monotonic() - began < 10


async def test_the_app_is_put_back_as_it_was_with_what_was_in_its_broker() -> None:
    app = AioTQ("proj", broker="memory://", result_expires=7.0)

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app:
        before = await add.options(task_id="before").delay(1, 1)
        clock, conf = core_of(app).clock, app.conf

        with pytest.raises(ZeroDivisionError):
            async with TestWorker(app, now=NOON) as t:
                assert core_of(app).now() == NOON.timestamp()
                assert await (await add.delay(2, 2)) == 4
                assert [call.id for call in t.sent if call.id == "before"] == []
                _ = 1 / 0

        assert (core_of(app).clock, app.conf, app.conf.result_expires) == (clock, conf, 7.0)
        assert [stats.ready for stats in await app.admin.queues()] == [1]
        async with app.worker():
            assert await before == 2


def test_one_app_is_tested_in_one_loop_after_the_other(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async def one_test() -> None:
        async with TestWorker(app) as t:
            assert await (await add.delay(2, 2)) == 4
            assert len(t.ran) == 1

    for _ in range(3):
        asyncio.run(one_test())


async def test_settings_hold_for_the_test_and_wrong_ones_are_errors(app: AioTQ) -> None:
    async with TestWorker(app, task_default_queue="elsewhere", task_always_eager=False) as t:
        await app.send_task("nobody.knows", (1,))
        await t.idle()
        t.assert_sent("nobody.knows", queue="elsewhere")
        ran = t.assert_ran("nobody.knows", args=(1,), state="REJECTED", error=DeadLettered)
        assert "unknown_task" in str(ran.error)
    assert app.conf.task_default_queue == "default"

    with pytest.raises(SettingsError, match="task_default_queue"):
        async with TestWorker(app, task_default_queu="x"):
            pass
    with pytest.raises(ValueError, match="with a zone"):
        TestWorker(app, now=datetime(2030, 1, 1))
    assert not app.conf.is_frozen


async def test_functions_in_threads_wait_for_slots_and_may_send(app: AioTQ) -> None:
    done: list[int] = []

    @app.task
    async def note(number: int) -> None:
        done.append(number)

    @app.task
    def work(number: int) -> None:
        time.sleep(0.005)
        note.sync.delay(number)

    async with TestWorker(app, worker_threads=1) as t:
        await app.send_many(work.s(number) for number in range(30))
        await t.idle()

    assert sorted(done) == list(range(30))


async def test_code_without_a_loop_calls_from_a_thread_of_its_own(app: AioTQ) -> None:
    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with TestWorker(app) as t:
        assert await asyncio.to_thread(lambda: add.sync.delay(2, 2).get(timeout=10)) == 4
        t.assert_ran(add, value=4)


async def test_two_apps_of_a_program_are_tested_together(app: AioTQ) -> None:
    other = AioTQ("other", broker="redis://no.such.host.invalid:1")

    @other.task
    async def answer(word: str) -> str:
        return f"{word}!"

    @app.task
    async def ask(word: str) -> str:
        return await (await answer.delay(word))

    async with TestWorker(app) as t, TestWorker(other) as u:
        assert await (await ask.delay("hello")) == "hello!"
        await t.idle()
        t.assert_ran(ask)
        u.assert_ran(answer)
        t.assert_not_ran(answer)


async def test_only_the_queues_that_are_named_are_consumed(app: AioTQ) -> None:
    @app.task
    async def work(where: str) -> None: ...

    async with TestWorker(app, queues=["hi"]) as t:
        await work.options(queue="hi").delay("hi")
        await work.options(queue="lo").delay("lo")
        await work.options(queue="lo", countdown=5).delay("lo")
        await t.advance(days=1)
        await t.drained()

        assert [run.args for run in t.ran] == [("hi",)]


async def test_what_never_ends_is_named(app: AioTQ) -> None:
    @app.task
    async def stuck(word: str) -> None:
        await asyncio.Event().wait()

    @app.task
    async def for_ever() -> None:
        await for_ever.options(countdown=60).delay()

    async with TestWorker(app, patience=0.2) as t:
        await stuck.delay("here")
        with pytest.raises(AssertionError, match=r"not idle after 0\.2 s\nrunning:\n  .*stuck\('here'\)"):
            await t.idle()
    async with TestWorker(app) as t:
        await for_ever.delay()
        with pytest.raises(AssertionError, match=r"(?s)still not drained after 50 steps.*for_ever\(\), in 0:01:00"):
            await t.drained(steps=50)


async def test_time_does_not_go_back(app: AioTQ) -> None:
    async with TestWorker(app, now=NOON) as t:
        with pytest.raises(ValueError, match="time can't go back"):
            await t.advance(days=-1)
        with pytest.raises(ValueError, match="2029"):
            await t.advance_to(NOON - timedelta(days=1))


async def test_every_end_of_a_run_is_seen_whether_its_result_is_kept_or_not(app: AioTQ) -> None:
    @app.task(ignore_result=True)
    async def good() -> str:
        return "good"

    @app.task(ignore_result=True)
    async def bad() -> None:
        raise ValueError("bad")

    @app.task
    async def odd() -> object:
        return object()

    @app.task
    async def ignored() -> None:
        raise Ignore

    @app.task
    async def rejected() -> None:
        raise Reject("no")

    async with TestWorker(app) as t:
        for task in (good, bad, odd, ignored, rejected):
            await task.delay()
        revoked = await good.options(countdown=10).delay()
        await revoked.revoke()
        await t.drained()

        t.assert_ran(good, state=states.SUCCESS, value="good", times=1)
        t.assert_ran(bad, state=states.FAILURE, error=ValueError)
        t.assert_ran(odd, state=states.FAILURE)
        t.assert_ran(ignored, state="IGNORED")
        t.assert_ran(rejected, state="REJECTED")
        assert t.assert_ran(good, state=states.REVOKED).id == revoked.id
        t.clear()
        assert (t.sent, t.ran, t.delayed) == ([], [], [])


async def test_assertions_compare_arguments_by_their_parameters_and_say_what_there_was(app: AioTQ) -> None:
    @app.task(bind=True)
    async def add(self: Task[..., Any], x: int, y: int = 3) -> int:
        return x + y

    async with TestWorker(app) as t:
        await add.options(priority=7, headers={"who": "ann"}, expires=60).delay(2)
        assert t.delayed == []
        await t.idle()

        for args, kwargs in (((2,), None), ((2, 3), {}), (None, {"x": 2}), ((2,), {"y": 3})):
            t.assert_sent(add, args=args, kwargs=kwargs, times=1)
        sent = t.assert_sent(add, priority=7, headers={"who": "ann"}, expires=t.now + timedelta(seconds=60))
        assert (sent.countdown, sent.queue, str(sent)) == (None, "default", f"{add.name}(2)")
        wrongs: list[dict[str, Any]] = [
            {"args": (3,)},
            {"priority": 4},
            {"countdown": 5},
            {"queue": "hi"},
            {"times": 2},
        ]
        for wrong in wrongs:
            with pytest.raises(AssertionError, match=rf"(?s)add.* was not sent.*\nsent:\n  {add.name}\(2\)"):
                t.assert_sent(add, **wrong)
        with pytest.raises(AssertionError, match=r"was not sent 2 times, but once"):
            t.assert_sent(add, times=2)
        with pytest.raises(AssertionError, match=r"add\(…\) was sent: .*add\(2\)"):
            t.assert_not_sent(add)
        with pytest.raises(AssertionError, match=r"add\(2\), value=6 was not run\nrun:\n .*add\(2\) -> SUCCESS 5"):
            t.assert_ran(add, args=(2,), value=6)
        with pytest.raises(AssertionError, match="never"):
            t.assert_ran("proj.other", times=1)
        t.assert_not_ran(add, args=(7,))


def test_nothing_of_it_is_loaded_unasked_and_it_does_not_need_pytest() -> None:
    code = (
        "import sys, aiotq\n"
        "assert not [name for name in sys.modules if name.startswith('aiotq.testing')]\n"
        "sys.modules['pytest'] = None\n"
        "import aiotq.testing\n"
    )

    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


async def test_what_a_limit_put_off_is_listed_as_that(app: AioTQ) -> None:
    @app.task(rate_limit="100/m")
    async def mail(user: str) -> None: ...

    async with TestWorker(app, now=NOON) as t:
        await app.send_many([mail.s("ann"), mail.s("bob"), mail.options(countdown=5).s("eve")])
        await t.idle()

        off, later = map(str, t.delayed)
    assert off.endswith("in 0:00:00.600000 (put off by a limit)")
    assert later.endswith("in 0:00:05")


async def test_calls_that_wait_for_a_seat_run_one_after_the_other_and_no_time_passes(app: AioTQ) -> None:
    running: list[int] = []

    @app.task(max_concurrency=1)
    async def alone(number: int) -> None:
        running.append(number)
        await asyncio.sleep(0)
        assert running == [number]
        running.pop()

    async with TestWorker(app, now=NOON) as t:
        for number in range(5):
            await alone.delay(number)
        await t.drained()

        t.assert_ran(alone, at=NOON, times=5)
