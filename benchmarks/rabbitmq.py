"""RabbitMQ with claims and results in Redis, on quorum and on classic queues; and what aiormq alone does."""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from . import bare_rabbitmq
from .figures import Benchmark, Figure, Samples
from .measures import ALL_CPU, percentile_99, round_trip, send_and_drain, throughput
from .processes import LONGEST, client_and_worker
from .redis import many_callers
from .servers import count_queues
from .tasks import app, lateness, noop
from .usage import server_cpu

_WARM_UP: Final = 500
#: Times fewer tasks are sent in a row, or called one after the other, than at once.
_IN_A_ROW: Final = 10
#: Times fewer tasks the script gets that batches nothing.
_UNBATCHED: Final = 4
#: Tasks that share one of the different delays, which are so many seconds apart, the shortest first.
_ALIKE: Final = 10
_APART: Final = 0.03
_SHORTEST: Final = 3.0
#: Seconds between looks at how many queues there are.
_LOOK: Final = 1.0
_CLASSIC: Final = {"amqp_queue_type": "classic"}


async def drain_and_bare(size: int) -> Samples:
    """Let our worker drain `size` no-op tasks, and a bare one; then one that batches nothing some of them."""
    ours = await send_and_drain(size)
    urls = app.conf.broker_url, app.conf.result_backend or ""
    bare = await bare_rabbitmq.drained(*urls, "batched", size)
    unbatched = await bare_rabbitmq.drained(*urls, "one-by-one", size // _UNBATCHED)
    return {
        **ours,
        "bare script's drain": [bare.rate],
        **{f"bare script's {name}": values for name, values in bare.costs().items()},
        "of the bare script's rate": [ours["drain"][0] / bare.rate],
        "bare, nothing batched": [unbatched.rate],
    }


async def enqueue(size: int) -> Samples:
    """Send while no worker runs: one after the other, and gathered; then with aiormq alone, to such a queue."""
    async with app:
        await _rate(_WARM_UP, _in_a_row)
        ours = await _rate(size // _IN_A_ROW, _in_a_row)
        gathered = await _rate(size, _all_gathered)
    async with bare_rabbitmq.channel_open(app.conf.broker_url, app.conf.amqp_queue_type) as channel:
        await bare_rabbitmq.send_in_a_row(channel, _WARM_UP)
        in_a_row = await _rate(size // _IN_A_ROW, lambda count: bare_rabbitmq.send_in_a_row(channel, count))
        in_bulk = await _rate(size, lambda count: bare_rabbitmq.send_in_bulk(channel, count, "noop"))
    return {
        "in a row": [ours],
        "gathered": [gathered],
        "bare script in a row": [in_a_row],
        "bare script in bulk": [in_bulk],
    }


async def _rate(size: int, send: Callable[[int], Awaitable[object]]) -> float:
    began = time.perf_counter()
    await send(size)
    return size / (time.perf_counter() - began)


async def _in_a_row(size: int) -> None:
    for _ in range(size):
        await noop.delay()


async def _all_gathered(size: int) -> None:
    await asyncio.gather(*(noop.delay() for _ in range(size)))


async def calls(size: int) -> Samples:
    """Call one after the other; from 100 callers at the same time; all at once. Each result is awaited."""
    one_by_one = await round_trip(size // _IN_A_ROW)
    at_a_time = await many_callers(size)
    at_once = await throughput(size)
    return {
        "round trip, p50": one_by_one["round trip, p50"],
        "round trip, p99": one_by_one["round trip, p99"],
        "100 callers": at_a_time["calls"],
        "end to end": at_once["end to end"],
        **{figure.name: at_once[figure.name] for figure in ALL_CPU},
    }


async def delayed(size: int) -> Samples:
    """Measure how late `size` tasks run, ten each with the same delay, and how many queues there are meanwhile."""
    async with client_and_worker() as worker:
        longest = _SHORTEST + _APART * size / _ALIKE
        await noop.options(countdown=2 * longest).delay()  # whatever stands for such delays is there after the first
        before = await asyncio.to_thread(count_queues, _directory())
        used, now = server_cpu(), time.time()
        dues = [now + _SHORTEST + _APART * (at // _ALIKE) for at in range(size)]
        results = await app.send_many(lateness.options(eta=datetime.fromtimestamp(due, UTC)).s(due) for due in dues)
        sent_at = time.time()
        most = before

        async def watch() -> None:
            nonlocal most
            while time.time() < dues[-1]:
                most = max(most, await asyncio.to_thread(count_queues, _directory()))
                await asyncio.sleep(_LOOK)

        _, late = await worker.unless_it_ends(_both(watch(), results.get(timeout=LONGEST)))
        used = server_cpu() - used
    return {
        "lateness, p50": [1e3 * statistics.median(late)],
        "lateness, p99": [1e3 * percentile_99(late)],
        "the earliest": [1e3 * min(late)],
        "sending them took": [sent_at - now],
        "server CPU": [1e6 * used / size],
        "queues": [float(most)],
        "queues more than before": [float(most - before)],
    }


async def _both(one: Awaitable[Any], other: Awaitable[Any]) -> tuple[Any, Any]:
    first, second = await asyncio.gather(one, other)
    return first, second


def _directory() -> Path:
    """Return where the broker of this run keeps its files."""
    return Path(os.environ.get("TMPDIR", tempfile.gettempdir()))


_DRAIN: Final = (Figure("send only", "tasks/s"), Figure("drain", "tasks/s", at_least=4500), *ALL_CPU)
_ENQUEUE: Final = (
    Figure("in a row", "tasks/s", at_least=1000),
    Figure("gathered", "tasks/s", at_least=5000),
    Figure("bare script in a row", "tasks/s"),
    Figure("bare script in bulk", "tasks/s"),
)
_CALLS: Final = (
    Figure("round trip, p50", "ms", at_most=2),
    Figure("round trip, p99", "ms"),
    Figure("100 callers", "calls/s", at_least=2400),
    Figure("end to end", "tasks/s", at_least=2200),
    *ALL_CPU,
)

BENCHMARKS = (
    Benchmark(
        "rabbitmq-drain",
        "sent while no worker runs, then drained; the same with aiormq alone; classic queues",
        "rabbitmq",
        drain_and_bare,
        20_000,
        1000,
        (
            *_DRAIN,
            Figure("bare script's drain", "tasks/s"),
            *(Figure(f"bare script's {each.name}", each.unit) for each in ALL_CPU),
            Figure("of the bare script's rate", "x", at_least=0.75),
            Figure("bare, nothing batched", "tasks/s"),
        ),
        settings=_CLASSIC,
    ),
    Benchmark(
        "rabbitmq-quorum-drain",
        "sent while no worker runs, then drained; quorum queues",
        "rabbitmq",
        send_and_drain,
        20_000,
        1000,
        tuple(Figure(each.name, each.unit) for each in _DRAIN),
    ),
    Benchmark(
        "rabbitmq-enqueue",
        f"no-op tasks sent while no worker runs (in a row: {_IN_A_ROW} times fewer); classic queues",
        "rabbitmq",
        enqueue,
        20_000,
        1000,
        _ENQUEUE,
        settings=_CLASSIC,
    ),
    Benchmark(
        "rabbitmq-quorum-enqueue",
        f"no-op tasks sent while no worker runs (in a row: {_IN_A_ROW} times fewer); quorum queues",
        "rabbitmq",
        enqueue,
        20_000,
        1000,
        _ENQUEUE,
    ),
    Benchmark(
        "rabbitmq-calls",
        f"calls from 100 callers, and all at once; {_IN_A_ROW} times fewer one after the other; classic queues",
        "rabbitmq",
        calls,
        10_000,
        1000,
        _CALLS,
        settings=_CLASSIC,
    ),
    Benchmark(
        "rabbitmq-quorum-calls",
        f"calls from 100 callers, and all at once; {_IN_A_ROW} times fewer one after the other; quorum queues",
        "rabbitmq",
        calls,
        10_000,
        1000,
        _CALLS,
    ),
    Benchmark(
        "rabbitmq-delayed",
        f"tasks due later, {_ALIKE} each with the same delay; quorum queues",
        "rabbitmq",
        delayed,
        10_000,
        500,
        (
            Figure("lateness, p50", "ms"),
            Figure("lateness, p99", "ms", at_most=150),
            Figure("the earliest", "ms", at_least=0),
            Figure("sending them took", "s"),
            Figure("server CPU", "us/task"),
            Figure("queues", ""),
            Figure("queues more than before", "", at_most=0),
        ),
        once=True,
    ),
)
