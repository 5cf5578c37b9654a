"""Redis: what the dashboard's pages take with many tasks and workers, and what the broker pays for open ones."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import httpx
from redis.asyncio import Redis

from aiotq.control.recent import RecentCounts, interval_of
from aiotq.core.inside import core_of
from aiotq.results import Record
from aiotq.results.index import Finished, IndexBounds, IndexEntry
from aiotq.states import FAILURE, SUCCESS
from aiotq.wire.message import new_id

from .figures import Benchmark, Figure, Samples
from .tasks import app, noop

_WORKERS: Final = 100
_QUEUES: Final = tuple(f"queue{number}" for number in range(20))
_TASKS: Final = tuple(f"shop.task{number}" for number in range(20))
_AT_ONCE: Final = 1_000
_PAGES: Final = {
    "overview": "/",
    "tasks": "/tasks",
    "failed tasks": f"/tasks?state=FAILURE&task={_TASKS[0]}",
    "by queue and time": f"/tasks?queue={_QUEUES[0]}&since=30m",
    "a text that is nowhere": "/tasks?find=nowhere",
    "a task": "/tasks/ID",
    "workflows": "/workflows",
    "queues": "/queues",
    "workers": "/workers",
    "schedules": "/schedules",
    "dead letters": "/dead",
    "send": "/send",
}
#: How often each page is asked for; the quickest counts, for neighbours on the machine only ever add to it.
_TRIES: Final = 5
_TABS: Final = 50
#: Seconds for which tabs are open.
_WATCHED: Final = 15.0
_LEASE: Final = 3_600.0


async def dashboard(size: int) -> Samples:
    """Fill in `size` finished tasks and the workers; then open each page, and many of one."""
    rng = random.Random(1)
    async with app:
        an_id = await _finished(size, rng)
        await app.send_many(noop.options(queue=queue, countdown=_LEASE).s() for queue in _QUEUES for _ in range(50))
        pages = app.dashboard(auth=None)
        async with _fleet(rng):
            seconds, sizes = await _opened(pages, an_id)
            alone, watched = await _broker_busy(), await _broker_busy_with(pages)
    return {
        **{f"{name}": [1e3 * took] for name, took in seconds.items()},
        **{f"{name}, size": [count / 1e3] for name, count in sizes.items()},
        "broker, no tab": [100 * alone],
        f"broker, {_TABS} tabs": [100 * watched],
        f"{_TABS} tabs add": [100 * (watched - alone)],
    }


async def _finished(size: int, rng: random.Random) -> str:
    """Write the records of tasks that ended in the last hour; return the id of one that failed."""
    records, now, failed = (await core_of(app).connection()).records, time.time(), ""
    for start in range(0, size, _AT_ONCE):
        batch: list[Record] = []
        for number in range(start, min(start + _AT_ONCE, size)):
            state, task_id = (FAILURE if number % 20 == 0 else SUCCESS), new_id()
            failed = task_id if state == FAILURE else failed
            finished = Finished(
                task_id,
                state,
                rng.choice(_TASKS),
                now - 3_600 + 3_600 * number / size,
                rng.choice(_QUEUES),
                f"worker{number % _WORKERS}",
                f"order_id={number}, to='someone@example.org'",
                "TimeoutError: no answer" if state == FAILURE else "",
                rng.random(),
                rng.random(),
            )
            entry = IndexEntry(finished, IndexBounds(most=size))
            batch.append(Record(task_id, state, _document(finished), "application/json", now + _LEASE, entry=entry))
        await records.put(batch)
    return failed


def _document(finished: Finished) -> bytes:
    error = ValueError(finished.error) if finished.error else None
    return core_of(app).codec.encode(
        finished.id, finished.state, error, done_at=finished.ended, worker=finished.worker, name=finished.name
    )


@asynccontextmanager
async def _fleet(rng: random.Random) -> AsyncGenerator[None, None]:
    """Have workers, which answer when they are asked, and counted something in the last hour."""
    async with AsyncExitStack() as stack:
        for number in range(_WORKERS):
            worker = app.worker(_QUEUES[:2], name=f"worker{number}", concurrency=1)
            recent = worker._recent  # pyright: ignore[reportPrivateUsage]  # what it would count in an hour
            recent._counts = _recent(rng)  # pyright: ignore[reportPrivateUsage]
            await stack.enter_async_context(worker)
        yield


def _recent(rng: random.Random) -> RecentCounts:
    """Return what a worker counted in the last hour."""
    counts, now = RecentCounts(), time.time()
    for minute in range(int(now // 60) - 59, int(now // 60) + 1):
        counts.turn(minute)
        for task in _TASKS:
            cell = counts.new((task, rng.choice(_QUEUES)))
            cell.succeeded, cell.failed = rng.randrange(50), rng.randrange(3)
            for spread in (cell.run, cell.wait):
                for _ in range(5):
                    spread[interval_of(rng.random())] = rng.randrange(10)
    return counts


async def _opened(pages: Any, an_id: str) -> tuple[Mapping[str, float], Mapping[str, int]]:
    """Return how long each page took, and how many bytes it has."""
    seconds, sizes = dict[str, float](), dict[str, int]()
    transport = httpx.ASGITransport(pages, client=("127.0.0.1", 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for name, path in _PAGES.items():
            took: list[float] = []
            for _ in range(_TRIES):
                began = time.perf_counter()
                answer = await client.get(path.replace("ID", an_id))
                took.append(time.perf_counter() - began)
                answer.raise_for_status()
                sizes[name] = len(answer.content)
            seconds[name] = min(took)
    return seconds, sizes


async def _broker_busy() -> float:
    """Return which part of a core the broker uses."""
    async with Redis.from_url(app.conf.broker_url) as redis:

        async def used() -> float:
            cpu = await redis.info("cpu")
            return float(cpu["used_cpu_user"]) + float(cpu["used_cpu_sys"])

        before, began = await used(), time.perf_counter()
        await asyncio.sleep(_WATCHED)
        return (await used() - before) / (time.perf_counter() - began)


async def _broker_busy_with(pages: Any) -> float:
    """Return that while tabs are open, each of which fetches its page again at every new look."""
    async with asyncio.TaskGroup() as group:
        tabs = [group.create_task(_tab(pages)) for _ in range(_TABS)]
        await asyncio.sleep(2.0)
        busy = await _broker_busy()
        for each in tabs:
            each.cancel()
    return busy


async def _tab(pages: Any) -> None:
    """Follow the stream of a page, as a browser does."""
    transport = httpx.ASGITransport(pages, client=("127.0.0.1", 1))
    looks = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        if b"event: look" in message.get("body", b""):
            looks.set()

    async def fetch() -> None:
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            while True:
                await looks.wait()
                looks.clear()
                (await client.get("/")).raise_for_status()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/live",
        "raw_path": b"/live",
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost")],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
    }
    async with asyncio.TaskGroup() as group:
        group.create_task(fetch())
        while True:  # a stream ends after a while, and the browser begins another one
            await pages(scope, receive, send)


BENCHMARKS = (
    Benchmark(
        "redis-dashboard",
        f"finished tasks, {_WORKERS} workers and {len(_QUEUES)} queues: the dashboard's pages, and {_TABS} open ones",
        "redis",
        dashboard,
        100_000,
        2_000,
        (
            *(Figure(name, "ms", at_most=50.0) for name in _PAGES),
            *(Figure(f"{name}, size", "kB", at_most=100.0) for name in _PAGES),
            Figure("broker, no tab", "% of a core"),
            Figure(f"{_TABS} tabs add", "% of a core", at_most=2.0),
        ),
        once=True,
    ),
)
