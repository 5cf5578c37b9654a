"""The side of a stream that a run has: chunks become segments, each stored and seen to stand before it is told.

What gathers while a group is being stored is the next group. A run that finds another's name where it wanted to write
has lost its call, and ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from .. import states
from ..core.aio import Batcher, back_off, finish, start
from ..exceptions import LeaseLost, OperationalError, Refused
from ..tasks.request import Request
from ..tasks.streams import Stream
from .reader import Reader
from .records import Record
from .segments import HEAD, READERS, Head, Places, Reading, Segment

logger = logging.getLogger("aiotq.stream")

T = TypeVar("T")

#: Chunks, and bytes of them, that wait to be stored before the task has to wait.
_MOST_WAITING: Final = 1000
_MOST_BYTES: Final = 512 * 1024
#: A segment of at most so many bytes comes with the head, and needs no reading.
_TOLD: Final = 16_384
#: Segments looked at in one request for the end of a stream.
_LOOKED_AT: Final = 16
#: Seconds for which a store that fails is tried again.
_PATIENCE: Final = 60.0
#: Seconds that a reader is there for after it was heard of.
READER_KEPT: Final = 30.0
#: Seconds between looks whether readers are still there.
_LOOK: Final = 1.0
#: Seconds for what is left to be stored when the task has ended.
_CLOSING: Final = 10.0
_REVOKED_FOR: Final = 86_400.0


class StreamWriter:
    """The stream of one run of a call: `open` first, then `send`, and `close` in any case."""

    def __init__(
        self,
        source: Reader,
        policy: Stream,
        request: Request,
        now: Callable[[], float],
    ) -> None:
        self.streamed = 0  #: chunks that earlier runs have left
        self._records, self._codec, self._ledger = source.records, source.codec, source.ledger
        self._bus = source.bus
        self._policy = policy
        self._task_id = task_id = request.id or ""
        self._task = request.task or ""
        self._attempt = request.attempt
        self._now = now
        self._reply_to = None if source.records.tells_watchers else request.reply_to
        self._run = os.urandom(8).hex()
        self._places = Places(task_id)
        self._turn = 1
        self._first = self._next = 0  # segments: the first that is kept, and the one to be written
        self._sizes: list[int] = []  # chunks of those that are kept and were written here
        self._stored = 0  # chunks in the stream
        self._given = 0  # chunks that this run has given, with those that were there before it
        self._skipped = 0  # chunks still to come that are in the stream already
        self._batch: Batcher[bytes | None] = Batcher(max_items=_MOST_WAITING, max_weight=_MOST_BYTES, weigh=_size)
        self._bytes = 0
        self._taken = asyncio.Event()
        self._failed: BaseException | None = None
        self._storing: asyncio.Task[None] | None = None
        self._turned = 0.0  # loop time at which others had their turn
        self._wants_readers = policy.reader_timeout is not None
        self._readers = _Present(task_id) if self._wants_readers else None
        self._watching: asyncio.Task[None] | None = None
        self._stop_hearing: Callable[[], None] = lambda: None

    async def open(self) -> None:
        """Begin: from here on no earlier run of the call can write.

        Raises:
            OperationalError: the store can't be reached.
        """
        at, last = await self._end()
        is_again = last is not None or self._attempt > 0
        if last is None and is_again:  # all has expired: readers are elsewhere, and nobody is behind this
            at = max(at, int(self._now()))
            self._first = at
        while True:
            before = 0 if last is None or self._policy.rerun == "restart" else last.after
            self._turn = 1 if last is None else last.turn + 1
            segment = Segment(self._run, self._turn, before, is_anew=is_again and self._policy.rerun == "restart")
            standing = await self._put(at, segment)
            if standing.run == self._run:
                break
            at, last, is_again = at + 1, standing, True
        self._next = at + 1
        self._first = at if segment.is_anew else self._first
        self._stored = self._given = self.streamed = before
        if self._policy.rerun == "repeat":
            self._skipped, self._given = before, 0
        self._sizes = [0] * (self._next - self._first)
        if self._readers is not None:
            self._readers.position = 0 if segment.is_anew else before
            self._stop_hearing = self._bus.hear(READERS, self._readers.heard)
        await self._tell(at, segment)
        context = contextvars.copy_context()
        self._storing = start(self._store(), name="aiotq.stream", context=context)
        if self._readers is not None:
            self._watching = start(self._watch(self._readers), name="aiotq.stream.readers", context=context)

    async def send(self, chunk: Any) -> None:
        """Add `chunk`; it is stored soon.

        Raises:
            EncodeError, MessageTooLarge: it can't be sent.
            OperationalError: what was sent before could not be stored.
            LeaseLost: the call is another run's now.
        """
        if self._failed is not None:
            raise self._failed
        self._given += 1
        if self._skipped:
            self._skipped -= 1
            return
        packed = self._codec.encode_chunk(chunk)
        is_first = not self._batch.waiting
        self._batch.add(packed)
        self._bytes += len(packed)
        while (len(self._batch.waiting) >= _MOST_WAITING or self._bytes >= _MOST_BYTES) and self._failed is None:
            self._taken.clear()
            await self._taken.wait()
        if self._readers is not None and self._policy.ahead is not None:
            await self._readers.caught_up(self._given - self._policy.ahead)
        now = asyncio.get_running_loop().time()
        if is_first or now - self._turned > 0.001:  # a task that never waits must not keep its chunks from going
            self._turned = now
            await asyncio.sleep(0)

    async def close(self) -> None:
        """Store what is left; raises as `send`. On return nothing of it runs."""
        try:
            await finish(self._drained(), _CLOSING, once_cancelled=True)
        finally:
            self._stop_hearing()
            if running := [each for each in (self._storing, self._watching) if each is not None]:
                for each in running:
                    each.cancel()
                await asyncio.wait(running, timeout=1.0)
        if self._failed is not None:
            raise self._failed

    async def _drained(self) -> None:
        """Return when all is stored, or storing has failed."""
        if self._storing is not None:
            self._batch.add(None)
            await asyncio.wait({self._storing})

    async def _store(self) -> None:
        try:
            while True:
                group = await self._batch.take()
                self._bytes -= sum(map(_size, group))
                self._taken.set()
                if chunks := tuple(chunk for chunk in group if chunk is not None):
                    await self._add(Segment(self._run, self._turn, self._stored, chunks))
                if group[-1] is None:  # there won't be more
                    return
        except Exception as exc:  # for the task, at its next chunk or at its end
            self._failed = exc
            self._taken.set()

    async def _add(self, segment: Segment) -> None:
        number = self._next
        standing = await self._put(number, segment)
        if standing.run != self._run:
            # The worker is told that it lost the lease, and ends this run; a task that goes on would do so in vain.
            raise LeaseLost(f"the stream of {self._task_id} is written by another run of the call")
        self._stored = segment.after
        self._next += 1
        self._sizes.append(len(segment.chunks))
        await self._tell(number, segment)
        await self._drop()

    async def _put(self, number: int, segment: Segment) -> Segment:
        """Write segment `number` unless it is there; return the one that stands."""
        place = self._places.of(number)
        expires = self._now() + self._policy.expires
        record = Record(place, states.SUCCESS, segment.packed(), self._codec.chunk_content_type, expires)

        async def put() -> Segment:
            await self._records.put([record])
            (found,) = await self._records.get([place])
            return segment if found is None else Segment.unpacked(found.body)

        return await _persistent(put)

    async def _tell(self, number: int, segment: Segment) -> None:
        packed = segment.packed()
        head = Head(
            self._task,
            self._turn,
            self._first,
            number,
            self._bus.address if self._wants_readers else "",
            packed if len(packed) <= _TOLD else b"",
        )
        expires = self._now() + self._policy.expires
        record = Record(self._places.head, HEAD, head.packed(), self._codec.chunk_content_type, expires, self._reply_to)
        await _persistent(lambda: self._records.put([record]))

    async def _drop(self) -> None:
        """Forget the oldest segments, as far as enough is kept without them."""
        kept, gone = sum(self._sizes), 0
        if kept < 2 * self._policy.kept:  # many at once: summing up is not free
            return
        while kept - self._sizes[gone] >= self._policy.kept:
            kept -= self._sizes[gone]
            gone += 1
        await _persistent(lambda: self._records.forget(self._places.some(self._first, gone)))
        del self._sizes[:gone]
        self._first += gone

    async def _end(self) -> tuple[int, Segment | None]:
        """Return the first place that is free, and the segment before it."""

        async def look() -> tuple[int, Segment | None]:
            (told,) = await self._records.get([self._places.head])
            number = 0
            if told is not None:
                head = Head.unpacked(told.body)
                self._first, number = head.first, head.last
            last: Segment | None = None
            while True:
                found = await self._records.get(self._places.some(number, _LOOKED_AT))
                for record in found:
                    if record is None:
                        return number, last
                    last = Segment.unpacked(record.body)
                    number += 1

        return await _persistent(look)

    async def _watch(self, readers: _Present) -> None:
        """Have the call revoked when there was no reader for too long."""
        patience = self._policy.reader_timeout or 0.0
        while readers.alone < patience:  # noqa: ASYNC110  # it is time that passes
            await asyncio.sleep(min(_LOOK, patience))
        logger.info("Task %s has had no reader of its stream for %g s and is revoked", self._task_id, patience)
        try:
            expires = self._now() + _REVOKED_FOR
            await _persistent(lambda: self._ledger.revoke([self._task_id], terminate=True, expires=expires))
        except OperationalError as exc:
            logger.warning("Task %s could not be revoked, and goes on without a reader: %s", self._task_id, exc)


class _Present:
    """The readers of a stream, as they told of themselves."""

    def __init__(self, task_id: str) -> None:
        self._prefix = task_id.encode() + b"\n"
        self._there: dict[str, tuple[int, float]] = {}  # by reader: how far it is, and until when it is there
        self._moved = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._alone_since = self._loop.time()
        self.position = 0  #: how far the last one was that is gone

    def heard(self, payload: bytes) -> None:
        """Take what came over the bus."""
        told = Reading.unpacked(payload, self._prefix)
        if told is None:
            return
        self._drop_gone()
        if told.has_left:
            self._leave(told.reader, told.position)
        else:
            self._there[told.reader] = told.position, self._loop.time() + READER_KEPT
        self._moved.set()

    @property
    def alone(self) -> float:
        """Seconds for which there was no reader."""
        self._drop_gone()
        return 0.0 if self._there else self._loop.time() - self._alone_since

    @property
    def slowest(self) -> int:
        """How many chunks the slowest reader has read."""
        return min((position for position, _ in self._there.values()), default=self.position)

    async def caught_up(self, position: int) -> None:
        """Return when each reader has read `position` chunks."""
        while self.slowest < position:
            self._moved.clear()
            try:
                async with asyncio.timeout(_LOOK):
                    await self._moved.wait()
            except TimeoutError:
                self._drop_gone()

    def _drop_gone(self) -> None:
        now = self._loop.time()
        for reader in [each for each, (_, until) in self._there.items() if until <= now]:
            self._leave(reader, self._there[reader][0])

    def _leave(self, reader: str, position: int) -> None:
        if self._there.pop(reader, None) is not None and not self._there:
            self.position = position
            self._alone_since = self._loop.time()


def _size(chunk: bytes | None) -> int:
    return 0 if chunk is None else len(chunk)


async def _persistent(request: Callable[[], Awaitable[T]]) -> T:
    """Make a request of the store, again and again for a while if that fails."""
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + _PATIENCE, 0.05
    while True:
        try:
            return await request()
        except Refused:
            raise
        except OperationalError as exc:
            if loop.time() >= deadline:
                raise
            logger.debug("a stream can't be stored, trying again: %s", exc)
            pause = await back_off(pause, 2.0)
