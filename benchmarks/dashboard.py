"""Redis: what the dashboard's pages take with many tasks and with workers that answer nothing, how long they hold the
loop of the app that they are mounted in, and what the broker pays for pages that stay open."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, Final

import httpx
import orjson
from redis.asyncio import Redis

from aiotq.control.presence import about_process
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
_TRIES: Final = 3
#: Seconds between two: what is known is old by then, as it is for somebody who reads one page after the other.
_READING: Final = 1.1
_TABS: Final = 50
#: Seconds for which tabs are open.
_WATCHED: Final = 15.0
_KEPT: Final = 3_600.0
#: Seconds in which each worker writes its row once, as with the lease of 15 s that they have by default.
_RENEWED: Final = 5.0
#: Seconds between two looks at how late the loop is.
_BEAT: Final = 0.005


async def dashboard(size: int) -> Samples:
    """Fill in `size` finished tasks and the rows of workers; then open each page, and many of one."""
    rng = random.Random(1)
    async with app:
        an_id = await _finished(size, rng)
        await app.send_many(noop.options(queue=queue, countdown=_KEPT).s() for queue in _QUEUES for _ in range(50))
        pages = app.dashboard(auth=None)
        with _fleet():
            first, seconds, sizes, held = await _opened(pages, an_id)
            alone, watched = await _broker_busy(), await _broker_busy_with(pages)
    return {
        "the first page of all": [1e3 * first],
        **{name: [1e3 * took] for name, took in seconds.items()},
        **{f"{name}, size": [count / 1e3] for name, count in sizes.items()},
        "loop held": [1e3 * held],
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
            finished = _one_finished(number, now - 3_600 + 3_600 * number / size, rng)
            failed = finished.id if finished.state == FAILURE else failed
            entry = IndexEntry(finished, IndexBounds(most=size))
            body = _document(finished)
            batch.append(Record(finished.id, finished.state, body, "application/json", now + _KEPT, entry=entry))
        await records.put(batch)
    return failed


def _one_finished(number: int, ended: float, rng: random.Random) -> Finished:
    is_bad = number % 20 == 0
    return Finished(
        new_id(),
        FAILURE if is_bad else SUCCESS,
        rng.choice(_TASKS),
        ended,
        rng.choice(_QUEUES),
        f"worker{number % _WORKERS}",
        f"order_id={number}, to='someone@example.org'",
        "TimeoutError: no answer" if is_bad else "",
        rng.random(),
        rng.random(),
    )


def _document(finished: Finished) -> bytes:
    error = ValueError(finished.error) if finished.error else None
    return core_of(app).codec.encode(
        finished.id, finished.state, error, done_at=finished.ended, worker=finished.worker, name=finished.name
    )


@contextmanager
def _fleet() -> Iterator[None]:
    """Have the rows of workers that are written again and again, by a process of its own, and answer nothing."""
    program = [sys.executable, "-m", "benchmarks.dashboard"]
    with subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()  # they are there
            yield
        finally:
            process.terminate()


async def _keep_rows() -> None:
    """Write the rows of all workers, and each of them anew every few seconds."""
    rng = random.Random(2)
    workers = [_recent(rng) for _ in range(_WORKERS)]
    async with app:
        ledger = (await core_of(app).connection()).ledger

        def write(number: int) -> None:
            row = orjson.dumps({**_said(number), "recent": workers[number].packed(time.time())})
            ledger.renew_presence(f"worker{number}#1", row, 3 * _RENEWED)

        for number in range(_WORKERS):
            write(number)
        print("ready", flush=True)
        while True:
            for number, counts in enumerate(workers):
                await asyncio.sleep(_RENEWED / _WORKERS)
                _count(counts, rng, 10)
                await asyncio.to_thread(write, number)


def _said(number: int) -> Mapping[str, Any]:
    now = time.time()
    return {
        **about_process(),
        "kind": "worker",
        "name": f"worker{number}",
        "pid": 1_000 + number,
        "queues": _QUEUES,
        "tasks": _TASKS,
        "task_count": len(_TASKS),
        "slots": {"loop": [3, 100], "thread": [1, 8]},
        "running": 4,
        "completed": 1_000,
        "is_paused": False,
        "started": now - 7_200,
        "seen": now,
        "blocked": None,
    }


def _recent(rng: random.Random) -> RecentCounts:
    """Return what a worker counted in the last hour: each task comes from one queue."""
    counts, now = RecentCounts(), int(time.time() // 60)
    for minute in range(now - 59, now + 1):
        counts.turn(minute)
        _count(counts, rng, 50 * len(_TASKS))
    return counts


def _count(counts: RecentCounts, rng: random.Random, ended: int) -> None:
    if counts.minute != (minute := int(time.time() // 60)) and ended < len(_TASKS):
        counts.turn(minute)
    for number in range(ended):
        task = number % len(_TASKS)
        key = _TASKS[task], _QUEUES[task]
        cell = counts.cells.get(key) or counts.new(key)
        cell.succeeded += 1
        for spread in (cell.run, cell.wait):
            interval = interval_of(rng.lognormvariate(-1.0, 1.0))
            spread[interval] = spread.get(interval, 0) + 1


async def _opened(pages: Any, an_id: str) -> tuple[float, Mapping[str, float], Mapping[str, int], float]:
    """Return how long the first page took, and each; how many bytes they have, and for how long the loop was held."""
    seconds, sizes = dict[str, float](), dict[str, int]()
    async with _client(pages) as client, _lateness() as late:
        first = await _seconds_of(client, "/")
        del late[:]
        for name, path in _PAGES.items():
            took: list[float] = []
            for _ in range(_TRIES):
                await asyncio.sleep(_READING)
                began = time.perf_counter()
                answer = await client.get(path.replace("ID", an_id))
                took.append(time.perf_counter() - began)
                answer.raise_for_status()
                sizes[name] = len(answer.content)
            seconds[name] = min(took)
        late.sort()
        held = late[int(len(late) * 0.999)]
    return first, seconds, sizes, held


async def _seconds_of(client: httpx.AsyncClient, path: str) -> float:
    began = time.perf_counter()
    (await client.get(path)).raise_for_status()
    return time.perf_counter() - began


def _client(pages: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(pages, client=("127.0.0.1", 1))
    return httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60.0)


@asynccontextmanager
async def _lateness() -> AsyncGenerator[list[float], None]:
    """Yield a list that grows with by how many seconds this loop was late."""
    late: list[float] = []

    async def look() -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(_BEAT)
            late.append(time.perf_counter() - began - _BEAT)

    async with asyncio.TaskGroup() as group:
        looking = group.create_task(look())
        yield late
        looking.cancel()


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
    looks = asyncio.Event()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, Any]) -> None:
        if b"event: look" in message.get("body", b""):
            looks.set()

    async def fetch() -> None:
        async with _client(pages) as client:
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
        f"finished tasks, {_WORKERS} silent workers and {len(_QUEUES)} queues: the dashboard's pages, and {_TABS} open",
        "redis",
        dashboard,
        100_000,
        2_000,
        (
            Figure("the first page of all", "ms"),
            *(Figure(name, "ms", at_most=50.0) for name in _PAGES),
            *(Figure(f"{name}, size", "kB", at_most=100.0) for name in _PAGES),
            Figure("loop held", "ms"),
            Figure("broker, no tab", "% of a core"),
            Figure(f"{_TABS} tabs add", "% of a core", at_most=2.0),
        ),
        once=True,
        settings={"result_index": "all"},
    ),
)

if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_keep_rows())
