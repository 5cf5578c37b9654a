"""Retries: asked for by the task, by its declaration, and the other ways of not ending yet."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aiotq import AioTQ, Ignore, MaxRetriesExceededError, Reject, Retry, Snooze, Task, TaskIgnored
from aiotq.core.inside import core_of
from aiotq.exceptions import CallError, DeadLettered, InvalidArguments, InvalidOption

from ..waiting import wait_until
from .process_tasks import die_until


class Runs:
    """What a task saw of each of its runs."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.times: list[float] = []

    def note(self, task: Task[..., Any]) -> int:
        """Note a run; return how many retries there were before it."""
        self.seen.append((task.request.retries, task.request.attempt))
        self.times.append(time.time())
        return task.request.retries

    @property
    def gaps(self) -> list[float]:
        return [after - before for before, after in zip(self.times, self.times[1:], strict=False)]


@pytest.fixture
def runs() -> Runs:
    return Runs()


async def test_a_task_is_retried_under_its_id_until_it_succeeds(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True)
    async def flaky(self: Task[..., Any], x: int) -> str:
        if runs.note(self) < 2:
            raise self.retry(countdown=0.01)
        return f"{self.request.id} {x}"

    async with app, app.worker():
        result = await flaky.delay(7)
        assert await result.get(timeout=10) == f"{result.id} 7"
    assert runs.seen == [(0, 0), (1, 1), (2, 2)]


async def test_a_retry_waits_in_the_broker_for_its_countdown(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True)
    async def later(self: Task[..., Any]) -> None:
        if runs.note(self) < 1:
            self.retry(countdown=0.3)  # raises by itself

    async with app, app.worker():
        await (await later.delay()).get(timeout=10)
    assert runs.gaps[0] >= 0.3


async def test_a_retry_waits_until_its_eta(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True)
    async def later(self: Task[..., Any]) -> None:
        if runs.note(self) < 1:
            raise self.retry(eta=datetime.now(UTC) + timedelta(seconds=0.3))

    async with app, app.worker():
        await (await later.delay()).get(timeout=10)
    assert runs.gaps[0] >= 0.299


async def test_the_state_is_retry_with_the_reason_meanwhile(app: AioTQ) -> None:
    @app.task(bind=True)
    async def later(self: Task[..., Any]) -> None:
        try:
            raise LookupError("not yet")
        except LookupError as exc:
            raise self.retry(exc=exc, countdown=60) from exc

    async with app, app.worker():
        result = await later.delay()
        await wait_until(lambda: _state_is(result.look, "RETRY"), "the retry is known")
        info = await result.info()
        assert isinstance(info, LookupError)
        assert str(info) == "not yet"
        assert "LookupError: not yet" in str(await result.traceback())
        assert not await result.ready()


async def _state_is(look: Callable[[], Any], state: str) -> bool:
    return bool((await look()).state == state)


async def test_arguments_and_options_of_a_retry_stand_in_place_of_the_calls(app: AioTQ) -> None:
    @app.task(bind=True)
    async def halve(self: Task[..., Any], n: int, *, by: int = 2) -> list[object]:
        if n > 1:
            raise self.retry(args=(n // by,), kwargs={"by": by}, countdown=0, priority=9, headers={"n": n})
        return [n, self.request.delivery_info["priority"], dict(self.request.headers)]

    async with app, app.worker():
        assert await (await halve.delay(8, by=2)).get(timeout=10) == [1, 9, {"n": 2}]


async def test_after_max_retries_the_given_exception_is_the_outcome(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True, max_retries=2)
    async def hopeless(self: Task[..., Any]) -> None:
        runs.note(self)
        try:
            raise LookupError("still not")
        except LookupError as exc:
            raise self.retry(exc=exc, countdown=0) from exc

    async with app, app.worker():
        with pytest.raises(LookupError, match="still not"):
            await (await hopeless.delay()).get(timeout=10)
    assert [retries for retries, _ in runs.seen] == [0, 1, 2]


async def test_after_max_retries_without_an_exception_it_is_max_retries_exceeded(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True)
    async def hopeless(self: Task[..., Any]) -> None:
        runs.note(self)
        raise self.retry(countdown=0, max_retries=1)

    async with app, app.worker():
        with pytest.raises(MaxRetriesExceededError, match="more than 1 times"):
            await (await hopeless.delay()).get(timeout=10)
    assert len(runs.seen) == 2


async def test_a_task_without_max_retries_is_retried_beyond_the_default(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True, max_retries=None, default_retry_delay=0)
    async def stubborn(self: Task[..., Any]) -> str:
        if runs.note(self) < 6:
            raise self.retry()
        return "done"

    async with app, app.worker():
        assert await (await stubborn.delay()).get(timeout=10) == "done"
    assert len(runs.seen) == 7


@pytest.mark.parametrize("kind", ["coroutine", "thread"])
async def test_listed_exceptions_are_retried_by_themselves(app: AioTQ, runs: Runs, kind: str) -> None:
    def fail_twice(self: Task[..., Any]) -> str:
        if runs.note(self) < 2:
            raise ConnectionError("down")
        return "up"

    async def fail_twice_in_loop(self: Task[..., Any]) -> str:
        return fail_twice(self)

    fn: Any = fail_twice_in_loop if kind == "coroutine" else fail_twice
    declare = app.task(bind=True, autoretry_for=(OSError,), default_retry_delay=0)
    task: Any = declare(fn)

    async with app, app.worker():
        assert await (await task.delay()).get(timeout=10) == "up"
    assert [retries for retries, _ in runs.seen] == [0, 1, 2]


async def test_exceptions_that_are_not_listed_or_excepted_fail_at_once(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True, autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), default_retry_delay=0)
    async def fail(self: Task[..., Any], name: str) -> None:
        runs.note(self)
        raise {"file": FileNotFoundError, "value": ValueError}[name](name)

    async with app, app.worker():
        with pytest.raises(FileNotFoundError):
            await (await fail.delay("file")).get(timeout=10)
        with pytest.raises(ValueError, match="value"):
            await (await fail.delay("value")).get(timeout=10)
    assert [retries for retries, _ in runs.seen] == [0, 0]


async def test_automatic_retries_end_with_the_exception_itself(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True, autoretry_for=(OSError,), retry_kwargs={"max_retries": 2, "countdown": 0})
    async def fail(self: Task[..., Any]) -> None:
        runs.note(self)
        raise ConnectionError("down for good")

    async with app, app.worker():
        with pytest.raises(ConnectionError, match="down for good"):
            await (await fail.delay()).get(timeout=10)
    assert [retries for retries, _ in runs.seen] == [0, 1, 2]


async def test_automatic_retries_back_off(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True, autoretry_for=(OSError,), retry_backoff=0.1, retry_jitter=False, retry_backoff_max=0.25)
    async def fail(self: Task[..., Any]) -> None:
        runs.note(self)
        raise ConnectionError

    async with app, app.worker():
        with pytest.raises(ConnectionError):
            await (await fail.delay()).get(timeout=10)
    assert len(runs.gaps) == 3
    for gap, least in zip(runs.gaps, (0.1, 0.2, 0.25), strict=True):
        assert least <= gap < least + 0.5


async def test_a_snooze_runs_again_and_spends_no_retry(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True, max_retries=0)
    async def poll(self: Task[..., Any]) -> str:
        runs.note(self)
        if len(runs.seen) < 4:
            raise Snooze(0.05)
        return "there"

    async with app, app.worker():
        assert await (await poll.delay()).get(timeout=10) == "there"
    assert runs.seen == [(0, 0), (0, 1), (0, 2), (0, 3)]
    assert min(runs.gaps) >= 0.05


async def test_a_rejected_task_is_a_dead_letter_and_fails(app: AioTQ) -> None:
    @app.task
    async def refuse() -> None:
        raise Reject("no thanks")

    async with app, app.worker():
        result = await refuse.delay()
        with pytest.raises(DeadLettered, match="rejected: no thanks"):
            await result.get(timeout=10)
        connection = await core_of(app).connection()
        letters = await wait_until(connection.broker.dead_letters, "it is a dead letter")
        assert [(letter.reason, letter.message and letter.message.id) for letter in letters] == [
            ("rejected", result.id)
        ]


async def test_a_task_that_is_rejected_for_others_comes_again(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True)
    async def choosy(self: Task[..., Any]) -> bool:
        runs.note(self)
        if len(runs.seen) == 1:
            raise Reject("not here", requeue=True)
        return bool(self.request.delivery_info["redelivered"])

    async with app, app.worker():
        assert await (await choosy.delay()).get(timeout=10) is True
    assert runs.seen == [(0, 0), (0, 0)]


async def test_whoever_waits_for_an_ignored_task_is_told_so(app: AioTQ) -> None:
    @app.task
    async def vanish() -> None:
        raise Ignore

    async with app, app.worker():
        result = await vanish.delay()
        with pytest.raises(TaskIgnored, match=rf"vanish\[{result.id}\] asked to be ignored"):
            await asyncio.wait_for(result.get(), 10)
        with pytest.raises(TaskIgnored):
            await app.AsyncResult(result.id).get(timeout=10)  # one who comes later
        assert await result.state() == "IGNORED"
        assert (await result.ready(), await result.successful(), await result.failed()) == (True, False, False)
        connection = await core_of(app).connection()
        assert not await connection.broker.stats()


async def test_an_ignored_task_without_a_result_stores_nothing(app: AioTQ) -> None:
    @app.task(ignore_result=True)
    async def vanish() -> None:
        raise Ignore

    async with app, app.worker() as worker:
        result = await vanish.delay()
        await wait_until(lambda: worker.completed == 1, "it ran")
        assert await result.get(timeout=10, propagate=False) is None
        assert await app.AsyncResult(result.id).state() == "PENDING"


async def test_a_retry_with_arguments_that_do_not_fit_fails_with_the_reason(app: AioTQ) -> None:
    @app.task(bind=True)
    async def clumsy(self: Task[..., Any], x: int) -> None:
        raise self.retry(args=(1, 2, 3), countdown=0)

    async with app, app.worker():
        with pytest.raises(InvalidArguments):
            await (await clumsy.delay(1)).get(timeout=10)


async def test_a_retry_outside_a_task_is_refused(app: AioTQ) -> None:
    @app.task(bind=True)
    async def flaky(self: Task[..., Any]) -> None:
        raise self.retry()

    with pytest.raises(CallError, match="no task runs here"):
        await flaky()
    with pytest.raises(LookupError):
        flaky.retry(exc=LookupError())


@pytest.mark.parametrize(
    "options",
    [{"countdown": "1"}, {"countdown": 1, "eta": datetime.now(UTC)}, {"queue": ""}, {"task_id": "x"}, {"x": 1}],
)
async def test_an_impossible_retry_fails_the_task_with_the_reason(app: AioTQ, options: dict[str, Any]) -> None:
    @app.task(bind=True)
    async def clumsy(self: Task[..., Any]) -> None:
        raise self.retry(**options)

    async with app, app.worker():
        with pytest.raises(InvalidOption):
            await (await clumsy.delay()).get(timeout=10)


async def test_an_expired_retry_is_revoked(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True)
    async def late(self: Task[..., Any]) -> None:
        runs.note(self)
        raise self.retry(countdown=0.3, expires=0.1)

    async with app, app.worker():
        result = await late.delay()
        await result.get(timeout=10, propagate=False)
        assert await result.state() == "REVOKED"
    assert len(runs.seen) == 1


async def test_applied_here_a_task_is_retried_at_once(app: AioTQ, runs: Runs) -> None:
    @app.task(bind=True, autoretry_for=(OSError,))
    async def flaky(self: Task[..., Any]) -> str:
        match runs.note(self):
            case 0:
                raise self.retry(countdown=3600)
            case 1:
                raise ConnectionError
        return "done"

    assert await (await flaky.apply()).get() == "done"
    assert len(runs.seen) == 3


def test_a_retry_can_be_made_without_being_raised(app: AioTQ) -> None:
    assert isinstance(Retry("later", delay=3.0).delay, float)


async def test_a_task_whose_process_died_runs_again_as_often_as_it_may_be_delivered(app: AioTQ, tmp_path: Path) -> None:
    async with app, app.worker(processes=1):
        fine = await app.send_task(die_until.name, (str(tmp_path / "fine"), 2))
        assert await fine.get(timeout=60) == 3
        poison = await app.send_task(die_until.name, (str(tmp_path / "poison"), 9))
        with pytest.raises(DeadLettered, match="its process died 3 times"):
            await poison.get(timeout=60)
    assert (tmp_path / "poison").read_text() == "xxx"


async def test_a_delay_beyond_the_calendar_ends_the_task(app: AioTQ) -> None:
    """Milliseconds taken for seconds."""

    @app.task(bind=True)
    async def later(self: Task[..., Any]) -> None:
        raise self.retry(countdown=1.8e12)

    async with app, app.worker():
        result = await later.delay()
        with pytest.raises(InvalidOption, match="beyond the end of the calendar"):
            await result.get(timeout=10)


async def test_arguments_of_a_retry_change_those_they_name_and_leave_the_others(app: AioTQ) -> None:
    """Given by name in the call and by place in the retry, or the reverse, it is one argument."""

    @app.task(bind=True)
    async def by_place(self: Task[..., Any], foo: int, bar: int, label: str | None = None) -> list[Any]:
        if not self.request.retries:
            raise self.retry(args=(foo + 1, bar + 1), countdown=0)
        return [foo, bar, label]

    @app.task(bind=True)
    async def by_name(self: Task[..., Any], foo: int, bar: int) -> list[Any]:
        if not self.request.retries:
            raise self.retry(kwargs={"bar": bar + 1}, countdown=0)
        return [foo, bar]

    async with app, app.worker():
        assert await (await by_place.delay(foo=1, bar=2, label="kept")).get(timeout=10) == [2, 3, "kept"]
        assert await (await by_place.delay(1, bar=2)).get(timeout=10) == [2, 3, None]
        assert await (await by_name.delay(1, 2)).get(timeout=10) == [1, 3]
