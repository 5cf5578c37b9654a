"""Waiting for a server that can't be reached yet, as when all is started at once."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from ..app import AioTQ
from ..core.inside import core_of
from ..exceptions import AioTQError, NotConnected

logger = logging.getLogger("aiotq.worker")

#: Seconds between attempts to reach a server at the start.
_FIRST_PAUSE: Final = 0.2
_LONGEST_PAUSE: Final = 5.0


async def reached(app: AioTQ, asked: Callable[[], Awaitable[object]]) -> bool:
    """Return when the app is connected; False if `asked` returned before, which means that this process is to stop."""
    pause = _FIRST_PAUSE
    said = ""
    while True:
        try:
            await core_of(app).connection()
        except NotConnected as exc:
            if str(exc) != said:
                said = str(exc)
                logger.warning("waiting for the broker: %s", exc)
        except AioTQError:
            return True  # `connected` will say so
        else:
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(pause * random.uniform(0.5, 1.0)):
                await asked()
                return False
        pause = min(pause * 2, _LONGEST_PAUSE)
