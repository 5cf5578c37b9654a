"""Saying that nobody takes what waits in a queue: the commonest reason why a result does not come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from ..app import AioTQ
from ..exceptions import OperationalError
from ..transport import QueueStats
from . import output

#: Seconds after which a call that nobody took is spoken of.
_PATIENCE: Final = 1.5


async def why_unclaimed(app: AioTQ, queues: Sequence[str]) -> str | None:
    """Return what stands in the way of a call to `queues`; None if messages are taken from all of them."""
    try:
        stats = await app.admin.queues(queues)
    except OperationalError:  # said by whoever waits
        return None
    return next((unclaimed(each) for each in stats if each.ready), None)


def unclaimed(stats: QueueStats) -> str:
    """Return what is to be said of a queue in which something waits."""
    waiting = f"{output.count(stats.ready, 'message')} {'waits' if stats.ready == 1 else 'wait'}"
    if stats.leased:
        return f"{waiting} in queue {stats.name!r}, and the {stats.leased} before that run or are held by workers"
    hint = f"is there a worker for it (aiotq worker -Q {stats.name})?"
    return f"nobody has taken it: {waiting} in queue {stats.name!r}; {hint}"


@asynccontextmanager
async def saying_who_is_missing(app: AioTQ, queues: Sequence[str]) -> AsyncGenerator[None, None]:
    """While this is entered, say once if nobody takes what waits in `queues`."""

    async def watch() -> None:
        await asyncio.sleep(_PATIENCE)
        if why := await why_unclaimed(app, queues):
            output.complain(why)

    async with asyncio.TaskGroup() as group:
        watching = group.create_task(watch(), name="aiotq.unclaimed")
        try:
            yield
        finally:
            watching.cancel()
