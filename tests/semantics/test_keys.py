"""Calls that have a key: unique ones, bursts of which the last counts, the first in a time, and idempotency keys."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from aiotq import AioTQ, Debounce, DuplicateCall, Limit, RateLimit, Throttle, Unique, chord, group
from aiotq.exceptions import InvalidOption

from ..waiting import wait_until
from .conftest import MakeApp
from .test_max_concurrency import Crowd


async def test_of_the_calls_with_one_key_there_is_one_until_it_is_done(make_app: MakeApp) -> None:
    app, other = make_app(), make_app()
    crowd = Crowd()

    async def sync(user: str, again: bool = False) -> str:
        await crowd.enter()
        return f"{user} {again}"

    task, others = (
        each.task(name="sync", unique=Unique(by="user"), default_retry_delay=0, autoretry_for=())(sync)
        for each in (app, other)
    )

    async with app, other, app.worker():
        first, second = await task.delay("ann"), await others.delay("ann", True)
        assert (first.id, (await others.delay("bob")).id == first.id) == (second.id, False)
        with pytest.raises(DuplicateCall, match=first.id) as caught:
            await task.options(unique=Unique(by="user", on_conflict="reject")).delay(user="ann")
        assert caught.value.task_id == first.id
        rejecting = task.s("ann").set(unique=Unique(by="user", on_conflict="reject"))
        with pytest.raises(DuplicateCall, match=first.id):
            await app.send_many([rejecting, task.s("bob")])
        crowd.go_on.set()
        assert await second.get(timeout=20) == "ann False"

        assert await (await task.delay("ann", True)).get(timeout=20) == "ann True"
    assert crowd.runs == 3


async def test_runs_of_one_key_are_never_two_at_once_however_they_came(make_app: MakeApp) -> None:
    """Steps of workflows are always sent; a call that has started, or whose time is over, frees its key."""
    app, other = make_app(), make_app()
    crowd = Crowd()

    async def sync(user: str) -> None:
        await crowd.enter()
        await asyncio.sleep(0.005)

    (task, _) = (each.task(name="sync", unique=Unique(until="started"))(sync) for each in (app, other))

    async with app, other, app.worker(), other.worker():
        results = [await task.delay("ann")]
        await wait_until(lambda: crowd.now == 1, "one runs")
        results += [await task.delay("ann"), await task.delay("ann")]
        whole = await group(task.s("ann"), task.s("ann")).delay()
        crowd.go_on.set()
        await whole.get(timeout=20)
        for each in results:
            await each.get(timeout=20)
    assert len({each.id for each in results}) == 2
    assert (crowd.runs, crowd.most) == (4, 1)


async def test_a_retry_and_a_failure_keep_and_free_the_key(app: AioTQ) -> None:
    going_on = asyncio.Event()
    tries: list[str] = []

    @app.task(bind=True, unique=Unique(), max_retries=1, default_retry_delay=0.01)
    async def sync(self: Any, user: str) -> None:
        tries.append(self.request.id)
        if self.request.retries:
            await going_on.wait()
        raise self.retry(headers={"mine": 1}, exc=ValueError(user))

    async with app, app.worker():
        first = await sync.delay("ann")
        await wait_until(lambda: len(tries) == 2, "it is retried")
        assert (await sync.delay("ann")).id == first.id
        going_on.set()
        with pytest.raises(ValueError, match="ann"):
            await first.get(timeout=20)
        assert (await sync.delay("ann")).id != first.id


async def test_a_call_that_waits_is_replaced(app: AioTQ) -> None:
    crowd, seen = Crowd(), list[int]()

    @app.task(unique=Unique(by="user", until="started", on_conflict="replace"))
    async def sync(user: str, number: int) -> int:
        seen.append(number)
        await crowd.enter()
        return number

    async with app:
        waiting = [await sync.delay("ann", number) for number in range(3)]
        async with app.worker():
            await wait_until(lambda: seen == [2], "the last one runs")
            later = [await sync.delay("ann", number) for number in (3, 4)]
            crowd.go_on.set()
            assert [await each.get(timeout=20) for each in (*waiting, *later)] == [2, 2, 2, 4, 4]


async def test_a_burst_runs_once_as_its_last_call_says(app: AioTQ) -> None:
    ran: list[int] = []

    @app.task(debounce=Debounce(0.3, by="document"))
    async def index(document: str, revision: int) -> int:
        ran.append(revision)
        return revision

    async with app:
        burst = [await index.delay("d", revision) for revision in range(5)]
        async with app.worker():  # not before: a machine may be slower than the burst
            limited = await index.options(debounce=Debounce(0.05, by="document", max_wait=0.1)).delay("e", 10)
            assert [await each.get(timeout=20) for each in burst] == [4] * 5
            assert await limited.get(timeout=20) == 10
            assert await (await index.delay("d", 5)).get(timeout=20) == 5
            with pytest.raises(InvalidOption, match="countdown"):
                await index.options(countdown=1).delay("d", 6)
    assert sorted(ran) == [4, 5, 10]


async def test_a_key_is_refused_where_it_could_not_be_kept(app: AioTQ) -> None:
    """Steps and callbacks are always sent; another key would let runs of a unique task be two at once."""

    @app.task(unique=Unique())
    async def sync(user: str) -> None: ...

    @app.task
    async def plain() -> None: ...

    keys: list[dict[str, Any]] = [{"unique": Unique()}, {"debounce": 5}, {"throttle": 5}, {"idempotency_key": "a"}]
    async with app:
        for key in keys:
            keyed = plain.si().set(**key)
            for whole in (keyed | plain.si(), plain.si() | keyed, group(keyed, plain.si()), chord([plain.si()], keyed)):
                with pytest.raises(InvalidOption, match="stands alone"):
                    await whole.delay()
            with pytest.raises(InvalidOption, match="stands alone"):
                await plain.options(link=keyed).delay()
            if "unique" not in key:
                with pytest.raises(InvalidOption, match="one key"):
                    await sync.options(**key).delay("ann")
        assert all(not queue.ready for queue in await app.admin.queues())


async def test_the_first_call_in_a_time_counts_and_an_idempotency_key_is_remembered(app: AioTQ) -> None:
    ran: list[str] = []

    @app.task(throttle=Throttle(60, by="user"))
    async def remind(user: str, text: str) -> str:
        ran.append(text)
        return text

    @app.task
    async def pay(order: int) -> str:
        ran.append(f"paid {order}")
        return f"paid {order}"

    async with app, app.worker():
        reminded = await app.send_many(remind.s("ann", text) for text in ("first", "second"))
        paid = [await pay.options(idempotency_key="order-1").delay(1) for _ in range(2)]
        assert await reminded.get(timeout=20) == ["first", "first"]
        assert [await each.get(timeout=20) for each in paid] == ["paid 1"] * 2
        again = await pay.options(idempotency_key="order-1").delay(1)
        assert await again.get(timeout=20) == "paid 1"
        other = await pay.options(idempotency_key="order-2").delay(2)
        assert await other.get(timeout=20) == "paid 2"
    assert sorted(ran) == ["first", "paid 1", "paid 2"]


async def test_runs_at_once_are_limited_by_key_and_across_tasks_that_share_a_name(make_app: MakeApp) -> None:
    app, other = make_app(), make_app()
    crowds = {"a": Crowd(), "b": Crowd()}

    async def use(database: str) -> None:
        await crowds[database].enter()

    one_each = Limit(1, key="database", name="databases")
    read, write, *_ = (
        each.task(name=name, max_concurrency=wanted)(use)
        for each in (app, other)
        for name, wanted in (("read", (one_each, Limit(5))), ("write", one_each))
    )

    async with app, other, app.worker(), other.worker():
        results = await app.send_many(task.s(name) for name in "aab" for task in (read, write))
        await wait_until(lambda: all(crowd.now for crowd in crowds.values()), "each database is used")
        for crowd in crowds.values():
            crowd.go_on.set()
        await results.get(timeout=30)
    assert [(crowd.most, crowd.runs) for crowd in crowds.values()] == [(1, 4), (1, 2)]


async def test_starts_are_limited_by_key_with_bursts(app: AioTQ) -> None:
    started: list[str] = []

    @app.task(rate_limit=(RateLimit(1000), RateLimit("1/h", key=lambda account, n: account, burst=2)))
    async def ask(account: str, n: int) -> None:
        started.append(account)

    @app.task
    async def plain() -> str:
        return "the others wait in the broker"

    with pytest.raises(InvalidOption, match="none of its parameters"):
        app.task(name="wrong", rate_limit=RateLimit("1/h", key="acount"))(ask.fn)
    async with app, app.worker():
        await app.send_many(ask.s(account, n) for account in "ab" for n in range(3))

        await wait_until(lambda: sorted(started) == ["a", "a", "b", "b"], "two of each have started")
        assert await (await plain.delay()).get(timeout=20) == "the others wait in the broker"
    assert len(started) == 4
