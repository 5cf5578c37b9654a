"""The result of a single call: `AsyncResult`."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Generic,
    Literal,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from .. import states
from ..core.inside import App, core_of
from ..core.values import value
from ..exceptions import ResultTimeout
from ..tasks.request import running_request
from .document import Document
from .get_options import GetOptions, check_options, check_timeout, tell
from .reader import Reader, Readers, default_readers
from .records import Record
from .sync_result import SyncResult
from .waiting import warned_when_long

if TYPE_CHECKING:
    from ..graph.graph import Graph
    from .drawn import Call, Handle
    from .progress import Progress, Pushed
    from .sets import GroupResult

R_co = TypeVar("R_co", covariant=True)

#: State changes that are kept for a slow reader of `updates`.
_BACKLOG: Final = 1000

OnMessage = Callable[[dict[str, Any]], Any]

#: Seconds for which a revocation is kept after the task's due time, unless results are kept longer.
_REVOCATION_TIME: Final = 86_400.0
#: The same for a result made from an id, which does not know when its task is due.
LONG_REVOCATION: Final = 366 * 86_400.0


@value
class Update:
    """One state change of a task: `info` is the value, the exception, or the argument of `update_state`."""

    state: str
    info: Any
    is_ready: bool


class AsyncResult(Generic[R_co]):
    """The result of one call. Awaiting it returns the task's value or raises the task's exception.

    result = await add.delay(2, 2)
    assert await result == 4
    """

    __slots__ = ("_document", "_due", "_ignored", "_readers", "_was_sent", "id", "parent", "reply_to", "task_name")
    _frames: TracebackType | None = None  #: the traceback of the exception, if the task ran in this process
    is_eager: ClassVar[bool] = False  #: whether the task ran in the calling process, so that no store has its result

    def __init__(
        self,
        task_id: str,
        app: App[Readers],
        *,
        task_name: str | None = None,
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
        reply_to: str | None = None,
        due: float | None = None,
        ignored: bool = False,
        sent: bool = False,
    ) -> None:
        self.id = task_id
        self.task_name = task_name
        self.parent = parent
        self._readers = core_of(app)
        self.reply_to = reply_to  #: the address that its result is pushed to
        self._due = due
        self._was_sent = sent  # made by a call, and not from an id
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

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave the app out: an unpickled result belongs to the app of the process that unpickles it."""
        return _unpickled, (self.id, self.task_name, self.parent)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return a copy that belongs to the same app."""
        return copy.copy(self)

    def as_tuple(self) -> tuple[Any, ...]:
        """Return the ids in Celery's form: `((id, parent), None)`; `parent` has the same form or is None."""
        return (self.id, None if self.parent is None else self.parent.as_tuple()), None

    @property
    def is_known(self) -> bool:
        """Whether this object already has the outcome, so that awaiting it returns at once."""
        return self._ignored or self._document is not None

    @property
    def document(self) -> Document | None:
        """The outcome, if this object already has it."""
        return self._document

    @property
    def sync(self) -> SyncResult[R_co]:
        """This result for code without a loop."""
        return SyncResult(self, self._readers.bridge)

    @overload
    async def get(
        self,
        timeout: float | None = ...,
        *,
        propagate: Literal[True] = ...,
        on_message: OnMessage | None = ...,
        **options: Unpack[GetOptions],
    ) -> R_co: ...
    @overload
    async def get(
        self,
        timeout: float | None = ...,
        *,
        propagate: bool,
        on_message: OnMessage | None = ...,
        **options: Unpack[GetOptions],
    ) -> R_co | BaseException: ...
    async def get(
        self,
        timeout: float | None = None,
        *,
        propagate: bool = True,
        on_message: OnMessage | None = None,
        **options: Unpack[GetOptions],
    ) -> R_co | BaseException:
        """Return the task's value, waiting up to `timeout` seconds (None: without a limit).

        `propagate=False` returns the task's exception instead of raising it. `on_message` (a function or coroutine
        function) is called with each state change in Celery's form (`{"status": …, "result": …, …}`). A call with
        `ignore_result` returns None. `callback(task_id, value)` is called with the value, or with the exception that is
        returned. With `follow_parents` a failed task raises the error of the first failed step before it, if there is
        one. `interval` is taken and not needed: results are pushed. A task that waits here lends its slot to another
        task. Waiting for an id that was never sent does not end, for nothing is stored before a task begins: without a
        timeout, a handle that was made from an id logs a warning after 30 s.

        Raises:
            ResultTimeout: the task did not end in time; it goes on.
            InvalidOption: an option of Celery's that has no meaning here; the text says what to do instead.
            Exception: the task's exception; a `RemoteError` if its class is not loaded in this process.
        """
        check_options(options)
        check_timeout(timeout)
        if not self.is_known:
            slot = running_request.get().slot
            if slot is None:
                await self._terminal(timeout, on_message)
            else:
                slot.lend(self.id)
                try:
                    await self._terminal(timeout, on_message)
                except BaseException:
                    slot.take_back_now(self.id)
                    raise
                await slot.take_back(self.id)
        return await self.tell(options, propagate=propagate)

    wait = get

    async def tell(self, options: GetOptions, *, propagate: bool) -> R_co | BaseException:
        """Return or raise what this object knows, as `options` have it."""
        document = self._document
        if options.get("follow_parents") and propagate and document is not None:
            await self._raise_parents_error(document)
        value = self._told(document, propagate)
        await tell(options.get("callback"), self.id, value)
        return value

    async def _raise_parents_error(self, document: Document) -> None:
        """Raise the error of the first failed step before this one, if this one failed."""
        steps: list[AsyncResult[Any] | GroupResult[Any]] = []
        before = self.parent if document.state in states.EXCEPTION_STATES else None
        while before is not None:
            steps.append(before)
            before = before.parent
        for step in reversed(steps):
            for result in [step] if isinstance(step, AsyncResult) else step.members:
                found = await result.look()
                if found.is_ready:
                    result.seen()

    def seen(self, *, propagate: bool = True) -> R_co | BaseException:
        """Like `get`, without waiting, for an outcome that this object already has (`is_known`)."""
        return self._told(self._document, propagate)

    def _told(self, document: Document | None, propagate: bool) -> R_co | BaseException:
        if document is None:  # its result is ignored
            return cast(R_co, None)
        if propagate and document.state in states.EXCEPTION_STATES:
            error: BaseException = document.result
            raise error.with_traceback(self._frames)  # it is raised again at each await: its traceback must not grow
        return cast(R_co, document.result)

    async def look(self) -> Update:
        """Return the task's state with its value, exception or progress, in one request."""
        document = await self._present()
        return Update(document.state, document.result, states.is_ready(document.state))

    async def state(self) -> str:
        """Return the task's state; PENDING if nothing is stored under the id."""
        return (await self._present()).state

    async def ready(self) -> bool:
        """Whether the task has ended, with any outcome."""
        return states.is_ready((await self._present()).state)

    async def successful(self) -> bool:
        """Whether the task has ended with a value."""
        return (await self._present()).state == states.SUCCESS

    async def failed(self) -> bool:
        """Whether the task has ended with an exception."""
        return (await self._present()).state == states.FAILURE

    async def info(self) -> Any:
        """Return the value, the exception, or the argument of the running task's `update_state`."""
        return (await self._present()).result

    async def traceback(self) -> str | None:
        """Return the worker's traceback as text, if the task failed."""
        return (await self._present()).traceback

    async def date_done(self) -> datetime | None:
        """Return when the task ended (UTC)."""
        return (await self._present()).date_done

    async def name(self) -> str | None:
        """Return the task's name, if a state is stored."""
        return (await self._present()).name

    async def worker(self) -> str | None:
        """Return the name of the worker that runs or ran the task."""
        return (await self._present()).worker

    async def args(self) -> tuple[Any, ...] | None:
        """Return the positional arguments; stored with `result_extended`, if a run began."""
        return (await self._present()).called.args

    async def kwargs(self) -> Mapping[str, Any] | None:
        """Return the keyword arguments; stored as `args` are."""
        return (await self._present()).called.kwargs

    async def retries(self) -> int | None:
        """Return the number of retries; stored with `result_extended`."""
        return (await self._present()).called.retries

    async def queue(self) -> str | None:
        """Return the queue of the message; stored with `result_extended`."""
        return (await self._present()).called.queue

    async def stamps(self) -> Mapping[str, Sequence[Any]] | None:
        """Return the stamps, if there are any; stored with `result_extended`."""
        return (await self._present()).called.stamps

    async def children(self) -> list[AsyncResult[Any]]:
        """Return the results of the calls that this task made."""
        return [AsyncResult(str(child), self._readers) for child in (await self._present()).children]

    async def graph(self) -> Graph:
        """Return its workflow up to this step, with callbacks, calls made by its tasks, and all their states.

            print((await result.graph()).text())

        For a result that was made from an id, the graph is built from the stored records.
        """
        return await seen_graph(self, self._readers)

    async def progress(self) -> AsyncGenerator[Progress, None]:
        """Yield how many tasks of its workflow have ended: at once, at each change, and when all have ended.

            async for now in result.progress():
                print(f"{now.ended} of {now.total}, {now.failed} failed")

        The later steps of a chain that failed count as failed. Tasks with ignored results don't count.
        """
        async with aclosing(progress_in_task(self, self._readers)) as changes:
            async for now in changes:
                yield now

    async def updates(self) -> AsyncIterator[Update]:
        """Yield the present state, and then each change until the task has ended."""
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
        """Delete the task's stored result and state."""
        reader = await self._readers.reader()
        await reader.forget([self.id])
        self._document = None

    async def revoke(self, *, terminate: bool = False) -> None:
        """Revoke the call: a worker that gets it ends it as REVOKED and does not run it (P8).

        `terminate=True` also cancels it while it runs: a coroutine at its next await, a process task by killing its
        process. A function in a thread can't be stopped and goes on. The revocation is kept for a day after the task's
        due time (or as long as results are kept, if that is longer); for a result that was made from an id, for a year.
        """
        reader = await self._readers.reader()
        now = self._readers.now()
        if self._was_sent:
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

    async def _terminal(self, timeout: float | None, on_message: OnMessage | None) -> None:
        if timeout is None:
            with warned_when_long([self.id] if self.may_be_unknown else []):
                await self._wait(on_message)
            return
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                await self._wait(on_message)
        except TimeoutError:
            if not limit.expired():  # `on_message` raised it
                raise
            name = f"{self.task_name}[{self.id}]" if self.task_name else self.id
            raise ResultTimeout(f"no result of {name} within {timeout:g} s; the task goes on") from None

    async def _wait(self, on_message: OnMessage | None) -> None:
        reader = await self._readers.reader()
        if on_message is not None:
            await self._tell(reader, on_message)
            return
        record = await reader.waiting.terminal(self.id, pushed_here=not self.elsewhere(reader))
        self._document = reader.codec.decode(record)

    @property
    def may_be_unknown(self) -> bool:
        """Whether nothing says that there is such a task: the handle was made from an id."""
        return not (self._was_sent or self.is_known)

    def see(self, document: Document) -> None:
        """Take `document` as the outcome of the task."""
        self._document = document

    def elsewhere(self, reader: Reader) -> tuple[str, ...]:
        """Return the id if its records are pushed to another process, else nothing."""
        return (self.id,) if is_elsewhere(reader, self) else ()

    async def _tell(self, reader: Reader, on_message: OnMessage) -> None:
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
                    return


def _unpickled(
    task_id: str, task_name: str | None, parent: AsyncResult[Any] | GroupResult[Any] | None
) -> AsyncResult[Any]:
    return AsyncResult(task_id, default_readers(), task_name=task_name, parent=parent)


async def seen_graph(handle: Handle, readers: Readers) -> Graph:
    """Return the workflow of `handle`. The module is imported at the first call: few processes draw graphs."""
    from .drawn import graph_of  # noqa: PLC0415

    return await graph_of(handle, readers.reader)


async def progress_in_task(handle: Handle, readers: Readers) -> AsyncGenerator[Progress, None]:
    """Yield the progress of the workflow of `handle`; a task that waits here lends its slot to another task."""
    slot = running_request.get().slot
    if slot is not None:
        slot.lend()
    try:
        from .progress import progress_of  # noqa: PLC0415

        async with aclosing(progress_of(handle, readers.reader, is_elsewhere)) as changes:
            async for now in changes:
                yield now
    finally:
        if slot is not None:
            slot.take_back_now()


def is_elsewhere(source: Pushed, call: Call) -> bool:
    """Whether the records of `call` are pushed to another process."""
    return not isinstance(call, AsyncResult) or call.reply_to != source.records.address
