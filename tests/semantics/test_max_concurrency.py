"""Tasks of which only so many run at once: in all workers together, and who waits does so in the broker."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from aiotq import AioTQ
from aiotq.core.inside import core_of
from aiotq.exceptions import InvalidOption, TaskRevokedError

from ..waiting import wait_until
from .conftest import MakeApp


class Crowd:
    """Counts who is in, and how many there were at most."""

    def __init__(self) -> None:
        self.now = self.most = self.runs = 0
        self.go_on = asyncio.Event()

    async def enter(self) -> None:
        self.now += 1
        self.runs += 1
        self.most = max(self.most, self.now)
        await self.go_on.wait()
        self.now -= 1


async def counts(app: AioTQ) -> list[int]:
    stats = await (await core_of(app).connection()).broker.stats()
    return [sum(getattr(each, what) for each in stats) for what in ("ready", "leased", "delayed")]


async def test_two_workers_run_no_more_than_that_together_and_all_run_in_the_end(make_app: MakeApp) -> None:
    app, other = make_app(), make_app()
    crowd = Crowd()

    async def few() -> None:
        await crowd.enter()
        await asyncio.sleep(0.01)

    tasks = [each.task(name="few", max_concurrency=3)(few) for each in (app, other)]

    async with app, other, app.worker(), other.worker():
        results = await app.send_many(tasks[0].s() for _ in range(12))
        await wait_until(lambda: crowd.now == 3, "three run")
        crowd.go_on.set()
        await results.get(timeout=20)
    assert (crowd.most, crowd.runs) == (3, 12)


async def test_who_waits_leaves_the_worker_to_others(app: AioTQ) -> None:
    crowd = Crowd()

    @app.task(max_concurrency=1)
    async def alone() -> None:
        await crowd.enter()

    @app.task
    async def common() -> str:
        return "now"

    async with app, app.worker(concurrency=2) as worker:
        results = await app.send_many(alone.s() for _ in range(6))
        assert await (await common.delay()).get(timeout=10) == "now"

        async def five_wait() -> bool:
            return (await counts(app))[::2] == [0, 5] and worker.running == 1

        await wait_until(five_wait, "five wait in the broker")
        crowd.go_on.set()
        await results.get(timeout=20)
    assert crowd.most == 1


async def test_one_that_fails_retries_or_is_revoked_gives_its_seat_back(app: AioTQ) -> None:
    ran: list[str] = []

    @app.task(max_concurrency=1, bind=True, default_retry_delay=0)
    async def alone(self: Any, how: str) -> str:
        ran.append(how)
        if how == "fails":
            raise ValueError(how)
        if how == "retries" and not self.request.retries:
            raise self.retry()
        if how == "hangs":
            await asyncio.Event().wait()
        return how

    async with app, app.worker():
        results = [await alone.delay(how) for how in ("fails", "retries", "hangs", "last")]
        await wait_until(lambda: "hangs" in ran, "one hangs")
        await results[2].revoke(terminate=True)
        assert await results[3].get(timeout=20) == "last"
        assert await results[1].get(timeout=20) == "retries"
        assert [await each.state() for each in results[::2]] == ["FAILURE", "REVOKED"]


async def test_what_is_acknowledged_before_it_runs_keeps_its_seat_while_it_runs(app: AioTQ) -> None:
    crowd = Crowd()

    @app.task(max_concurrency=1, acks_late=False)
    async def alone() -> None:
        await crowd.enter()

    async with app, app.worker():
        results = await app.send_many(alone.s() for _ in range(3))

        async def two_wait() -> bool:
            return (await counts(app))[::2] == [0, 2] and crowd.now == 1

        await wait_until(two_wait, "two wait")
        crowd.go_on.set()
        await results.get(timeout=20)
    assert (crowd.most, crowd.runs) == (1, 3)


async def test_functions_in_threads_are_counted_too(app: AioTQ) -> None:
    running: list[int] = []
    most: list[int] = []

    @app.task(max_concurrency=2)
    def few() -> None:
        running.append(1)
        most.append(len(running))
        time.sleep(0.02)
        running.pop()

    async with app, app.worker(threads=6):
        await (await app.send_many(few.s() for _ in range(12))).get(timeout=20)
    assert max(most) == 2


async def test_seats_of_a_worker_that_stops_are_anothers_at_once(make_app: MakeApp) -> None:
    app, other = make_app(worker_lease=60.0), make_app(worker_lease=60.0)
    crowd = Crowd()
    interrupted = asyncio.Event()

    async def alone() -> str:
        try:
            await crowd.enter()
        except asyncio.CancelledError:
            interrupted.set()
            raise
        return "done"

    tasks = [each.task(name="alone", max_concurrency=1)(alone) for each in (app, other)]

    async with app, other:
        async with app.worker(grace=0):
            results = await app.send_many(tasks[0].s() for _ in range(2))
            await wait_until(lambda: crowd.now == 1, "one runs")
        assert interrupted.is_set()
        crowd.go_on.set()
        async with other.worker():
            assert await results.get(timeout=20) == ["done", "done"]


async def test_one_that_expires_while_it_waits_ends_then(app: AioTQ) -> None:
    crowd = Crowd()

    @app.task(max_concurrency=1)
    async def alone() -> None:
        await crowd.enter()

    async with app, app.worker():
        first = await alone.delay()
        await wait_until(lambda: crowd.now == 1, "one runs")
        late = await alone.apply_async(expires=0.3)
        with pytest.raises(TaskRevokedError):
            await late.get(timeout=10)
        assert crowd.runs == 1
        crowd.go_on.set()
        await first.get(timeout=10)


@pytest.mark.parametrize("given", [0, -1, 1.5, "2", True])
def test_what_is_no_number_of_runs_is_refused_at_the_declaration(given: Any) -> None:
    app = AioTQ("x", broker="memory://")
    with pytest.raises(InvalidOption, match="max_concurrency must be a whole number, 1 or more"):
        app.task(max_concurrency=given)
