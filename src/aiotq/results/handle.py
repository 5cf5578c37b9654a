"""The handles callers hold: `AsyncResult`, its plain twin `SyncResult`, and `EagerResult`."""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Generic, Literal, Protocol, TypeVar, cast, overload

from .. import states
from ..core.sync import Bridge
from ..core.values import value
from ..exceptions import ResultTimeout
from ..tasks.request import running_request
from .document import Document, DocumentCodec
from .ledger import Ledger
from .records import Record, RecordStore
from .waiting import Waiting

if TYPE_CHECKING:
    from ..graph.graph import Graph
    from .drawn import Call, Handle
    from .progress import Progress, Pushed
    from .sets import GroupResult, SyncGroupResult

R_co = TypeVar("R_co", covariant=True)

#: State changes kept for a reader of `updates` who is slow.
_BACKLOG: Final = 1000

OnMessage = Callable[[dict[str, Any]], Any]

#: Seconds a revocation is remembered beyond the task's due time, unless results live longer.
_REVOCATION_TIME: Final = 86_400.0
#: The same for a handle made from an id, which does not know when its task is due.
LONG_REVOCATION: Final = 366 * 86_400.0


@value
class Reader:
    """What a handle needs of a connected app."""

    records: RecordStore
    ledger: Ledger
    waiting: Waiting
    codec: DocumentCodec
    result_expires: float

    async def forget(self, ids: Sequence[str]) -> None:
        """Delete what is known of these tasks: their outcomes, and that they ran."""
        await self.ledger.forget(ids)
        await self.records.forget(ids)


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


@value
class Update:
    """One state change of a task: `info` is the value, the exception, or what `update_state` was given."""

    state: str
    info: Any
    is_ready: bool


class AsyncResult(Generic[R_co]):
    """What became of one call. Await it for the task's return value, or the exception it raised.

    result = await add.delay(2, 2)
    assert await result == 4
    """

    __slots__ = ("_document", "_due", "_ignored", "_knows_due", "_readers", "id", "parent", "reply_to", "task_name")
    _frames: TracebackType | None = None  #: where the exception came from, if that was here
    is_eager: ClassVar[bool] = False  #: whether its task ran where it was called, so that no store knows it

    def __init__(
        self,
        task_id: str,
        readers: Readers,
        *,
        task_name: str | None = None,
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
        reply_to: str | None = None,
        due: float | None = None,
        ignored: bool = False,
    ) -> None:
        self.id = task_id
        self.task_name = task_name
        self.parent = parent
        self._readers = readers
        self.reply_to = reply_to  #: the address that its result is pushed to
        self._due = due
        self._knows_due = task_name is not None  # a handle of a call, and not one made from an id
        self._ignored = ignored
        self._document: Document | None = None

    def __await__(self) -> Generator[Any, Any, R_co]:
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
    def document(self) -> Document | None:
        """How its task ended, if this handle has seen that."""
        return self._document

    @property
    def sync(self) -> SyncResult[R_co]:
        """This result for code without a loop."""
        return SyncResult(self, self._readers.bridge)

    @overload
    async def get(
        self, timeout: float | None = ..., *, propagate: Literal[True] = ..., on_message: OnMessage | None = ...
    ) -> R_co: ...
    @overload
    async def get(
        self, timeout: float | None = ..., *, propagate: bool, on_message: OnMessage | None = ...
    ) -> R_co | BaseException: ...
    async def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        on_message: OnMessage | None = None,
    ) -> R_co | BaseException:
        """Return the task's value, waiting up to `timeout` seconds (None: as long as it takes).

        `propagate=False` returns the task's exception instead of raising it. `on_message` (plain or coroutine) is
        called with each state change in Celery's form (`{"status": …, "result": …, …}`). A call with
        `ignore_result` gives None. Waiting in a task lends its slot to another one. An id that nobody sent waits
        for ever: states are not known before a task begins.

        Raises:
            ResultTimeout: no result in time; the task goes on.
            Exception: what the task raised; as `RemoteError` if its type is not loaded here.
        """
        document = self._document
        if not self.is_known:
            slot = running_request.get().slot
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
        return self._told(document, propagate)

    wait = get

    def seen(self, *, propagate: bool = True) -> R_co | BaseException:
        """Return at once what `get` does, of a task that this handle has seen end (`is_known`)."""
        return self._told(self._document, propagate)

    def _told(self, document: Document | None, propagate: bool) -> R_co | BaseException:
        if document is None:  # its result is ignored
            return cast(R_co, None)
        if propagate and document.state in states.EXCEPTION_STATES:
            error: BaseException = document.result
            raise error.with_traceback(self._frames)  # it is raised again at each await: its traceback must not grow
        return cast(R_co, document.result)

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

    async def name(self) -> str | None:
        """Return the task's name, when its state is known."""
        return (await self._present()).name

    async def worker(self) -> str | None:
        """Return the name of the worker that runs it or ran it."""
        return (await self._present()).worker

    async def args(self) -> tuple[Any, ...] | None:
        """Return what it was called with; kept with `result_extended`, if a run of it began."""
        return (await self._present()).called.args

    async def kwargs(self) -> Mapping[str, Any] | None:
        """Return what it was called with by name; as `args`."""
        return (await self._present()).called.kwargs

    async def retries(self) -> int | None:
        """Return how often it was retried; kept with `result_extended`."""
        return (await self._present()).called.retries

    async def queue(self) -> str | None:
        """Return the queue it came from; kept with `result_extended`."""
        return (await self._present()).called.queue

    async def stamps(self) -> Mapping[str, Sequence[Any]] | None:
        """Return its stamps, if it has any; kept with `result_extended`."""
        return (await self._present()).called.stamps

    async def children(self) -> list[AsyncResult[Any]]:
        """Return the results of the tasks which this one sent."""
        return [AsyncResult(str(child), self._readers) for child in (await self._present()).children]

    async def graph(self) -> Graph:
        """Return its workflow as far as it leads here, with callbacks and what its tasks have sent, and their states.

            print((await result.graph()).text())

        Through a handle that was made from an id, what the records of its tasks tell of each other.
        """
        return await seen_graph(self, self._readers)

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """Yield how many tasks of its workflow have ended, now and whenever that changes, up to the end of all.

            async for now in result.progress():
                print(f"{now.ended} of {now.total}, {now.failed} failed")

        A chain that fails is over: its later steps count as failed. Tasks whose results are ignored don't count.
        """
        async with aclosing(progress_in_task(self, self._readers)) as changes:
            async for now in changes:
                yield now

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
        await reader.forget([self.id])
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
            expires = now + max(LONG_REVOCATION, reader.result_expires)
        await reader.ledger.revoke([self.id], terminate=terminate, expires=expires)

    async def _present(self) -> Document:
        if self._document is not None:
            return self._document
        reader = await self._readers.reader()
        (record,) = await reader.records.get([self.id])
        if record is None:
            return Document(self.id, states.PENDING, None, {})
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
        return (self.id,) if is_elsewhere(reader, self) else ()

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


async def seen_graph(handle: Handle, readers: Readers) -> Graph:
    """Return the workflow of `handle`. What draws it is loaded with the first: few processes look at workflows."""
    graph: Graph = await importlib.import_module(".drawn", __package__).graph_of(handle, readers.reader)
    return graph


async def progress_in_task(handle: Handle, readers: Readers) -> AsyncGenerator[Progress, None]:
    """Yield how far the workflow of `handle` is; a task that waits for this lends its slot meanwhile."""
    slot = running_request.get().slot
    if slot is not None:
        slot.lend()
    try:
        following = importlib.import_module(".progress", __package__).progress_of
        async with aclosing(following(handle, readers.reader, is_elsewhere)) as changes:
            async for now in changes:
                yield now
    finally:
        if slot is not None:
            slot.take_back_now()


def is_elsewhere(source: Pushed, call: Call) -> bool:
    """Whether the records of `call` go to another process than this one."""
    return not isinstance(call, AsyncResult) or call.reply_to != source.records.address


class EagerResult(AsyncResult[R_co]):
    """The result of a call that was run where it was made (`apply`, `task_always_eager`): it has ended already."""

    __slots__ = ("_frames",)
    is_eager = True

    def __init__(
        self,
        task_id: str,
        value: R_co | BaseException,
        state: str,
        traceback: str | None = None,
        *,
        readers: Readers,
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
    ) -> None:
        super().__init__(task_id, readers, parent=parent)
        self._frames = value.__traceback__ if isinstance(value, BaseException) else None
        done = datetime.fromtimestamp(readers.now(), UTC).isoformat()
        self.see(Document(task_id, state, value, {"traceback": traceback, "date_done": done}))

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    async def updates(self) -> AsyncIterator[Update]:
        """Yield how it ended."""
        yield await self.look()

    async def forget(self) -> None:
        """Do nothing: the result is here."""

    async def revoke(self, *, terminate: bool = False) -> None:
        """Do nothing: the task has run."""


class SyncResult(Generic[R_co]):
    """An `AsyncResult` for code without a loop: the same names, not awaited."""

    def __init__(self, result: AsyncResult[R_co], bridge: Bridge) -> None:
        self._result = result
        self._bridge = bridge
        self.id = result.id

    def __repr__(self) -> str:
        return f"<SyncResult: {self.id}>"

    @property
    def parent(self) -> SyncResult[Any] | SyncGroupResult[Any] | None:
        """The result of what went before it in its chain."""
        parent = self._result.parent
        return None if parent is None else parent.sync

    @overload
    def get(
        self, timeout: float | None = ..., *, propagate: Literal[True] = ..., on_message: OnMessage | None = ...
    ) -> R_co: ...
    @overload
    def get(
        self, timeout: float | None = ..., *, propagate: bool, on_message: OnMessage | None = ...
    ) -> R_co | BaseException: ...
    def get(
        self, timeout: float | None = None, *, propagate: bool = True, on_message: OnMessage | None = None
    ) -> R_co | BaseException:
        """As `AsyncResult.get`."""

        async def get() -> R_co | BaseException:
            return await self._result.get(timeout, propagate=propagate, on_message=on_message)

        return self._bridge.run(get)

    def graph(self) -> Graph:
        return self._bridge.run(self._result.graph)

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

    def name(self) -> str | None:
        return self._bridge.run(self._result.name)

    def worker(self) -> str | None:
        return self._bridge.run(self._result.worker)

    def args(self) -> tuple[Any, ...] | None:
        return self._bridge.run(self._result.args)

    def kwargs(self) -> Mapping[str, Any] | None:
        return self._bridge.run(self._result.kwargs)

    def retries(self) -> int | None:
        return self._bridge.run(self._result.retries)

    def queue(self) -> str | None:
        return self._bridge.run(self._result.queue)

    def stamps(self) -> Mapping[str, Sequence[Any]] | None:
        return self._bridge.run(self._result.stamps)

    def forget(self) -> None:
        self._bridge.run(self._result.forget)

    def revoke(self, *, terminate: bool = False) -> None:
        async def revoke() -> None:
            await self._result.revoke(terminate=terminate)

        self._bridge.run(revoke)
