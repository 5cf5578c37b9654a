"""Waiting for results: pushed, on one listener a process, however many wait (P7: no push can be missed).

A waiter registers, then the store is asked once (many waiters share that question), then pushes decide. A slow look at
everything waited for is the net under lost pushes.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import random
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Final

from .. import states
from ..core.logs import WarnOnce
from ..exceptions import OperationalError
from .records import Record, RecordStore

logger = logging.getLogger("aiotq.results")

_CHECK_AT_ONCE: Final = 1000
#: Seconds between looks at all that is waited for; pushes make it unnecessary, faults make it useful.
_SAFETY_INTERVAL: Final = 5.0

#: The same where records come that nobody pushes: the first, and by how much longer each further one is.
_FIRST_POLL: Final = 0.05
_BACK_OFF: Final = 1.5
#: What each id that is waited for adds to that at least, so that very many are not asked for all the time.
_FOR_EACH: Final = 50e-6

#: Seconds of waiting without a timeout, for what may not exist, before that is said.
_WARNED_AFTER: Final = 30.0

#: Seconds in which the broker is to say whether anybody takes what is waited for.
_TIME_TO_ASK: Final = 1.0
_LOOKS_BEFORE_WARNING: Final = round(_WARNED_AFTER / _SAFETY_INTERVAL)

#: Told each record; None when there won't be any more, because the connection is closed.
Listener = Callable[[Record | None], None]


class Backlog:
    """Records that came and were not read yet. A reader who is `size` behind misses the oldest (0: none is missed)."""

    def __init__(self, size: int) -> None:
        self._records: deque[Record] = deque(maxlen=size or None)
        self._came = asyncio.Event()
        self._is_closed = False

    def put(self, record: Record | None) -> None:
        if record is None:
            self._is_closed = True
        else:
            self._records.append(record)
        self._came.set()

    async def get(self) -> Record:
        """Return the next record.

        Raises:
            OperationalError: the connection was closed.
        """
        await self._some()
        return self._records.popleft()

    async def take(self) -> list[Record]:
        """Return all that has come, when there is something; as `get`."""
        await self._some()
        records = list(self._records)
        self._records.clear()
        return records

    async def _some(self) -> None:
        while not self._records:
            if self._is_closed:
                raise _closed()
            self._came.clear()
            await self._came.wait()


class Waiting:
    """The callers in this loop that wait for results, by task; its owner runs `run()`."""

    def __init__(
        self, store: RecordStore, why_unclaimed: Callable[[Collection[str]], Awaitable[str | None]] | None = None
    ) -> None:
        self._store = store
        self._why_unclaimed = why_unclaimed
        store.on_push = self._pushed
        store.on_missed = self._missed
        self._listeners: dict[str, list[Listener]] = {}
        self._unchecked: dict[str, None] = {}
        self._work = asyncio.Event()
        self._poll = _FIRST_POLL
        self._is_closed = False
        self._complaint = WarnOnce(logger, "reading awaited results failed")
        self._sent: dict[asyncio.Future[Record], tuple[str, int]] = {}  # the queue, and looks until that is spoken of
        self._spoken_of: set[str] = set()

    async def terminal(self, task_id: str, *, pushed_here: bool, queue: str | None = None) -> Record:
        """Return the terminal record of `task_id` when there is one.

        `pushed_here`: its records are sent to this process anyway; otherwise it is watched meanwhile. If that takes
        long, and nobody takes what waits in `queue`, that is logged.
        """
        found: asyncio.Future[Record] = asyncio.get_running_loop().create_future()

        def finish(record: Record | None) -> None:
            if found.done():
                return
            if record is None:
                found.set_exception(_closed())
            elif states.is_ready(record.state):
                found.set_result(record)

        if queue is not None and queue not in self._spoken_of:
            self._sent[found] = queue, _LOOKS_BEFORE_WARNING
        try:
            async with self.listening((task_id,), finish, () if pushed_here else (task_id,)):
                return await found
        finally:
            self._sent.pop(found, None)

    @asynccontextmanager
    async def records(
        self, ids: Collection[str], *, elsewhere: Collection[str] = (), size: int = 0
    ) -> AsyncGenerator[Backlog, None]:
        """Collect the records of `ids`, the present ones first; those `elsewhere` are not pushed here anyway."""
        backlog = Backlog(size)
        async with self.listening(ids, backlog.put, elsewhere):
            yield backlog

    async def run(self) -> None:
        """Look for the records of new waiters until cancelled; then those that still wait get an error."""
        try:
            await self._answer()
        finally:
            self._is_closed = True
            for listener in [each for listeners in self._listeners.values() for each in listeners]:
                listener(None)

    async def _answer(self) -> None:
        loop = asyncio.get_running_loop()
        next_look = loop.time() + _SAFETY_INTERVAL
        next_poll = math.inf
        while True:
            if not self._unchecked:
                self._work.clear()
                try:
                    async with asyncio.timeout_at(min(next_look, next_poll) if self._listeners else None):
                        await self._work.wait()
                except TimeoutError:
                    self._unchecked.update(dict.fromkeys(self._listeners))
                    self._poll = min(self._poll * _BACK_OFF, _SAFETY_INTERVAL)
                    next_poll = math.inf
                    if loop.time() >= next_look:
                        next_look = loop.time() + _SAFETY_INTERVAL * random.uniform(0.8, 1.2)
                        await self._speak_of_unclaimed()
                if self._store.is_polled:
                    pause = max(self._poll, _FOR_EACH * len(self._listeners))
                    next_poll = min(next_poll, loop.time() + pause * random.uniform(0.8, 1.2))
            ids = list(itertools.islice(self._unchecked, _CHECK_AT_ONCE))
            for task_id in ids:
                del self._unchecked[task_id]
            await self._look(ids)

    @asynccontextmanager
    async def listening(
        self, ids: Collection[str], listener: Listener, elsewhere: Collection[str]
    ) -> AsyncGenerator[None, None]:
        """Have `listener` told of the records of `ids`; see `records`."""
        if self._is_closed:
            raise _closed()
        if self._store.watches_all:
            elsewhere = ids
        for task_id in ids:
            self._listeners.setdefault(task_id, []).append(listener)
        self._store.listening = True
        try:
            for task_id in elsewhere:
                await self._store.watch(task_id)
            self._unchecked.update(dict.fromkeys(ids))
            self._poll = _FIRST_POLL
            self._work.set()
            yield
        finally:
            for task_id in ids:
                listeners = self._listeners[task_id]
                listeners.remove(listener)
                if not listeners:
                    del self._listeners[task_id]
            if not self._listeners:
                self._store.listening = False
            try:
                for task_id in elsewhere:
                    if task_id not in self._listeners:
                        await self._store.unwatch(task_id)
            except OperationalError as exc:  # nothing to who has his record, or hears why there is none
                logger.debug("can't end watching %s: %s", ", ".join(elsewhere), exc)

    async def _speak_of_unclaimed(self) -> None:
        """Log, once for each queue, that nobody takes what somebody here waits for."""
        self._sent = {found: (queue, looks - 1) for found, (queue, looks) in self._sent.items() if looks}
        for queue in {queue for queue, looks in self._sent.values() if not looks} - self._spoken_of:
            with suppress(TimeoutError):
                async with asyncio.timeout(_TIME_TO_ASK):
                    if self._why_unclaimed is not None and (why := await self._why_unclaimed([queue])) is not None:
                        self._spoken_of.add(queue)
                        logger.warning("Still waiting for a result after %g s: %s", _WARNED_AFTER, why)

    async def _look(self, ids: Sequence[str]) -> None:
        wanted = [task_id for task_id in ids if task_id in self._listeners]
        try:
            records = await self._store.get(wanted) if wanted else ()
        except OperationalError as exc:
            self._complaint.make(exc)
            await asyncio.sleep(random.uniform(0.1, 0.3))
            self._unchecked.update(dict.fromkeys(wanted))
            return
        self._complaint.withdraw()
        self._pushed([record for record in records if record is not None])

    def _missed(self, ids: Collection[str] | None) -> None:
        """Look at what may have been missed: `ids`, or all that is waited for."""
        self._unchecked.update(dict.fromkeys(self._listeners if ids is None else ids))
        self._work.set()

    def _pushed(self, records: Sequence[Record]) -> None:
        for record in records:
            for listener in tuple(self._listeners.get(record.id, ())):
                listener(record)


@contextmanager
def warned_when_long(ids: Sequence[str]) -> Generator[None, None, None]:
    """Log a warning if waiting in this block lasts long, and nothing says that tasks of `ids` exist."""
    if not ids:
        yield
        return
    timer = asyncio.get_running_loop().call_later(_WARNED_AFTER, _warn, ids)
    try:
        yield
    finally:
        timer.cancel()


def _warn(ids: Sequence[str]) -> None:
    named = f"{ids[0]} and {len(ids) - 1} more" if len(ids) > 1 else ids[0]
    logger.warning(
        "Still waiting for a result of %s after %g s, and get() without a timeout goes on for ever if none comes: "
        "the id may be wrong or of another app, the result may have expired or been forgotten, "
        "the task may ignore its result, or its queue may have no worker",
        named,
        _WARNED_AFTER,
    )


def _closed() -> OperationalError:
    return OperationalError("the app's connection was closed while a result was awaited; the task goes on")
