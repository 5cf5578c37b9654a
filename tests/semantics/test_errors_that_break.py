"""A task may raise an error whose own methods fail: it ends, or is tried again, as with any other."""

from __future__ import annotations

from typing import Any

import pytest

from aiotq import AioTQ, Task
from aiotq.exceptions import DeadLettered


class BrokenText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class BrokenReduce(OSError):
    def __reduce__(self) -> Any:
        raise RuntimeError("not this one")


class BrokenArguments(Exception):
    @property
    def args(self) -> Any:  # type: ignore[override]  # pyright: ignore[reportIncompatibleVariableOverride]
        raise RuntimeError("no arguments here")


class BrokenTruth(Exception):
    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")


BROKEN = [BrokenText, BrokenReduce, BrokenArguments, BrokenTruth]


@pytest.mark.parametrize("kind", BROKEN)
async def test_it_is_the_tasks_failure(app: AioTQ, kind: type[Exception]) -> None:
    @app.task
    async def on_the_loop() -> None:
        raise kind("disk")

    @app.task
    def in_a_thread() -> None:
        raise kind("disk")

    async with app, app.worker():
        for task in (on_the_loop, in_a_thread):
            result = await task.delay()
            error = await result.get(timeout=10, propagate=False)
            assert not isinstance(error, DeadLettered)
            assert kind.__name__ in f"{type(error).__name__} {await result.traceback()}"
            assert "raise kind" in str(await result.traceback())


@pytest.mark.parametrize("kind", BROKEN)
async def test_it_is_tried_again_and_may_be_the_reason_of_a_retry(app: AioTQ, kind: type[Exception]) -> None:
    @app.task(bind=True, autoretry_for=(kind,), retry_kwargs={"countdown": 0})
    async def by_itself(self: Task[..., Any]) -> int:
        if not self.request.retries:
            raise kind("disk")
        return self.request.retries

    @app.task(bind=True)
    async def as_it_asks(self: Task[..., Any]) -> int:
        if not self.request.retries:
            raise self.retry(exc=kind("disk"), countdown=0)
        return self.request.retries

    async with app, app.worker():
        for task in (by_itself, as_it_asks):
            assert await (await task.delay()).get(timeout=10) == 1


@pytest.mark.parametrize("kind", BROKEN)
async def test_it_is_the_failure_of_an_eager_call(app: AioTQ, kind: type[Exception]) -> None:
    @app.task
    async def fails() -> None:
        raise kind("disk")

    result = await fails.apply()

    assert type(await result.get(propagate=False)) is kind
