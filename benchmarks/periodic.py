"""Periodic tasks: 1,000 occurrences due at once, how late those of 10,000 entries are, and what waiting costs.

python -m benchmarks.periodic [memory|sqlite|URL ...]
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

from aiotq import AioTQ, crontab, once, signals
from aiotq.core.inside import core_of

#: Entries that are due at the same moment, and those that a scheduler has otherwise.
DUE: Final = 1000
MANY: Final = 10_000
#: Of those, how many are due in a second, and for how many seconds that is watched.
A_SECOND: Final = 100
WATCHED: Final = 12.0


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


def make(main: str, url: str) -> AioTQ:
    app = AioTQ(main, broker=url)

    @app.task(name="bench.nothing")
    async def nothing() -> None: ...

    return app


async def is_live(scheduler: Any) -> None:
    while not scheduler.is_live:  # noqa: ASYNC110  # it tells nobody
        await asyncio.sleep(0.05)


class Lateness:
    """Seconds from the due time of each occurrence until broker and ledger had accepted it."""

    def __init__(self) -> None:
        self.found: list[float] = []

    def hear(self, sender: object, headers: dict[str, str], **_: Any) -> None:
        if (due := headers.get("periodic_task_due")) is not None:
            self.found.append(time.time() - datetime.fromisoformat(due).timestamp())

    def __enter__(self) -> Lateness:
        signals.after_task_publish.connect(self.hear)
        return self

    def __exit__(self, *exc_info: object) -> None:
        signals.after_task_publish.disconnect(self.hear)

    def at(self, part: float) -> float:
        """Return what so large a part of all is not later than, in milliseconds."""
        return 1000 * sorted(self.found)[int(len(self.found) * part) - 1]


async def due_at_once(url: str) -> None:
    """How long it takes until all that is due at one moment is accepted."""
    app = make("at-once", url)
    call: Any = app.tasks["bench.nothing"].s()
    moment = datetime.now(UTC) + timedelta(seconds=4)
    for number in range(DUE):
        app.add_periodic_task(once(moment), call, name=f"entry {number}", expires=None)
    with Lateness() as late:
        async with app, app.beat():
            while len(late.found) < DUE:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.01)
            print(f"  {DUE} due at once: all accepted after {late.at(1) / 1000:.3f} s (target 1 s)")
            await app.admin.purge("default")


async def many(url: str) -> None:
    """How late those are that are due one after the other, among many."""
    app = make("many", url)
    call: Any = app.tasks["bench.nothing"].s()
    first = datetime.now(UTC) + timedelta(seconds=15)
    for number in range(MANY):
        app.add_periodic_task(once(first + timedelta(seconds=number / A_SECOND)), call, name=f"entry {number}")
    with Lateness() as late:
        async with app, app.beat() as scheduler:
            await is_live(scheduler)
            left = first.timestamp() - time.time()
            print(f"  {MANY} entries: live {left:.1f} s before the first is due")
            await asyncio.sleep(max(0.0, left))
            used = time.process_time()
            await asyncio.sleep(WATCHED)
            share = (time.process_time() - used) / WATCHED
            print(
                f"  {A_SECOND} a second of them: p50 {late.at(0.5):.1f} ms, p99 {late.at(0.99):.1f} ms late (target "
                f"50 ms), {share:.0%} of a core"
            )
            await app.admin.purge("default")


async def idle(url: str) -> None:
    """What a scheduler with many entries costs while none is due."""
    app = make("idle", url)
    call: Any = app.tasks["bench.nothing"].s()
    for number in range(MANY):
        app.add_periodic_task(crontab(minute=0, hour=0, day_of_month=1), call, name=f"entry {number}")
    started = time.perf_counter()
    async with app, app.beat() as scheduler:
        await is_live(scheduler)
        connection = await core_of(app).connection()
        print(f"  {MANY} entries read after {time.perf_counter() - started:.1f} s")
        await asyncio.sleep(2.0)
        used = time.process_time()
        await asyncio.sleep(WATCHED)
        share = (time.process_time() - used) / WATCHED
        print(f"  idle: {share:.2%} of a core on {type(connection.broker).__name__} (target 1 %)")


def main(names: list[str]) -> None:
    for name in names or ["memory", "sqlite"]:
        print(name)
        for measure in (due_at_once, many, idle):
            with place(name) as url:
                asyncio.run(measure(url))


if __name__ == "__main__":
    main(sys.argv[1:])
