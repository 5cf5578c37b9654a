"""`aiotq queues` and `aiotq purge`: what waits, and clearing it away."""

from __future__ import annotations

import difflib
import sys
import time
from collections.abc import Sequence
from typing import Final

from ..app import AioTQ
from ..transport import QueueStats
from . import output
from .app_option import Target
from .command import command
from .words import Json, Yes, confirm

_COLUMNS: Final = ("queue", "ready", "leased", "delayed", "dead", "oldest")
#: The column that stands behind these when a queue is paused.
_PAUSED: Final = "paused"


@command()
def queues(target: Target, as_json: Json = False) -> None:
    """Show what stands in the queues."""
    stats = target.run(_stats)
    if as_json:
        output.as_json([_as_data(each) for each in stats])
        return
    if not stats:
        print("all queues are empty")
        return
    is_any_paused = any(each.paused_since is not None for each in stats)
    columns = (*_COLUMNS, _PAUSED) if is_any_paused else _COLUMNS
    now = time.time()
    rows = [_row(each, now)[: len(columns)] for each in stats]
    output.table(columns, rows, numbers=columns[1:], whole=("queue",))


def _row(stats: QueueStats, now: float) -> tuple[str, ...]:
    counts = (str(stats.ready), str(stats.leased), str(stats.delayed), str(stats.dead))
    paused = "" if stats.paused_since is None else output.age(now - stats.paused_since)
    return (stats.name, *counts, output.age(stats.oldest_age), paused)


def _as_data(stats: QueueStats) -> dict[str, str | int | float | None]:
    return {
        "name": stats.name,
        "ready": stats.ready,
        "leased": stats.leased,
        "delayed": stats.delayed,
        "dead": stats.dead,
        "oldest_age": stats.oldest_age,
        "paused_since": stats.paused_since,
    }


async def _stats(app: AioTQ) -> Sequence[QueueStats]:
    """Return those that hold anything, and those that were declared."""
    found = {each.name: each for each in await app.admin.queues()}
    declared = [queue.name for queue in app.conf.task_queues if queue.name not in found]
    empty = await app.admin.queues(declared) if declared else ()
    return sorted([*found.values(), *empty], key=lambda each: each.name)


@command("QUEUE")
def pause(target: Target, queue: str) -> None:
    """Have all workers take no more from a queue; what they have taken goes on, and calls wait.

    A queue that nobody knows yet is paused too, with a warning.
    """

    async def act(app: AioTQ) -> tuple[bool, set[str]]:
        is_new = await app.admin.pause(queue)
        taken = {name for each in await app.control.fleet() for name in each.queues}
        return is_new, {*taken, *(each.name for each in await _stats(app)), app.conf.task_default_queue}

    is_new, known = target.run(act)
    print(
        f"queue {queue!r} is paused: aiotq resume takes that back" if is_new else f"queue {queue!r} was paused already"
    )
    if queue not in known:
        near = difflib.get_close_matches(queue, known, n=1)
        hint = f"; is it {near[0]!r}?" if near else ""
        print(output.printable(f"no worker takes from {queue!r}, and nothing waits in it{hint}"), file=sys.stderr)


@command("QUEUE")
def resume(target: Target, queue: str) -> None:
    """Have all workers take from a paused queue again."""
    was_paused = target.run(lambda app: app.admin.resume(queue))
    print(f"queue {queue!r} is resumed" if was_paused else f"queue {queue!r} was not paused")


@command("QUEUE")
def purge(target: Target, queue: str, yes: Yes = False) -> None:
    """Delete what waits in a queue; what runs goes on."""

    async def delete(app: AioTQ) -> None:
        (stats,) = await app.admin.queues([queue])
        waiting = output.count(stats.ready + stats.delayed, "message")
        confirm(f"Delete {waiting} from queue {queue!r}?", yes)
        deleted = await app.admin.purge(queue)
        print(f"deleted {output.count(deleted, 'message')} from queue {queue!r}")

    target.run(delete)
