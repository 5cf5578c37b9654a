"""How loaded a worker is, which it tells its parent; the parent decides how many there are to be."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Final

from ..calling.core import AppCore
from ..control.admin import Admin
from ..core.logs import WarnOnce
from ..exceptions import OperationalError
from ..supervising.line import Load
from ..supervising.scale import LOOK
from ..transport import Delivery
from ..worker.observers import Observer
from ..worker.worker import Worker

logger = logging.getLogger("aiotq.worker")

#: Seconds for which the oldest call of a queue may wait before another worker is needed.
_LATE: Final = 1.0


class HandedBack(Observer):
    """Notes whether a worker gave back what it had no slot for: that waits as well, and is not ready meanwhile."""

    def __init__(self) -> None:
        self.any = False

    def handed_back(self, delivery: Delivery, delay: float) -> None:
        self.any = True


def load_of(
    waiting: Sequence[tuple[int, float | None]], slots: Mapping[str, tuple[int, int]], *, handed_back: bool
) -> Load:
    """Return how loaded a worker is whose queues have so many ready messages, the oldest of such an age in seconds.

    A broker that does not know ages (RabbitMQ) is one where all that is ready waits for long.
    """
    if any(ready and (age is None or age >= _LATE) for ready, age in waiting):
        return Load.BEHIND
    if handed_back and any(taken >= capacity for taken, capacity in slots.values()):
        return Load.BEHIND
    is_quiet = all(taken <= capacity // 2 for taken, capacity in slots.values())
    return Load.QUIET if is_quiet and not any(ready for ready, _ in waiting) else Load.BUSY


async def tell_load(worker: Worker, core: AppCore, parent: socket.socket) -> None:
    """Tell `parent` of the worker's load, again and again, until cancelled."""
    complaint = WarnOnce(logger, "how many messages wait is not known, and the number of workers stays as it is")
    noted = HandedBack()
    worker.observe(noted)
    while True:
        noted.any = False
        await asyncio.sleep(LOOK)
        try:
            queues = [each for each in await Admin(core).queues(worker.queues) if each.paused_since is None]
            complaint.withdraw()
        except OperationalError as exc:
            complaint.make(exc)
            continue
        load = load_of(
            [(each.ready, each.oldest_age) for each in queues], worker.facts()["slots"], handed_back=noted.any
        )
        with suppress(OSError):  # the parent is gone, or does not read now
            parent.send(load.value)
