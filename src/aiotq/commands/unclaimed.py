"""Waiting for a call that was sent from the command line, and saying that nobody takes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from ..app import AioTQ
from ..calling.unclaimed import why_unclaimed
from ..core.inside import core_of
from ..exceptions import ResultTimeout
from ..results.handle import AsyncResult
from . import output
from .app_option import CommandFailed

#: Seconds after which a call that nobody took is spoken of.
_PATIENCE: Final = 1.5


async def wait_for(app: AioTQ, result: AsyncResult[Any], queues: Sequence[str], timeout: float | None) -> None:
    """Wait until a call to `queues` has ended, saying once if nobody takes it.

    Raises:
        CommandFailed: it has not ended within `timeout` seconds.
    """
    broker = (await core_of(app).connection()).broker
    patience = _PATIENCE if timeout is None else min(_PATIENCE, timeout)
    try:
        await result.get(patience, propagate=False)
    except ResultTimeout:
        if why := await why_unclaimed(broker, queues):
            output.complain(why)
    else:
        return
    try:
        await result.get(None if timeout is None else timeout - patience, propagate=False)
    except ResultTimeout as exc:
        text = f"no result of {result.task_name}[{result.id}] within {timeout:g} s; the task goes on"
        why = await why_unclaimed(broker, queues)
        raise CommandFailed(f"{text}: {why}" if why else text) from exc
