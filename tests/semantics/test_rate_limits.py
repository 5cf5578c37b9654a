"""Rate limits: they hold for all workers together, and whoever waits does so in the broker."""

from __future__ import annotations

import time
from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.core.schedules import seconds_apart
from aiotq.exceptions import InvalidOption, InvalidSetting
from aiotq.results.decisions import BOOKING_GRACE

from ..waiting import wait_until
from .conftest import MakeApp


async def test_starts_are_as_far_apart_as_the_limit_says_in_two_workers(make_app: MakeApp) -> None:
    app, other = make_app(), make_app()
    starts: list[float] = []

    async def limited() -> None:
        starts.append(time.time())

    tasks = [each.task(name="limited", rate_limit="20/s")(limited) for each in (app, other)]

    async with app, other, app.worker(), other.worker():
        await (await app.send_many(tasks[0].s() for _ in range(20))).get(timeout=20)
    starts.sort()
    assert len(starts) == 20
    assert starts[-1] - starts[0] >= 19 * 0.05 - BOOKING_GRACE  # one may be late, and the next one on time


async def test_a_start_is_not_spent_by_waiting_for_a_slot(app: AioTQ) -> None:
    starts: list[float] = []

    @app.task(rate_limit="5/s")
    def limited() -> None:
        starts.append(time.time())

    @app.task
    def blocks() -> None:
        time.sleep(0.7)

    async with app, app.worker(threads=1):
        await blocks.delay()
        results = await app.send_many(limited.s() for _ in range(4))
        await results.get(timeout=20)
    assert starts[-1] - starts[0] >= 3 * 0.2 - BOOKING_GRACE


async def test_others_run_while_a_limited_task_waits(app: AioTQ) -> None:
    @app.task(rate_limit="1/h")
    async def rare() -> None: ...

    @app.task
    async def common() -> str:
        return "now"

    async with app, app.worker(concurrency=1) as worker:
        await app.send_many(rare.s() for _ in range(5))
        assert await (await common.delay()).get(timeout=10) == "now"
        transport = (await core_of(app).connection()).broker

        async def four_wait() -> bool:
            stats = await transport.stats()
            return [sum(getattr(each, what) for each in stats) for what in ("delayed", "leased", "ready")] == [4, 0, 0]

        await wait_until(four_wait, "four wait in the broker")
        assert worker.running == 0


async def test_the_setting_limits_tasks_that_say_nothing(make_app: MakeApp) -> None:
    app = make_app(task_default_rate_limit="10/s")
    starts: dict[str, list[float]] = {"slow": [], "free": []}

    @app.task
    async def slow() -> None:
        starts["slow"].append(time.time())

    @app.task(rate_limit=0)
    async def free() -> None:
        starts["free"].append(time.time())

    async with app, app.worker():
        results = await app.send_many([slow.s(), free.s(), slow.s(), free.s()])
        await results.get(timeout=10)
    assert starts["slow"][1] - starts["slow"][0] >= 0.09


@pytest.mark.parametrize(
    ("rate", "seconds"), [("100/m", 0.6), ("5/h", 720), ("2/s", 0.5), ("4", 0.25), (10, 0.1), (0.5, 2), (0, None)]
)
def test_rates_are_read_as_celery_writes_them(rate: Any, seconds: float | None) -> None:
    assert seconds_apart(rate) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("rate", ["fast", "10/d", "-1/s", "", -1, "1/0", float("nan"), float("inf")])
def test_what_is_no_rate_is_refused_at_the_declaration(rate: Any) -> None:
    app = AioTQ("x", broker="memory://")
    with pytest.raises(InvalidOption, match="rate_limit must be a rate"):
        app.task(rate_limit=rate)
    if isinstance(rate, str):
        with pytest.raises(InvalidSetting):
            app.conf.update(task_default_rate_limit=rate)
