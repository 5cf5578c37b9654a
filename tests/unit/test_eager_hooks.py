"""Calls that run where they are made have round them what runs in a worker have: signals, middleware, handlers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from aiotq import AioTQ, Ignore, Middleware, Reject, Task, chain, signals
from aiotq.calling.middleware import Running, RunningCall

TOLD = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "task_rejected")


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """The names of the signals of running as they come, with the state of those that have one."""
    heard: list[Any] = []

    def note(signal: signals.Signal, sender: Any, **more: Any) -> None:
        heard.append((signal.name, more["state"]) if "state" in more else signal.name)

    for name in TOLD:
        getattr(signals, name).connect(note, weak=False, dispatch_uid="eager")
    yield heard
    for name in TOLD:
        getattr(signals, name).disconnect(dispatch_uid="eager")


@pytest.fixture
def app() -> AioTQ:
    return AioTQ("proj", broker="memory://", task_always_eager=True)


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        (None, ["task_success", ("task_postrun", "SUCCESS")]),
        (ValueError("no"), ["task_failure", ("task_postrun", "FAILURE")]),
        (Ignore(), [("task_postrun", "IGNORED")]),
        (Reject("bad"), ["task_rejected", ("task_postrun", "REJECTED")]),
    ],
)
async def test_signals_of_running_are_told(app: AioTQ, told: list[Any], ending: Any, expected: list[Any]) -> None:
    @app.task
    async def step() -> None:
        if ending is not None:
            raise ending

    await step.delay()
    await step.apply()

    assert told == ["task_prerun", *expected] * 2


async def test_each_try_is_a_run_of_its_own(app: AioTQ, told: list[Any]) -> None:
    @app.task(autoretry_for=(OSError,))
    async def step() -> None:
        raise OSError

    @app.task(bind=True)
    async def once_more(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(max_retries=1)

    await once_more.delay()
    assert told == [
        *("task_prerun", "task_retry", ("task_postrun", "RETRY")),
        *("task_prerun", "task_success", ("task_postrun", "SUCCESS")),
    ]
    told.clear()
    await step.delay()
    assert told.count("task_retry") == 3
    assert told[-2:] == ["task_failure", ("task_postrun", "FAILURE")]


async def test_each_step_of_a_workflow_and_each_call_inside_a_run_is_told(app: AioTQ, told: list[Any]) -> None:
    @app.task
    async def inner(x: int) -> int:
        return x + 1

    @app.task
    async def outer(x: int) -> int:
        return int(await (await inner.delay(x)))

    assert await (await chain(inner.s(1), outer.s()).delay()) == 3

    run = ["task_prerun", "task_success", ("task_postrun", "SUCCESS")]
    assert told == [*run, "task_prerun", *run, *run[1:]]


async def test_middleware_stands_round_a_run_and_may_change_it(app: AioTQ) -> None:
    class Doubling(Middleware):
        async def run(self, call: RunningCall, forward: Running) -> Any:
            (x,) = call.request.args
            return await forward(call.with_arguments(x * 2)) + 0.5

    app.add_middleware(Doubling())

    @app.task
    async def same(x: int) -> int:
        return x

    @app.task
    def in_thread(x: int) -> int:
        return x

    assert await (await same.apply((2,))) == await (await in_thread.delay(2)) == 4.5


async def test_handlers_of_a_task_class_are_called(app: AioTQ) -> None:
    calls: list[str] = []

    class Noting(Task[..., Any]):
        async def before_start(self, *args: Any, **kwargs: Any) -> None:
            calls.append("before_start")

        def on_success(self, *args: Any, **kwargs: Any) -> None:
            calls.append("on_success")

        def on_failure(self, *args: Any, **kwargs: Any) -> None:
            calls.append("on_failure")

        def after_return(self, *args: Any, **kwargs: Any) -> None:
            calls.append("after_return")

    @app.task(base=Noting)
    async def step(fails: bool) -> None:
        if fails:
            raise ValueError

    await step.delay(False)
    await step.apply((True,))

    assert calls == [*("before_start", "on_success", "after_return"), *("before_start", "on_failure", "after_return")]


async def test_what_a_receiver_raises_changes_nothing(app: AioTQ) -> None:
    def fail(**_: Any) -> None:
        raise ValueError("a receiver's own")

    @app.task
    async def step() -> str:
        return "ran"

    signals.task_prerun.connect(fail, weak=False, dispatch_uid="fails")
    try:
        assert await (await step.delay()) == "ran"
    finally:
        signals.task_prerun.disconnect(dispatch_uid="fails")
