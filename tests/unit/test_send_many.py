"""Many calls in one round trip: also those that something follows, and those that run item by item."""

from __future__ import annotations

from typing import Any

from aiotq import AioTQ

from ..waiting import wait_until

app = AioTQ("many", broker="memory://")
noted: list[Any] = []


@app.task
async def double(x: int) -> int:
    return 2 * x


@app.task
async def note(x: int) -> None:
    noted.append(x)


async def test_signatures_with_callbacks_and_maps_are_sent_as_delay_sends_them() -> None:
    noted.clear()
    calls = [double.s(1), double.s(2).link(note.s()), double.map([3, 4])]
    async with app, app.worker():
        results = await app.send_many(calls)

        assert await results.get(timeout=10) == [2, 4, [6, 8]]
        assert len(results) == 3
        await wait_until(lambda: noted == [4], "the callback has run")


async def test_nothing_is_sent_for_no_calls() -> None:
    async with app:
        assert await (await app.send_many([])) == []
