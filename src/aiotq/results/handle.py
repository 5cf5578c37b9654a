"""The handles callers hold: `AsyncResult`, its plain twin `SyncResult`, and `EagerResult`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Iterable, Sequence
from contextlib import aclosing
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Generic, Literal, Protocol, TypeVar, cast, overload

from .. import states
from .._values import value
from ..exceptions import ResultTimeout
from ..sync import Bridge
from .base import Record, ResultStore
from .document import Document, DocumentCodec
from .waiting import Waiting

R = TypeVar("R")

#: State changes kept for a reader of `updates` who is slow.
_BACKLOG: Final = 1000

OnMessage = Callable[[dict[str, Any]], Any]

#: Seconds a revocation is remembered beyond the task's due time, unless results live longer.
_REVOCATION_TIME: Final = 86_400.0
#: The same for a handle made from an id, which does not know when its task is due.
_LONG_REVOCATION: Final = 366 * 86_400.0


@value
class Reader:
    """What a handle needs of a connected app."""

    store: ResultStore
    waiting: Waiting
    codec: DocumentCodec
    result_expires: float


class Readers(Protocol):
    """All that a handle asks of the app."""

    @property
    def bridge(self) -> Bridge: ...

    async def reader(self) -> Reader:
        """Return what reads results in the running loop, connecting if need be."""
        ...

    def now(self) -> float:
        """Wall time."""
        ...


class Slot(Protocol):
    """The place a running task occupies in its worker."""

    def lend(self) -> None:
        """Let another task run here while this one waits."""

    async def take_back(self) -> None:
        """Wait for a place to go on."""

    def take_back_now(self) -> None:
        """Go on at once, for cleaning up, even with one too many."""


#: The slot of the task that runs in this context, if one does: a task that awaits another's result lends it.
running_slot: ContextVar[Slot | None] = ContextVar("aiotq_running_slot", default=None)


@value
class Update:
    """One state change of a task: `info` is the value, the exception, or what `update_state` was given."""

    state: str
    info: Any
    is_ready: bool


class AsyncResult(Generic[R]):
    """What became of one call. Await it for the task's return value, or the exception it raised.

    result = await add.delay(2, 2)
    assert await result == 4
    """

    __slots__ = ("_document", "_due", "_ignored", "_knows_due", "_readers", "_reply_to", "id", "parent", "task_name")
    _frames: TracebackType | None = None  #: where the exception came from, if that was here

    def __init__(
        self,
        task_id: str,
        readers: Readers,
        *,
        task_name: str | None = None,
        parent: AsyncResult[Any] | None = None,
        reply_to: str | None = None,
        due: float | None = None,
        ignored: bool = False,
    ) -> None:
        self.id = task_id
        self.task_name = task_name
        self.parent = parent
        self._readers = readers
        self._reply_to = reply_to
        self._due = due
        self._knows_due = task_name is not None  # a handle of a call, and not one made from an id
        self._ignored = ignored
        self._document: Document | None = None

    def __await__(self) -> Generator[Any, Any, R]:
        return self.get().__await__()

    def __repr__(self) -> str:
        return f"<AsyncResult: {self.id}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and other.id == self.id

    def __hash__(self) -> int:
        return hash(self.id)

    @property
    def is_known(self) -> bool:
        """Whether this handle has seen its task end, so that awaiting it takes no time."""
        return self._ignored or self._document is not None

    @property
    def sync(self) -> SyncResult[R]:
        """This result for code without a loop."""
        return SyncResult(self, self._readers.bridge)

    @overload
    async def get(
        self, timeout: float | None = ..., *, propagate: Literal[True] = ..., on_message: OnMessage | None = ...
    ) -> R: ...
    @overload
    async def get(
        self, timeout: float | None = ..., *, propagate: bool, on_message: OnMessage | None = ...
    ) -> R | BaseException: ...
    async def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        on_message: OnMessage | None = None,
    ) -> R | BaseException:
        """Return the task's value, waiting up to `timeout` seconds (None: as long as it takes).

        `propagate=False` returns the task's exception instead of raising it. `on_message` (plain or coroutine) is
        called with each state change in Celery's form (`{"status": …, "result": …, …}`). A call with
        `ignore_result` gives None. Waiting in a task lends its slot to another one. An id that nobody sent waits
        for ever: states are not known before a task begins.

        Raises:
            ResultTimeout: no result in time; the task goes on.
            Exception: what the task raised; as `RemoteError` if its type is not loaded here.
        """
        if self._ignored:
            return cast(R, None)
        document = self._document
        if document is None:
            slot = running_slot.get()
            if slot is None:
                document = await self._terminal(timeout, on_message)
            else:
                slot.lend()
                try:
                    document = await self._terminal(timeout, on_message)
                except BaseException:
                    slot.take_back_now()
                    raise
                await slot.take_back()
        if document.state in states.EXCEPTION_STATES and propagate:
            error: BaseException = document.result
            raise error.with_traceback(self._frames)  # it is raised again at each await: its traceback must not grow
        return cast(R, document.result)

    wait = get

    async def look(self) -> Update:
        """Return the task's state and what belongs to it, in one look."""
        document = await self._present()
        return Update(document.state, document.result, states.is_ready(document.state))

    async def state(self) -> str:
        """Return the task's state; PENDING for an id that nothing is known of."""
        return (await self._present()).state

    async def ready(self) -> bool:
        """Whether the task has ended, in whatever way."""
        return states.is_ready((await self._present()).state)

    async def successful(self) -> bool:
        """Whether the task has ended with a value."""
        return (await self._present()).state == states.SUCCESS

    async def failed(self) -> bool:
        """Whether the task has ended with an exception."""
        return (await self._present()).state == states.FAILURE

    async def info(self) -> Any:
        """Return the value, the exception, or what a running task told with `update_state`."""
        return (await self._present()).result

    async def traceback(self) -> str | None:
        """Return the text of the traceback in the worker, if the task failed."""
        return (await self._present()).traceback

    async def date_done(self) -> datetime | None:
        """Return when the task ended (UTC)."""
        return (await self._present()).date_done

    async def children(self) -> list[AsyncResult[Any]]:
        """Return the results of the tasks which this one sent."""
        return [AsyncResult(str(child), self._readers) for child in (await self._present()).children]

    async def updates(self) -> AsyncIterator[Update]:
        """Yield the present state and then each change as it happens, up to the last."""
        reader = await self._readers.reader()
        async with reader.waiting.records([self.id], elsewhere=self.elsewhere(reader), size=_BACKLOG) as records:
            last: Record | None = None
            while last is None or not states.is_ready(last.state):
                record = await records.get()
                if record != last:  # a push and a look may tell the same
                    last = record
                    document = reader.codec.decode(record)
                    yield Update(document.state, document.result, states.is_ready(document.state))

    async def forget(self) -> None:
        """Delete what the store knows of the task."""
        reader = await self._readers.reader()
        await reader.store.forget([self.id])
        self._document = None

    async def revoke(self, *, terminate: bool = False) -> None:
        """See to it that the task does not run: it ends as REVOKED when a worker comes to it (P8).

        `terminate=True` also cancels it where it runs: a coroutine at its next await, a process task by killing
        its process; a function in a thread can't be stopped and goes on. The revocation is remembered for a day (or
        as long as results are, if that is more) beyond the time the task is due; through a handle that was made
        from an id, for a year.
        """
        reader = await self._readers.reader()
        now = self._readers.now()
        if self._knows_due:
            expires = max(now, self._due or now) + max(_REVOCATION_TIME, reader.result_expires)
        else:
            expires = now + max(_LONG_REVOCATION, reader.result_expires)
        await reader.store.revoke([self.id], terminate=terminate, expires=expires)

    async def _present(self) -> Document:
        if self._document is not None:
            return self._document
        reader = await self._readers.reader()
        (record,) = await reader.store.get([self.id])
        if record is None:
            return Document(self.id, states.PENDING, None)
        document = reader.codec.decode(record)
        if states.is_ready(document.state):
            self._document = document
        return document

    async def _terminal(self, timeout: float | None, on_message: OnMessage | None) -> Document:
        if timeout is None:
            return await self._wait(on_message)
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return await self._wait(on_message)
        except TimeoutError:
            if not limit.expired():  # `on_message` raised it
                raise
            name = f"{self.task_name}[{self.id}]" if self.task_name else self.id
            raise ResultTimeout(f"no result of {name} within {timeout:g} s; the task goes on") from None

    async def _wait(self, on_message: OnMessage | None) -> Document:
        reader = await self._readers.reader()
        if on_message is not None:
            return await self._tell(reader, on_message)
        record = await reader.waiting.terminal(self.id, pushed_here=not self.elsewhere(reader))
        self._document = reader.codec.decode(record)
        return self._document

    def see(self, document: Document) -> None:
        """Take `document` for how the task ended."""
        self._document = document

    def elsewhere(self, reader: Reader) -> tuple[str, ...]:
        """Return this id, if its records go to another process, and nothing otherwise."""
        return () if reader.store.address == self._reply_to else (self.id,)

    async def _tell(self, reader: Reader, on_message: OnMessage) -> Document:
        async with reader.waiting.records([self.id], elsewhere=self.elsewhere(reader), size=_BACKLOG) as records:
            last: Record | None = None
            while True:
                record = await records.get()
                if record == last:  # a push and a look may tell the same
                    continue
                last = record
                document = reader.codec.decode(record)
                told = on_message(document.as_meta())
                if inspect.isawaitable(told):
                    await told
                if states.is_ready(document.state):
                    self._document = document
                    return document


class ResultSet(Sequence[AsyncResult[R]]):
    """The results of many calls, in the order of the calls. Await it for the list of their values.

    results = await app.send_many(add.s(i, i) for i in range(10))
    assert await results == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    """

    def __init__(self, results: Iterable[AsyncResult[R]], readers: Readers) -> None:
        self._results = tuple(results)
        self._readers = readers

    @overload
    def __getitem__(self, index: int) -> AsyncResult[R]: ...
    @overload
    def __getitem__(self, index: slice) -> ResultSet[R]: ...
    def __getitem__(self, index: int | slice) -> AsyncResult[R] | ResultSet[R]:
        if isinstance(index, slice):
            return ResultSet(self._results[index], self._readers)
        return self._results[index]

    def __len__(self) -> int:
        return len(self._results)

    def __await__(self) -> Generator[Any, Any, list[R]]:
        return self.get().__await__()

    def __repr__(self) -> str:
        return f"<ResultSet: {len(self)} results>"

    @overload
    async def get(self, timeout: float | None = ..., *, propagate: Literal[True] = ...) -> list[R]: ...
    @overload
    async def get(self, timeout: float | None = ..., *, propagate: bool) -> list[R | BaseException]: ...
    async def get(self, timeout: float | None = None, *, propagate: bool = True) -> list[R] | list[R | BaseException]:
        """Return all values in order, waiting up to `timeout` seconds for the last.

        The first failure that comes in is raised at once; `propagate=False` puts exceptions in the list instead.

        Raises:
            ResultTimeout: not all came in time; the tasks go on.
        """
        limit = asyncio.timeout(timeout)
        try:
            async with limit, aclosing(self.as_completed()) as completed:
                async for result in completed:
                    if propagate:
                        await result
        except TimeoutError:
            if not limit.expired():  # a task raised it
                raise
            missing = sum(not result.is_known for result in self)
            raise ResultTimeout(f"{missing} of {len(self)} results did not come within {timeout:g} s") from None
        return [await result.get(propagate=propagate) for result in self]

    async def as_completed(self) -> AsyncGenerator[AsyncResult[R], None]:
        """Yield each result when its task has ended; awaiting it then takes no time."""
        for result in self:
            if result.is_known:
                yield result
        pending: dict[str, list[AsyncResult[R]]] = {}
        for result in self:
            if not result.is_known:
                pending.setdefault(result.id, []).append(result)
        if not pending:
            return
        reader = await self._readers.reader()
        elsewhere = [found for result in self for found in result.elsewhere(reader) if found in pending]
        slot = running_slot.get()
        if slot is not None:
            slot.lend()
        try:
            async with reader.waiting.records(tuple(pending), elsewhere=elsewhere) as records:
                while pending:
                    record = await records.get()
                    if states.is_ready(record.state):
                        for result in pending.pop(record.id, ()):
                            result.see(reader.codec.decode(record))
                            yield result
        finally:
            if slot is not None:
                slot.take_back_now()

    async def completed_count(self) -> int:
        """Return how many of the tasks have ended with a value."""
        return sum([await result.successful() for result in self])

    async def ready(self) -> bool:
        """Whether all tasks have ended."""
        return all([result.is_known or await result.ready() for result in self])


class EagerResult(AsyncResult[R]):
    """The result of a call that was run where it was made (`apply`, `task_always_eager`): it has ended already."""

    __slots__ = ("_frames",)

    def __init__(
        self, task_id: str, value: R | BaseException, state: str, traceback: str | None = None, *, readers: Readers
    ) -> None:
        super().__init__(task_id, readers)
        self._frames = value.__traceback__ if isinstance(value, BaseException) else None
        done = datetime.fromtimestamp(readers.now(), UTC)
        self.see(Document(task_id, state, value, traceback, done))

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    async def updates(self) -> AsyncIterator[Update]:
        """Yield how it ended."""
        yield await self.look()

    async def forget(self) -> None:
        """Do nothing: the result is here."""

    async def revoke(self, *, terminate: bool = False) -> None:
        """Do nothing: the task has run."""


class SyncResult(Generic[R]):
    """An `AsyncResult` for code without a loop: the same names, not awaited."""

    def __init__(self, result: AsyncResult[R], bridge: Bridge) -> None:
        self._result = result
        self._bridge = bridge
        self.id = result.id

    def __repr__(self) -> str:
        return f"<SyncResult: {self.id}>"

    @overload
    def get(
        self, timeout: float | None = ..., *, propagate: Literal[True] = ..., on_message: OnMessage | None = ...
    ) -> R: ...
    @overload
    def get(
        self, timeout: float | None = ..., *, propagate: bool, on_message: OnMessage | None = ...
    ) -> R | BaseException: ...
    def get(
        self, timeout: float | None = None, *, propagate: bool = True, on_message: OnMessage | None = None
    ) -> R | BaseException:
        """As `AsyncResult.get`."""

        async def get() -> R | BaseException:
            return await self._result.get(timeout, propagate=propagate, on_message=on_message)

        return self._bridge.run(get)

    def state(self) -> str:
        return self._bridge.run(self._result.state)

    def ready(self) -> bool:
        return self._bridge.run(self._result.ready)

    def successful(self) -> bool:
        return self._bridge.run(self._result.successful)

    def failed(self) -> bool:
        return self._bridge.run(self._result.failed)

    def info(self) -> Any:
        return self._bridge.run(self._result.info)

    def traceback(self) -> str | None:
        return self._bridge.run(self._result.traceback)

    def forget(self) -> None:
        self._bridge.run(self._result.forget)

    def revoke(self, *, terminate: bool = False) -> None:
        async def revoke() -> None:
            await self._result.revoke(terminate=terminate)

        self._bridge.run(revoke)
