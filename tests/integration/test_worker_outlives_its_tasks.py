"""Whatever a task raises or returns is its end, and the worker goes on (P5)."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest

from aiotq import (
    AioTQ,
    AsyncResult,
    RemoteError,
)
from aiotq.exceptions import (
    AioTQError,
    EncodeError,
    MessageTooLarge,
    OperationalError,
    TaskRevokedError,
    WorkerLostError,
)

from .memory_work import make_app, works


@pytest.fixture
def app() -> AioTQ:
    return make_app()


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
