"""Saying that nobody takes what waits in a queue: the commonest reason why a result does not come."""

from __future__ import annotations

from collections.abc import Collection

from ..exceptions import OperationalError
from ..transport import Broker, QueueStats


async def why_unclaimed(broker: Broker, queues: Collection[str], *, even_if_some_run: bool = True) -> str | None:
    """Return what stands in the way of a call that waits in one of `queues`; None if nothing waits there.

    Without `even_if_some_run` a queue from which workers take is nothing to be spoken of.
    """
    try:
        stats = await broker.stats(queues)
    except OperationalError:  # whoever waits hears of that from elsewhere
        return None
    return next((unclaimed(each) for each in stats if each.ready and (even_if_some_run or not each.leased)), None)


def unclaimed(stats: QueueStats) -> str:
    """Return what is to be said of a queue in which something waits."""
    waiting = "1 message waits" if stats.ready == 1 else f"{stats.ready} messages wait"
    if stats.leased:
        return f"{waiting} in queue {stats.name!r}, and the {stats.leased} before that run or are held by workers"
    hint = f"is there a worker for it (aiotq worker -Q {stats.name})?"
    return f"nobody has taken it: {waiting} in queue {stats.name!r}; {hint}"
