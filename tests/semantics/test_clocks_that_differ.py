"""Until when a call may start goes by the server's clock, whatever the clocks of its sender and its worker say."""

from __future__ import annotations

from typing import Any, Final

import pytest

from aiotq import AioTQ, Task, TaskRevokedError, chain, group
from aiotq.core.clock import SystemClock

from .conftest import MakeApp

BROKERS_HERE = ("redis", "rabbitmq")

HOUR: Final = 3600.0


class Off(SystemClock):
    """A clock that is so many seconds off."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def time(self) -> float:
        return super().time() + self.seconds


def declared(app: AioTQ) -> Task[[int, int], int]:
    @app.task(name="clocks.add")
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="clocks.total")
    async def total(values: list[int]) -> int:
        return sum(values)

    return add


@pytest.mark.parametrize(("ours", "theirs"), [(-HOUR, 0.0), (HOUR, 0.0), (0.0, HOUR), (-HOUR, HOUR)])
async def test_a_call_runs_before_its_expiry_and_not_after_it(make_app: MakeApp, ours: float, theirs: float) -> None:
    sender, worker = make_app(clock=Off(ours)), make_app(clock=Off(theirs))
    add = declared(sender)
    declared(worker)

    async with sender, worker, worker.worker():
        in_time = await add.apply_async((1, 2), expires=60)
        later = await chain(group(add.s(1, 1), add.s(2, 2)), sender.signature("clocks.total").set(expires=60)).delay()
        too_late = await add.apply_async((1, 2), expires=-1)

        assert await in_time.get(timeout=10) == 3
        assert await later.get(timeout=10) == 6
        with pytest.raises(TaskRevokedError):
            await too_late.get(timeout=10)


async def test_a_retry_and_a_task_that_is_called_by_its_name_go_by_it_too(make_app: MakeApp) -> None:
    sender, worker = make_app(clock=Off(-HOUR)), make_app(clock=Off(HOUR))

    @worker.task(name="clocks.again", bind=True)
    async def again(self: Task[..., Any]) -> int:
        if not self.request.retries:
            raise self.retry(countdown=0, expires=60)
        return self.request.retries

    @worker.task(name="clocks.expiring", expires=60)
    async def expiring() -> str:
        return "ran"

    async with sender, worker, worker.worker():
        assert await (await sender.send_task("clocks.again")).get(timeout=10) == 1
        assert await (await sender.send_task("clocks.expiring")).get(timeout=10) == "ran"
