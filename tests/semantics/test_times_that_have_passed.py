"""A countdown or an expiry below 0 is a time that has passed, as an eta in the past is; both can be a timedelta."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from aiotq import AioTQ, Task, TaskRevokedError, chain, group


@pytest.fixture
def add(app: AioTQ) -> Task[[int, int], int]:
    @app.task(name="times.add")
    async def add(x: int, y: int) -> int:
        return x + y

    return add


@pytest.mark.parametrize("countdown", [-0.01, -(10**12), timedelta(seconds=-5), timedelta(seconds=0.05)])
async def test_a_countdown_that_has_passed_is_due_at_once(
    app: AioTQ, add: Task[[int, int], int], countdown: float | timedelta
) -> None:
    async with app, app.worker():
        result = await add.apply_async((1, 1), countdown=countdown)
        assert await result.get(timeout=10) == 2


@pytest.mark.parametrize("expires", [-0.01, 0, timedelta(seconds=-5), -(10**12)])
async def test_a_call_whose_expiry_has_passed_ends_as_revoked(
    app: AioTQ, add: Task[[int, int], int], expires: float | timedelta
) -> None:
    async with app, app.worker():
        result = await add.options(expires=expires).delay(1, 1)
        with pytest.raises(TaskRevokedError):
            await result.get(timeout=10)


async def test_a_timedelta_that_lasts_lets_the_call_run(app: AioTQ, add: Task[[int, int], int]) -> None:
    async with app, app.worker():
        result = await add.options(expires=timedelta(minutes=1)).delay(1, 1)
        assert await result.get(timeout=10) == 2


@pytest.mark.parametrize("wait", [-0.2, timedelta(seconds=0.05)])
async def test_a_retry_takes_them_too(app: AioTQ, wait: float | timedelta) -> None:
    @app.task(bind=True, name="times.again")
    async def again(self: Task[..., Any]) -> int:
        if not self.request.retries:
            raise self.retry(countdown=wait, expires=timedelta(minutes=1))
        return self.request.retries

    async with app, app.worker():
        assert await (await again.delay()).get(timeout=10) == 1


async def test_later_steps_of_a_workflow_take_them_too(app: AioTQ, add: Task[[int, int], int]) -> None:
    @app.task(name="times.total")
    async def total(values: list[int]) -> int:
        return sum(values)

    soon = total.s().set(countdown=-1, expires=timedelta(minutes=1))
    passed = total.s().set(countdown=timedelta(seconds=0), expires=-1)
    async with app, app.worker():
        sums = await chain(group(add.s(1, 1), add.s(2, 2)), soon).delay()
        assert await sums.get(timeout=10) == 6
        revoked = await chain(group(add.s(1, 1), add.s(2, 2)), passed).delay()
        with pytest.raises(TaskRevokedError):
            await revoked.get(timeout=10)
