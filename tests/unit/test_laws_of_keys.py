"""What holds of calls with keys after any sequence of calls, retries, hand-backs and jumps of the clock."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from aiotq import AioTQ, Debounce, Reject, Snooze, Unique
from aiotq.testing import TestWorker

KEYS = "ab"
#: What is done, to which key, with which seconds or number of tries.
steps = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["done", "started", "for a time"]), st.sampled_from(KEYS), st.integers(0, 2)),
        st.tuples(st.just("burst"), st.sampled_from(KEYS), st.integers(0, 2)),
        st.tuples(st.just("step"), st.sampled_from(KEYS), st.integers(0, 1)),
        st.tuples(st.sampled_from(["jump", "pass"]), st.just(""), st.sampled_from([1, 4, 6, 100, 90_000])),
        st.tuples(st.just("turns"), st.just(""), st.integers(1, 5)),
    ),
    max_size=25,
)
UNIQUE = {
    "done": Unique(by="key"),
    "started": Unique(by="key", until="started"),
    "for a time": Unique(by="key", until=5.0),
}


@settings(max_examples=25, deadline=None)
@given(steps)
def test_a_key_never_runs_twice_at_once_and_a_burst_runs_once(sequence: list[tuple[str, str, int]]) -> None:
    asyncio.run(follow(sequence))


async def follow(sequence: list[tuple[str, str, int]]) -> None:
    app = AioTQ("laws")
    now, most, tried = Counter[str](), Counter[str](), Counter[str]()
    ran: dict[str, list[int]] = {}  # of each burst, what it ran with

    async def under_way(key: str) -> None:
        now[key] += 1
        most[key] = max(most[key], now[key])
        for _ in range(5):
            await asyncio.sleep(0)
        now[key] -= 1

    @app.task(bind=True, unique=Unique(by="key"), max_retries=None)
    async def single(self, key: str, tries: int, number: int) -> None:  # type: ignore[no-untyped-def]
        await under_way(key)
        tried[self.request.id] += 1
        if tried[self.request.id] <= tries:  # again: as a retry, without using one, or as the same message
            match number % 3:
                case 0:
                    raise self.retry(countdown=2)
                case 1:
                    raise Snooze(1)
                case _:
                    raise Reject("again", requeue=True)

    @app.task(bind=True, debounce=Debounce(5, by="key", max_wait=12))
    async def last(self, key: str, number: int) -> None:  # type: ignore[no-untyped-def]
        ran.setdefault(self.request.id, []).append(number)

    calls: set[str] = set()
    bursts: dict[str, int] = {}
    async with TestWorker(app) as worker:
        for number, (what, key, count) in enumerate(sequence):
            match what:
                case "burst":
                    bursts[(await last.delay(key, number)).id] = number
                case "step":
                    calls.add((await (single.si(key, count, number) | single.si(key, 0, number)).delay()).id)
                case "jump":  # all at once, whatever was due on the way
                    worker._clock.move_to(worker._clock.time() + count)
                case "pass":
                    await worker.advance(timedelta(seconds=count))
                case "turns":
                    for _ in range(count):
                        await asyncio.sleep(0)
                case _:
                    calls.add((await single.options(unique=UNIQUE[what]).delay(key, count, number)).id)
        await worker.drained()
        states = [await app.AsyncResult(each).state() for each in calls]

    assert set(states) <= {"SUCCESS"}
    assert set(most.values()) <= {1}
    assert ran == {each: [number] for each, number in bursts.items()}
