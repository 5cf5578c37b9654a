"""When a worker has done its share, and ends by itself: so many tasks, so much time or memory, or all there was."""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import Final

from .. import states
from ..calling.core import AppCore
from ..canvas.outcome import REJECTED, Outcome
from ..commit import Finish
from ..core.logs import WarnOnce
from ..core.system import resident_bytes
from ..exceptions import OperationalError
from ..worker.observers import Observer
from ..worker.run import Run
from ..worker.worker import Worker
from .app_option import UsageError

logger = logging.getLogger("aiotq.worker")

#: Seconds between looks at time, memory and queues.
_INTERVAL: Final = 0.5
_SIZE: Final = re.compile(r"(\d+)([KMG])i?B?", re.IGNORECASE)
_UNITS: Final = {"K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker does before it ends by itself; None: there is no end to it.

    `memory` is bytes, `seconds` a time. `goes_on`: another worker takes its place. `is_all`: it ends when no message is
    ready in its queues and nothing runs.
    """

    tasks: int | None = None
    memory: int | None = None
    seconds: float | None = None
    is_all: bool = False
    goes_on: bool = False

    def __bool__(self) -> bool:
        return self.tasks is not None or self.memory is not None or self.seconds is not None or self.is_all


WITHOUT_END: Final = Share()


class Counting(Observer):
    """Counts the runs of a worker that failed."""

    def __init__(self) -> None:
        self.failed = 0

    def ended(self, run: Run, outcome: Outcome | None, finish: Finish | None) -> None:
        if outcome is not None and outcome.state in (states.FAILURE, REJECTED):
            self.failed += 1


def read_size(option: str, text: str | None) -> int | None:
    """Return the bytes that `text` says, as 300M or 2G.

    Raises:
        UsageError: it says none.
    """
    if text is None:
        return None
    found = _SIZE.fullmatch(text)
    if found is None or int(found[1]) == 0:
        raise UsageError(f"{option}: write a size with its unit, as 300M or 2G, not {text!r}")
    return int(found[1]) * _UNITS[found[2].upper()]


async def done(share: Share, worker: Worker, core: AppCore) -> str:
    """Return why the worker is to end, when it is."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    complaint = WarnOnce(logger, "looking whether all is done failed")
    while True:
        await asyncio.sleep(_INTERVAL)
        if share.tasks is not None and worker.completed >= share.tasks:
            return f"{worker.completed} tasks are done"
        if share.seconds is not None and loop.time() - began >= share.seconds:
            return f"{share.seconds:g} s are over"
        if share.memory is not None and (used := resident_bytes() or 0) > share.memory:
            return f"it uses {used / 1024**2:.0f} MB of memory"
        if share.is_all and worker.running == 0:
            try:
                if await _is_empty(worker, core):
                    return "no message is left"
                complaint.withdraw()
            except OperationalError as exc:
                complaint.make(exc)


async def _is_empty(worker: Worker, core: AppCore) -> bool:
    queues = await (await core.connection()).broker.stats(worker.queues)
    return not any(queue.ready or queue.leased for queue in queues) and worker.running == 0
