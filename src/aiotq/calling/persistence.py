"""Asks broker or store until it answers, as long and as often as a call may be tried (P7)."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from ..core.settings import Settings
from ..exceptions import ConnectionLost, PublishFailed, PublishTimeout
from .retry_policy import UNTIL_DEADLINE, RetryPolicy, persistence_of

T = TypeVar("T")

#: In place of the id of a call that got none, because there was nothing to send it through.
_NO_ID: Final = "(not sent)"


async def persistently(
    ask: Callable[[], Awaitable[T]],
    conf: Settings,
    *,
    seconds: float | None,
    task_id: str | None,
    policy: RetryPolicy | None,
    again: type[ConnectionLost],
) -> T:
    """Return what `ask` returns, called again after errors that are `again`. For what comes before a call is sent.

    `seconds` and `policy` None: as the settings say.

    Raises:
        PublishTimeout: there was no answer within `seconds`.
        PublishFailed: there was none as often as `policy` allows.
        OperationalError: trying again would not help.
    """
    seconds = conf.task_publish_timeout if seconds is None else seconds
    how = policy or persistence_of(conf.task_publish_retry, conf.task_publish_retry_policy) or UNTIL_DEADLINE
    limit = asyncio.timeout(seconds)
    cause: ConnectionLost | None = None
    attempts = 0
    try:
        async with limit:
            while True:
                try:
                    return await ask()
                except again as exc:
                    cause = exc
                if (pause := how.pause(attempts, cause)) is None:
                    raise PublishFailed(task_id or _NO_ID, attempts + 1, maybe_sent=False, cause=cause) from cause
                attempts += 1
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
    except TimeoutError:
        if not limit.expired():
            raise
        raise PublishTimeout(task_id or _NO_ID, seconds, maybe_sent=False, cause=cause) from cause
