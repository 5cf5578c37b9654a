"""Slots are neither lost nor doubled, whoever lends them, waits for them and is cancelled."""

from __future__ import annotations

import asyncio
import random

import pytest

from aiotq.transport import Delivery
from aiotq.wire.message import Message
from aiotq.worker.run import Cancelled, Run, Slots


def run(slots: Slots) -> Run:
    delivery = Delivery(Message("me", "proj.add", b""), "q", 4, 1, 0.0)
    return Run(delivery, "loop", slots, lambda kind: None)


async def turns(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_run_takes_a_place_and_gives_it_back() -> None:
    slots = Slots(2)
    first = run(slots)
    assert slots.free == 1

    first.end()

    assert slots.free == 2


async def test_a_lent_place_is_taken_back_at_once_if_it_is_still_free() -> None:
    slots = Slots(1)
    waiting = run(slots)

    waiting.lend()
    assert slots.free == 1
    await waiting.take_back()

    assert slots.free == 0


async def test_who_goes_on_comes_before_who_begins() -> None:
    slots = Slots(1)
    waiting = run(slots)
    waiting.lend()
    other = run(slots)
    going_on = asyncio.create_task(waiting.take_back())
    await turns()
    assert not going_on.done()
    assert slots.free < 0, "the place that comes free is promised"

    other.end()
    await going_on

    assert slots.free == 0
    waiting.end()
    assert slots.free == 1


async def test_going_on_is_first_come_first_served() -> None:
    slots = Slots(2)
    runs = [run(slots), run(slots)]
    for each in runs:
        each.lend()
    others = [run(slots), run(slots)]
    order: list[int] = []

    async def go_on(number: int) -> None:
        await runs[number].take_back()
        order.append(number)

    tasks = [asyncio.create_task(go_on(number)) for number in (0, 1)]
    await turns()
    for other in others:
        other.end()
        await turns()
    await asyncio.gather(*tasks)

    assert order == [0, 1]


async def test_a_place_is_lent_until_the_last_of_several_waits_is_over() -> None:
    """A task that gathers results: had the first of them taken the place back, the second might never run."""
    slots = Slots(1)
    gathering = run(slots)

    gathering.lend()
    gathering.lend()
    await gathering.take_back()
    assert slots.free == 1
    await gathering.take_back()

    assert slots.free == 0


async def test_going_on_at_once_may_be_one_too_many() -> None:
    slots = Slots(1)
    waiting = run(slots)
    waiting.lend()
    other = run(slots)

    waiting.take_back_now()
    assert slots.free == -1
    other.end()
    assert slots.free == 0
    waiting.end()
    assert slots.free == 1


async def test_going_on_at_once_while_another_wait_queues_takes_one_place() -> None:
    slots = Slots(1)
    waiting = run(slots)
    waiting.lend()
    other = run(slots)
    queued = asyncio.create_task(waiting.take_back())
    await turns()
    waiting.lend()
    waiting.take_back_now()

    await queued
    assert slots.taken == 2
    other.end()
    waiting.end()

    assert slots.free == 1


async def test_a_new_wait_while_the_place_is_queued_for_leaves_it_lent() -> None:
    slots = Slots(1)
    waiting = run(slots)
    waiting.lend()
    other = run(slots)
    queued = asyncio.create_task(waiting.take_back())
    await turns()
    waiting.lend()

    other.end()
    await queued
    assert slots.free == 1
    await waiting.take_back()
    assert slots.free == 0


@pytest.mark.parametrize("first", ["cancel", "free"])
async def test_cancelled_while_it_queues_it_takes_no_place(first: str) -> None:
    """Both orders of a cancellation and of a place that comes free in the same turn."""
    slots = Slots(1)
    waiting = run(slots)
    waiting.lend()
    other = run(slots)
    queued = asyncio.create_task(waiting.take_back())
    await turns()

    if first == "cancel":
        queued.cancel()
        other.end()
    else:
        other.end()
        queued.cancel()
    with pytest.raises(asyncio.CancelledError):
        await queued
    waiting.end()

    assert slots.free == 1


async def test_a_place_freed_for_a_run_that_was_cancelled_goes_to_the_next_when_it_ends() -> None:
    slots = Slots(1)
    first = run(slots)
    first.lend()
    second = run(slots)
    second.lend()
    other = run(slots)
    queued = [asyncio.create_task(each.take_back()) for each in (first, second)]
    await turns()

    other.end()
    queued[0].cancel()
    first.end()
    await asyncio.wait_for(queued[1], 1)

    assert slots.taken == 1


async def test_what_outlives_its_run_changes_nothing() -> None:
    """A task may leave something behind that waits: an unfinished `as_completed`, a background task."""
    slots = Slots(1)
    over = run(slots)
    over.lend()
    over.end()
    assert slots.free == 1

    over.take_back_now()
    over.lend()
    await over.take_back()
    over.lend()

    assert slots.free == 1
    held = run(slots)
    held.end()
    held.lend()
    assert slots.free == 1


async def test_no_place_is_lost_or_doubled_whatever_happens() -> None:
    chance = random.Random(5)
    slots = Slots(3)

    async def live() -> None:
        own = run(slots)
        try:
            for _ in range(chance.randrange(4)):
                own.lend()
                try:
                    await turns(chance.randrange(4))
                except BaseException:
                    own.take_back_now()
                    raise
                await own.take_back()
        finally:
            own.end()

    tasks: set[asyncio.Task[None]] = set()
    for _ in range(500):
        if slots.free > 0:
            tasks.add(asyncio.create_task(live()))
        await turns(chance.randrange(3))
        if tasks and chance.random() < 0.3:
            chance.choice(sorted(tasks, key=id)).cancel()
        tasks = {task for task in tasks if not task.done()}
    await asyncio.wait(tasks or {asyncio.create_task(turns())}, timeout=5)

    assert (slots.taken, slots.free) == (0, 3)


async def test_the_first_reason_for_a_cancellation_stays() -> None:
    cancelled = run(Slots(1))
    cancelled.task = asyncio.create_task(asyncio.sleep(60))
    cancelled.is_started = True
    await turns()

    cancelled.cancel(Cancelled.REVOKED)
    cancelled.cancel(Cancelled.STOPPING)

    assert cancelled.cancelled_for is Cancelled.REVOKED
    with pytest.raises(asyncio.CancelledError):
        await cancelled.task
    assert cancelled.task.cancelling() <= 1


async def test_a_run_that_has_not_begun_is_told_when_it_does() -> None:
    """asyncio would drop a task that is cancelled before its first step, cleanup and all."""
    waiting = run(Slots(1))
    waiting.task = asyncio.create_task(turns())

    waiting.cancel(Cancelled.STOPPING)

    assert waiting.cancelled_for is Cancelled.STOPPING
    await waiting.task


async def test_a_run_that_ended_is_not_cancelled() -> None:
    ended = run(Slots(1))
    ended.task = asyncio.create_task(turns())
    await ended.task

    ended.cancel(Cancelled.STOPPING)

    assert ended.cancelled_for is None
