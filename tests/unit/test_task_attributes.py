"""What a task declares is there to be read, and to be changed; None leaves a thing to others."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiotq import AioTQ, OperationalError, Task, current_task
from aiotq.exceptions import CallError, InvalidArguments, InvalidOption, MaxRetriesExceededError
from aiotq.tasks.options import CALL_OPTIONS, TaskOptions

#: Those that name the task, or say where it runs.
ELSEWHERE = {"pydantic", "run", "shadow_name", "stream"}


def make(**settings: Any) -> AioTQ:
    return AioTQ("attributes", broker="memory://", **settings)


async def add(x: int, y: int = 2) -> int:
    return x + y


def plain() -> None: ...


def test_every_option_is_an_attribute() -> None:
    task = make().task(rate_limit="10/m", throws=(OSError,), priority=7)(add)

    assert (task.rate_limit, task.throws, task.priority, task.queue) == ("10/m", (OSError,), 7, None)
    for each in fields(TaskOptions):
        if each.name not in ELSEWHERE:
            assert getattr(task, each.name) == getattr(task.declared, each.name)


def test_attributes_of_a_base_class_are_those_of_its_tasks() -> None:
    class Careful(Task[..., Any]):
        acks_late = False
        max_retries = 9

    task: Any = make().task(base=Careful, max_retries=1)(add)

    assert (task.acks_late, task.max_retries) == (False, 1)


async def test_an_attribute_that_is_set_anew_holds_from_the_next_run_on() -> None:
    app = make()
    runs: list[str] = []

    @app.task(name="fails", bind=True, max_retries=0, autoretry_for=(ValueError,), default_retry_delay=0)
    async def fails(self: Any) -> None:
        runs.append(self.request.id)
        raise ValueError

    async with app, app.worker():
        first = await fails.delay()
        await first.get(timeout=10, propagate=False)
        fails.max_retries = 2
        second = await fails.delay()
        await second.get(timeout=10, propagate=False)
        fails.expires = 1e-9
        third = await fails.delay()
        assert isinstance(await third.get(timeout=10, propagate=False), Exception)

    assert (runs.count(first.id), runs.count(second.id), runs.count(third.id)) == (1, 3, 0)


async def test_how_a_worker_treats_a_task_follows_its_attributes() -> None:
    app = make()

    @app.task
    async def fails() -> None:
        raise ValueError

    async with app, app.worker():
        kept = await fails.apply_async(ignore_result=False)
        await kept.get(timeout=10, propagate=False)
        fails.store_errors_even_if_ignored = True
        late = await fails.apply_async(ignore_result=True, task_id="late")
        await app.AsyncResult(late.id).get(timeout=10, propagate=False)

        assert await app.AsyncResult("late").state() == "FAILURE"


@pytest.mark.parametrize(
    ("name", "given", "error"),
    [
        ("rate_limit", "fast", "rate_limit must be a rate"),
        ("max_retries", -1, "max_retries must be a whole number"),
        ("throws", ValueError, "throws must be a tuple of exception types"),
        (
            "soft_time_limit",
            20,
            r"task proj\.add: soft_time_limit \(20 s\) must not be longer than time_limit \(10 s\)",
        ),
        ("bind", True, r"task proj\.add: bind stands in its declaration and can't be changed later"),
        ("name", "sums.add", "name stands in its declaration"),
        ("run", "process", "run stands in its declaration"),
        ("shadow_name", "other", "shadow_name stands in its declaration"),
    ],
)
def test_an_impossible_value_is_refused_and_changes_nothing(name: str, given: Any, error: str) -> None:
    task = make().task(name="proj.add", time_limit=10)(add)
    before = task.declared

    with pytest.raises(InvalidOption, match=error):
        setattr(task, name, given)

    assert task.declared is before


def test_a_hard_limit_can_not_be_given_to_a_thread_later_either() -> None:
    task = make().task(plain)

    with pytest.raises(InvalidOption, match="a thread can't be stopped"):
        task.time_limit = 5


@pytest.mark.parametrize("wrong", [{"soft_time_limit": 3, "time_limit": 2}, {"soft_time_limit": 2.5, "time_limit": 2}])
async def test_a_soft_limit_behind_the_hard_one_is_refused(wrong: dict[str, Any]) -> None:
    app = make()
    task = app.task(add)

    with pytest.raises(InvalidOption, match="must not be longer than time_limit"):
        app.task(name="other", **wrong)(add)
    async with app:
        with pytest.raises(InvalidOption, match="must not be longer than time_limit"):
            await task.apply_async((1,), **wrong)


def test_a_declaration_may_say_none_where_the_settings_speak() -> None:
    app = make(task_default_rate_limit="5/s")
    said = {each.name: None for each in fields(TaskOptions) if each.default is None}

    task: Any = app.task(name=None, **said)(add)  # type: ignore[call-overload]

    assert task.declared == TaskOptions()
    with pytest.raises(InvalidOption, match="trail must be true or false, not None"):
        app.task(name="other", trail=None)  # type: ignore[call-overload]


async def test_an_option_of_a_call_that_is_none_says_nothing() -> None:
    app = make()
    task: Any = app.task(queue="sums", priority=7)(add)
    nothing: Any = dict.fromkeys(CALL_OPTIONS)
    later = datetime.now(UTC) + timedelta(days=1)

    async with app:
        for result in (
            await task.apply_async((1,), None, **nothing),
            await task.apply_async([1], **{**nothing, "eta": later}),
            await task.options(**nothing).delay(1),
            await task.signature((1,), **nothing).apply_async(),
            await app.send_task(task.name, (1,), None, **nothing),
        ):
            assert result.id
        assert await (await task.apply((1,), **nothing)).get() == 3
        stats = await app.admin.queues(["sums"])
    assert [(each.name, each.ready, each.delayed) for each in stats] == [("sums", 4, 1)]


async def test_no_arguments_may_be_written_as_none() -> None:
    app = make()
    task = app.task(add)

    assert await (await task.apply(None, {"x": 1})).get() == 3
    async with app:
        with pytest.raises(InvalidArguments, match="missing a required argument: 'x'"):
            await task.apply_async(None)
        wrong: Any = [("x", 1)]
        for call in (task.apply_async, task.apply):
            with pytest.raises(InvalidArguments, match=r"attributes\.add|kwargs must be a mapping of names to values"):
                await call((), wrong)
        letters: Any = "ab"
        with pytest.raises(InvalidArguments, match="args must be a list or tuple, not a str"):
            await task.apply_async(letters, link=task.s())


def test_the_current_task_takes_no_attributes_for_whoever_comes_next() -> None:
    with pytest.raises(AttributeError):
        current_task.max_retries = 5  # type: ignore[attr-defined]


async def test_what_celery_has_on_a_task_is_there() -> None:
    app = make()
    task = app.task(add)

    assert issubclass(OperationalError, task.OperationalError)
    assert task.MaxRetriesExceededError is MaxRetriesExceededError
    async with app, app.worker():
        sent = await task.delay(1)
        assert await task.AsyncResult(sent.id).get(timeout=10) == 3


async def test_a_call_is_run_here_as_though_it_had_been_retried() -> None:
    app = make()

    @app.task(bind=True, max_retries=3, default_retry_delay=0)
    async def fails(self: Any) -> int:
        if self.request.retries == 3:
            return 3
        raise self.retry()

    assert await (await fails.apply(retries=3)).get() == 3
    assert await (await fails.apply(retries=1)).get() == 3
    with pytest.raises(MaxRetriesExceededError):
        await fails.apply(retries=4, throw=True)
    wrong: Any
    for wrong in (-1, "1", True, None):
        with pytest.raises(InvalidOption, match="retries must be a whole number, 0 or more"):
            await fails.apply(retries=wrong)
    with pytest.raises(InvalidOption, match="not both"):
        await fails.apply(retries=1, link=fails.s())


async def test_only_what_runs_tells_its_state() -> None:
    app = make()
    refused: list[str] = []

    @app.task(bind=True)
    async def tells(self: Any) -> None:
        await self.update_state(task_id=self.request.id, state="HALF", meta=1)
        for wrong in ({"task_id": "other", "state": "X"}, {"state": ""}, {"state": 5}, {"state": "SUCCESS"}):
            try:
                await self.update_state(**wrong)
            except CallError as exc:
                refused.append(str(exc))

    seen: list[Any] = []
    async with app, app.worker():
        await (await tells.delay()).get(timeout=10, on_message=lambda update: seen.append(update["status"]))
    assert seen[-2:] == ["HALF", "SUCCESS"]
    assert [text.partition(": ")[2] for text in refused if text.startswith(f"{tells.name}.update_state: ")] == [
        "other is not the running call, and only that can change its state",
        "a state is a string of 1 to 255 printable characters, not ''",
        "a state is a string of 1 to 255 printable characters, not 5",
    ]
    assert len(refused) == 4


async def test_a_calls_name_in_logs_may_be_said_as_in_celery() -> None:
    app = make()

    def of_call(args: Any, kwargs: Any, options: Any) -> str:
        return f"add {args[0]}"

    def of_task_and_call(task: Any, args: Any, kwargs: Any, options: Any) -> str:
        return f"{task.name} {args[0]}"

    ours: Any = app.task(name="ours", shadow_name=of_call)(add)
    celerys: Any = app.task(name="celerys", shadow_name=of_task_and_call)(add)

    assert ours.declared.shadow_name([1], {}, {}) == "add 1"
    assert celerys.declared.shadow_name([1], {}, {}) == "celerys 1"
    celerys.priority = 3
    assert celerys.declared.shadow_name([1], {}, {}) == "celerys 1"
    wrong: Any
    for wrong in (lambda: "", lambda args: "", lambda *, args: "", "name"):
        with pytest.raises(InvalidOption, match="shadow_name must be a function of args, kwargs and options, or of"):
            app.task(shadow_name=wrong)
