"""Reading a stream: what is kept of it, and then what comes, pushed."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar

from .. import states
from ..core.sync import Bridge
from ..core.values import value
from ..exceptions import (
    CallError,
    OperationalError,
    ResultTimeout,
    StoreRequired,
    StreamError,
    StreamGap,
    StreamRestarted,
)
from ..tasks.request import running_request
from .get_options import check_timeout
from .reader import Reader, Readers
from .records import Record
from .segments import READERS, Head, Place, Places, Reading, Segment

if TYPE_CHECKING:
    from .handle import AsyncResult

logger = logging.getLogger("aiotq.stream")

C_co = TypeVar("C_co", covariant=True)

#: Where a reading begins: with the first chunk that is kept, or with the next that comes.
Start = Literal["start", "now"]
#: Segments that are read in one request.
_AT_ONCE: Final = 16
#: Seconds between saying that a reader is there; and while it moves.
_SAID_EVERY: Final = 5.0
_MOVES_SAID_EVERY: Final = 0.05
#: Seconds that saying so may take.
_TIME_TO_SAY: Final = 2.0


@value
class _Raised:
    """What is raised where a chunk would come."""

    error: StreamError


class ChunkStream(Generic[C_co]):
    """The chunks of a task, read with `async for`: `result.stream()`.

    `async with` says at once that the reader leaves. After a `StreamRestarted` or `StreamGap` reading goes on.
    """

    def __init__(
        self,
        result: AsyncResult[Any],
        readers: Readers,
        start: Start,
        after: Place | str | None,
        timeout: float | None,
    ) -> None:
        check_timeout(timeout)
        if start not in {"start", "now"}:
            raise CallError(f'a stream is read from its "start", from "now", or after= a place, not {start!r}')
        place = Place.of(after) if isinstance(after, str) else after
        self._follower = _Follower(result, readers, start, place, timeout)
        self._items: AsyncGenerator[Any, None] = self._follower.items()

    @property
    def place(self) -> str:
        """Where this reading is, for `after=` of one that goes on here: behind the last chunk that came."""
        return str(self._follower.place)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> C_co:
        item = await anext(self._items)
        if isinstance(item, _Raised):
            raise item.error
        chunk: C_co = item
        return chunk

    async def aclose(self) -> None:
        """End reading: the task knows that this reader is gone."""
        await self._items.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def in_sync(self, bridge: Bridge) -> SyncChunkStream[C_co]:
        """Return it for code without a loop."""
        return SyncChunkStream(self, bridge)


class SyncChunkStream(Generic[C_co]):
    """The chunks of a task for code without a loop: `result.sync.stream()`; as `ChunkStream`."""

    def __init__(self, stream: ChunkStream[C_co], bridge: Bridge) -> None:
        self._stream = stream
        self._bridge = bridge

    @property
    def place(self) -> str:
        return self._stream.place

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> C_co:
        try:
            return self._bridge.run(self._stream.__anext__)
        except StopAsyncIteration:
            raise StopIteration from None

    def close(self) -> None:
        self._bridge.run(self._stream.aclose)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


@value
class _Found:
    """A segment that was found, and how its chunks are encoded."""

    number: int
    segment: Segment
    content_type: str


class _Told:
    """What was told of a stream and of its task, last."""

    def __init__(self, task_id: str) -> None:
        self.head: Head | None = None
        self.content_type = ""
        self.ended: Record | None = None
        self.is_closed = False
        self.came = asyncio.Event()
        self._task_id = task_id

    def take(self, record: Record | None) -> None:
        if record is None:
            self.is_closed = True
        elif record.id != self._task_id:
            self.see(record)
        elif states.is_ready(record.state):
            self.ended = record
        else:
            return
        self.came.set()

    def see(self, record: Record) -> Head:
        """Know what a head says, unless a later run's is known, and return what is known."""
        head = Head.unpacked(record.body)
        known = self.head
        if known is None or (head.turn, head.last) >= (known.turn, known.last):
            self.head, self.content_type = head, record.content_type
        return self.head or head


class _Follower:
    """One reader of one stream."""

    def __init__(
        self,
        result: AsyncResult[Any],
        readers: Readers,
        start: Start,
        after: Place | None,
        timeout: float | None,
    ) -> None:
        self._result = result
        self._readers = readers
        self._timeout = timeout
        self._places = Places(result.id)
        self._told = _Told(result.id)
        self._name = os.urandom(8).hex()
        self.place = after or Place()
        self._begins: Start | None = start if after is None else None  # until it has begun there
        self._has_read = after is not None and after != Place()  # chunks that a new beginning makes void
        self._position: int | None = None  # chunks before its place, once that is known
        self._said: tuple[int, str] = -1, ""  # the position, and to whom
        self._said_at = 0.0

    async def items(self) -> AsyncGenerator[Any, None]:
        """Yield the chunks, and what is to be raised between them; raise what the task does, at its end."""
        if self._result.is_known and self._result.document is None:
            raise CallError(f"the result of {self._result.id} is ignored, and its stream with it")
        source = await self._readers.reader()
        if not source.records.is_shared:
            raise StoreRequired(
                "a stream is kept beside the results, and rpc:// keeps none: set result_backend to a redis://, "
                "sqlite:// or postgresql:// URL"
            )
        ids = (self._places.head, self._result.id)
        slot = running_request.get().slot
        if slot is not None:
            slot.lend()
        try:
            elsewhere = (self._places.head, *self._result.elsewhere(source))
            async with source.waiting.listening(ids, self._told.take, elsewhere):
                try:
                    while (more := await self._more(source)) is not None:
                        for found in more:
                            for item in self._items_of(found):
                                yield item if isinstance(item, _Raised) else self._decoded(source, found, item)
                                await self._say(source)
                finally:
                    await self._leave(source)
        finally:
            if slot is not None:
                slot.take_back_now()
        ended = self._told.ended
        assert ended is not None, "there is no more when the task has ended"
        self._result.see(source.document(ended, self._result.task_name))
        if (error := self._result.failure()) is not None:
            raise error

    async def _more(self, source: Reader) -> Sequence[_Found] | None:
        """Return the next segments when there are some; None when the stream has ended."""
        deadline = None if self._timeout is None else asyncio.get_running_loop().time() + self._timeout
        while True:
            self._told.came.clear()
            is_over = self._told.ended is not None
            if found := await self._look(source, is_over=is_over):
                return found
            if is_over:
                return None
            if self._told.is_closed:
                raise OperationalError("the app's connection was closed while a stream was read; the task goes on")
            await self._wait(source, deadline)

    async def _look(self, source: Reader, *, is_over: bool) -> Sequence[_Found]:
        """Return the segments that are there from the reader's place on."""
        head = self._told.head
        if head is not None and self._begins is None and not is_over:
            if head.last < self.place.segment:
                return ()
            if head.last == self.place.segment and head.segment:
                return [_Found(head.last, Segment.unpacked(head.segment), self._told.content_type)]
        if self._begins is not None or is_over or head is None:
            (record,) = await source.records.get([self._places.head])
            if record is None:  # nothing was ever sent, or all has expired
                return ()
            head = self._told.see(record)
            await self._begin(source, head)
        return await self._read(source, head, is_over=is_over)

    async def _begin(self, source: Reader, head: Head) -> None:
        """Be where reading begins, if it has not begun."""
        if self._begins == "now":
            (last,) = await source.records.get([self._places.of(head.last)])
            self.place = Place(head.last + 1)
            self._position = None if last is None else Segment.unpacked(last.body).after
            self._has_read = bool(self._position)
        elif self._begins == "start":
            self.place = Place(head.first)
        self._begins = None

    async def _read(self, source: Reader, head: Head, *, is_over: bool) -> Sequence[_Found]:
        """Return some segments from the reader's place on; the first that are kept.

        A head may be that of a run which had lost its call when it wrote it. So at the end it is not believed.
        """
        number = self.place.segment
        is_first = is_over
        while number <= head.last or is_first:
            is_first = False
            records = await source.records.get(self._places.some(number, _AT_ONCE))
            there: list[_Found] = []
            for each, record in enumerate(records, number):
                if record is not None:
                    there.append(_Found(each, Segment.unpacked(record.body), record.content_type))
                elif there:
                    break
            if there:
                return there
            number = max(number + _AT_ONCE, head.first)
        return ()

    def _items_of(self, found: _Found) -> Generator[bytes | _Raised, None, None]:
        """Yield the chunks of a segment that are not read yet, and move on."""
        number, segment = found.number, found.segment
        if segment.is_anew:
            has_read, self._has_read, self._position = self._has_read, False, 0
            self.place = Place(number + 1)
            if has_read:
                yield _Raised(StreamRestarted("the task began again: what came so far is void"))
            return
        if number == self.place.segment:
            skipped = self.place.chunk
            self._position = segment.before + skipped
        else:
            skipped = 0
            missed = None if self._position is None else segment.before - self._position
            self.place, self._position = Place(number), segment.before
            if self._has_read and missed != 0:
                yield _Raised(StreamGap(missed))
        for index in range(skipped, len(segment.chunks)):
            self.place, self._has_read = Place(number, index + 1), True
            self._position = segment.before + index + 1
            yield segment.chunks[index]
        self.place = Place(number + 1)

    def _decoded(self, source: Reader, found: _Found, chunk: bytes) -> Any:
        head = self._told.head
        name = self._result.task_name or (None if head is None else head.task)
        return source.shape(name, source.codec.decode_chunk(found.content_type, chunk))

    async def _wait(self, source: Reader, deadline: float | None) -> None:
        """Return when something was told; raise `ResultTimeout` if nothing is before the deadline."""
        loop = asyncio.get_running_loop()
        while True:
            await self._say(source, now=True)
            until = loop.time() + _SAID_EVERY
            try:
                async with asyncio.timeout_at(until if deadline is None else min(until, deadline)):
                    await self._told.came.wait()
                return
            except TimeoutError:
                if deadline is not None and loop.time() >= deadline:
                    raise ResultTimeout(
                        f"no chunk of {self._result.id} within {self._timeout:g} s; the task goes on, "
                        "if there is one of that id"
                    ) from None

    async def _say(self, source: Reader, *, now: bool = False) -> None:
        """Tell the run that this reader is there, and how far: at once, or if the last time is a while ago."""
        head = self._told.head
        if head is None or not head.hears:
            return
        time = asyncio.get_running_loop().time()
        position = self._position or 0
        since = time - self._said_at
        is_news = self._said != (position, head.hears) and (now or since >= _MOVES_SAID_EVERY)
        if is_news or since >= _SAID_EVERY:
            self._said, self._said_at = (position, head.hears), time
            await self._tell(source, head.hears, Reading(self._name, position))

    async def _leave(self, source: Reader) -> None:
        _, hears = self._said
        if hears:
            await self._tell(source, hears, Reading(self._name, self._position or 0, has_left=True))

    async def _tell(self, source: Reader, address: str, reading: Reading) -> None:
        with suppress(OperationalError, TimeoutError):  # it is said again, and who does not is gone after a while
            async with asyncio.timeout(_TIME_TO_SAY):
                await source.bus.tell(address, READERS, reading.packed(self._result.id))
