"""Periodic tasks: 1,000 occurrences due at once, lateness of 10,000 entries, and what an idle scheduler costs.

python benchmarks/periodic.py [memory|sqlite|URL ...]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiotq import AioTQ, crontab, once
from aiotq.core.inside import core_of

#: Entries that are due at the same moment, and those of which none is.
DUE: Final = 1000
IDLE: Final = 10_000
#: Seconds for which an idle scheduler is watched.
WATCHED: Final = 8.0


@contextmanager
def place(name: str) -> Iterator[str]:
    """The URL of a place of its own; a URL that is given is used as it is, and left with what was written."""
    if name == "memory":
        yield "memory://"
    elif name == "sqlite":
        with tempfile.TemporaryDirectory() as directory:
            yield f"sqlite:///{directory}/queue.db"
    else:
        yield name


def make(url: str) -> AioTQ:
    app = AioTQ("bench", broker=url)

    @app.task(name="bench.nothing")
    async def nothing() -> None: ...

    return app


async def ready(app: AioTQ) -> int:
    return sum(each.ready for each in await app.admin.queues())


async def due_at_once(url: str) -> None:
    """How long it takes until all that is due at one moment is in the queue."""
    app = make(url)
    call: Any = app.tasks["bench.nothing"].s()
    moment = datetime.now(UTC) + timedelta(seconds=4)
    for number in range(DUE):
        app.add_periodic_task(once(moment), call, name=f"entry {number}", expires=None)
    async with app, app.beat():
        await asyncio.sleep(max(0.0, moment.timestamp() - time.time()))
        while await ready(app) < DUE:  # noqa: ASYNC110  # the queue tells nobody
            await asyncio.sleep(0.01)
        print(f"  {DUE} due at once: all in the queue after {time.time() - moment.timestamp():.3f} s (target 1 s)")


async def idle(url: str) -> None:
    """What a scheduler with many entries costs while none is due, and how late one is that comes."""
    app = make(url)
    call: Any = app.tasks["bench.nothing"].s()
    for number in range(IDLE):
        app.add_periodic_task(crontab(minute=0, hour=0, day_of_month=1), call, name=f"entry {number}")
    started = time.perf_counter()
    async with app, app.beat() as scheduler:
        while not scheduler.is_live:  # noqa: ASYNC110  # as above
            await asyncio.sleep(0.05)
        connection = await core_of(app).connection()
        print(f"  {IDLE} entries read after {time.perf_counter() - started:.1f} s")
        await asyncio.sleep(2.0)
        used = time.process_time()
        await asyncio.sleep(WATCHED)
        share = (time.process_time() - used) / WATCHED
        print(f"  idle: {share:.2%} of a core on {type(connection.broker).__name__} (target 1 %)")
        await app.schedules.add(0.2, call, name="often", expires=None)
        await asyncio.sleep(8.0)
        shown = await app.schedules.get("often")
        print(f"  one that is due five times a second among them: {shown.runs} sent in about 8 s")


def main(names: list[str]) -> None:
    for name in names or ["memory", "sqlite"]:
        print(name)
        for measure in (due_at_once, idle):
            with place(name) as url:
                asyncio.run(measure(url))


if __name__ == "__main__":
    main(sys.argv[1:])
