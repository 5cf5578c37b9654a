"""Saying that nobody takes what waits in a queue: the commonest reason why a result does not come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..app import AioTQ
from ..exceptions import OperationalError, ResultTimeout
from ..results.handle import AsyncResult
from ..transport import QueueStats
from . import output
from .app_option import CommandFailed

#: Seconds after which a call that nobody took is spoken of.
_PATIENCE: Final = 1.5


async def why_unclaimed(app: AioTQ, queues: Sequence[str]) -> str | None:
    """Return what stands in the way of a call to `queues`; None if messages are taken from all of them."""
    try:
        stats = await app.admin.queues(queues)
    except OperationalError:  # the waiting call says so
        return None
    return next((unclaimed(each) for each in stats if each.ready), None)


def unclaimed(stats: QueueStats) -> str:
    """Return what is to be said of a queue in which something waits."""
    waiting = f"{output.count(stats.ready, 'message')} {'waits' if stats.ready == 1 else 'wait'}"
    if stats.leased:
        return f"{waiting} in queue {stats.name!r}, and the {stats.leased} before that run or are held by workers"
    hint = f"is there a worker for it (aiotq worker -Q {stats.name})?"
    return f"nobody has taken it: {waiting} in queue {stats.name!r}; {hint}"


async def wait_for(app: AioTQ, result: AsyncResult[Any], queues: Sequence[str], timeout: float | None) -> None:
    """Wait until a call to `queues` has ended, saying once if nobody takes it.

    Raises:
        CommandFailed: it has not ended within `timeout` seconds.
    """
    patience = _PATIENCE if timeout is None else min(_PATIENCE, timeout)
    try:
        await result.get(patience, propagate=False)
    except ResultTimeout:
        if why := await why_unclaimed(app, queues):
            output.complain(why)
    else:
        return
    try:
        await result.get(None if timeout is None else timeout - patience, propagate=False)
    except ResultTimeout as exc:
        text = f"no result of {result.task_name}[{result.id}] within {timeout:g} s; the task goes on"
        why = await why_unclaimed(app, queues)
        raise CommandFailed(f"{text}: {why}" if why else text) from exc
