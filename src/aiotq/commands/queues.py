"""`aiotq queues` and `aiotq purge`: what waits, and clearing it away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from ..app import AioTQ
from ..transport import QueueStats
from . import output
from .app_option import Target
from .command import command
from .words import Json, Yes, confirm

_COLUMNS: Final = ("queue", "ready", "leased", "delayed", "dead", "oldest")


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
    rows = [
        (each.name, str(each.ready), str(each.leased), str(each.delayed), str(each.dead), output.age(each.oldest_age))
        for each in stats
    ]
    output.table(_COLUMNS, rows, numbers=_COLUMNS[1:], whole=("queue",))


def _as_data(stats: QueueStats) -> dict[str, str | int | float | None]:
    return {
        "name": stats.name,
        "ready": stats.ready,
        "leased": stats.leased,
        "delayed": stats.delayed,
        "dead": stats.dead,
        "oldest_age": stats.oldest_age,
    }


async def _stats(app: AioTQ) -> Sequence[QueueStats]:
    """Return those that hold anything, and those that were declared."""
    found = {each.name: each for each in await app.admin.queues()}
    declared = [queue.name for queue in app.conf.task_queues if queue.name not in found]
    empty = await app.admin.queues(declared) if declared else ()
    return sorted([*found.values(), *empty], key=lambda each: each.name)


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
