"""Long tasks go on where they were, in whichever worker the call runs next."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from aiotq import AioTQ, Task
from aiotq.exceptions import CallError

from ..waiting import wait_until
from .conftest import NOT_ON_RABBITMQ

BROKERS_HERE = NOT_ON_RABBITMQ
FIRST = datetime(2026, 1, 1, tzinfo=UTC)


async def test_a_call_that_is_handed_back_goes_on_behind_the_last_finished_row(app: AioTQ) -> None:
    """Of 40 rows that under way at the stop runs twice, and no other; so does a retry; the second cursor is its own."""
    rows: list[int] = []
    asked: list[datetime | None] = []
    stuck = asyncio.Event()
    again = iter([True])

    def behind(last: datetime | None) -> Iterator[dict[str, Any]]:
        asked.append(last)
        days = 0 if last is None else (last - FIRST).days + 1
        return iter([{"at": FIRST + timedelta(days=day)} for day in range(days, 20)])

    async def numbers() -> AsyncIterator[int]:
        for number in range(20, 40):
            yield number

    @app.task(name="long.rows", bind=True, max_retries=1, default_retry_delay=0)
    async def walk(self: Task[..., Any]) -> int:
        async for row in self.cursor(behind, key="at"):
            day = (row["at"] - FIRST).days
            rows.append(day)
            if day == 7 and rows.count(7) == 1:
                await stuck.wait()
        async for number in self.cursor(numbers(), key=lambda number: number):
            rows.append(number)
            if number == 30 and next(again, False):
                raise self.retry()
        return self.request.retries

    async with app:
        async with app.worker(grace=0.05):
            handle = await walk.delay()
            await wait_until(lambda: 7 in rows, "a row is under way")
        async with app.worker():
            assert await handle.get(timeout=20) == 1

    assert rows == [*range(8), *range(7, 31), *range(30, 40)]
    assert asked == [None, FIRST + timedelta(days=6)]


async def test_what_was_kept_goes_with_the_result(app: AioTQ) -> None:
    found: list[Any] = []

    @app.task(name="long.kept", bind=True)
    async def kept(self: Task[..., Any], state: Any) -> None:
        found.append(await self.restored("nothing"))
        await self.checkpoint(state)
        assert await self.restored() == state

    async with app, app.worker():
        for state in ({"a": 1}, {"b": (1, 2)}):
            handle = await kept.options(task_id="long.1").delay(state)
            await handle.get(timeout=10)
            await handle.forget()

    assert found == ["nothing", "nothing"]


async def test_what_a_cursor_can_not_be_is_told(app: AioTQ) -> None:
    @app.task(name="long.bad", bind=True)
    async def bad(self: Task[..., Any], how: str) -> None:
        if how == "order":
            async for _ in self.cursor([{"id": 2}, {"id": 1}], key="id"):
                pass
        elif how == "nested":
            async for _ in self.cursor([1, 2], key=int):
                async for _ in self.cursor([1, 2], key=int):
                    pass
        else:
            async for _ in self.cursor([1], key=int, every=-1):
                pass

    async with app, app.worker():
        for how, words in (("order", "1 comes after 2"), ("nested", "in the loop of another"), ("every", "every must")):
            with pytest.raises(CallError, match=words):
                await (await bad.delay(how)).get(timeout=10)
    with pytest.raises(CallError, match="no task runs here"):
        await bad.checkpoint(1)
