"""The result of a single call: `AsyncResult`."""

from __future__ import annotations

import asyncio
import copy
import inspect
from collections.abc import AsyncGenerator, Callable, Collection, Generator, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import (
    TYPE_CHECKING,
    Any,
    ClassVar,
    Final,
    Literal,
    Self,
    TypeVar,
    Unpack,
    cast,
    overload,
)

from .. import states
from ..control.celery_mail import tell_revoked
from ..core.celery_names import RESULT, knows
from ..core.inside import App, core_of
from ..exceptions import OperationalError, ResultTimeout
from ..tasks.request import running_request
from .document import Document, Update
from .get_options import GetOptions, check_options, check_timeout, tell
from .reader import Reader, Readers, default_readers
from .records import Record
from .streaming import StreamingResult
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

#: Seconds of a wait at whose end the broker is asked why nothing came, how long that may take, and for how many calls.
_LEAST_TO_ASK: Final = 1.0
_TIME_TO_ASK: Final = 0.5
_MOST_ASKED: Final = 10

#: Seconds for which a revocation is kept after the task's due time, unless results are kept longer.
_REVOCATION_TIME: Final = 86_400.0
#: The same for a result made from an id, which does not know when its task is due.
LONG_REVOCATION: Final = 366 * 86_400.0


@knows(RESULT)
class AsyncResult(StreamingResult[R_co]):
    """The result of one call. Awaiting it returns the task's value or raises the task's exception.

    ```python
    result = await add.delay(2, 2)
    assert await result == 4
    ```
    """

    __slots__ = (
        *("_document", "_due", "_ignored", "_queue", "_readers", "_was_sent"),
        *("id", "parent", "reply_to", "task_name"),
    )
    _frames: TracebackType | None = None  #: the traceback of the exception, if the task ran in this process
    is_eager: ClassVar[bool] = False  #: whether the task ran in the calling process, so that no store has its result

    def __init__(
        self,
        task_id: str,
        app: App[Readers] | None = None,
        *,
        task_name: str | None = None,
        parent: AsyncResult[Any] | GroupResult[Any] | None = None,
        reply_to: str | None = None,
        due: float | None = None,
        queue: str | None = None,
        ignored: bool = False,
        sent: bool = False,
    ) -> None:
        """Without an `app` it is a result of the running task's app, or of the current one."""
        self.id = task_id
        self.task_name = task_name
        self.parent = parent
        self._readers = default_readers() if app is None else core_of(app)
        self.reply_to = reply_to  #: the address that its result is pushed to
        self._due = due
        self._queue = queue  # that it was sent to from here
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
        __tracebackhide__ = True
        error = await self.awaited(timeout, propagate, options, on_message)
        if error is not None:  # raised here, with no further frame of ours
            raise error
        return self.seen()

    wait = get

    async def awaited(
        self, timeout: float | None, propagate: bool, options: GetOptions, on_message: OnMessage | None = None
    ) -> BaseException | None:
        """Wait as `get` does; return what that is to raise of the task's."""
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

    async def tell(self, options: GetOptions, *, propagate: bool) -> BaseException | None:
        """Return what `get` is to raise, now that the task has ended; otherwise give its callback the value."""
        error = self.failure() if propagate else None
        if error is None:
            await tell(options.get("callback"), self.id, self.seen())
        elif options.get("follow_parents"):
            error = await self._parents_failure() or error
        return error

    async def _parents_failure(self) -> BaseException | None:
        """Return the error of the first failed step before this one."""
        steps: list[AsyncResult[Any] | GroupResult[Any]] = []
        before = self.parent
        while before is not None:
            steps.append(before)
            before = before.parent
        for step in reversed(steps):
            for result in [step] if isinstance(step, AsyncResult) else step.leaves():
                if (await result.look()).is_ready and (error := result.failure()) is not None:
                    return error
        return None

    def seen(self) -> R_co | BaseException:
        """Return the task's value, or its exception, once this object has the outcome (`is_known`)."""
        return cast(R_co, None) if self._document is None else cast(R_co, self._document.result)

    def failure(self) -> BaseException | None:
        """Return the exception that awaiting this object raises, if it has the outcome and that is one."""
        if self._document is None or self._document.state not in states.EXCEPTION_STATES:
            return None
        error: BaseException = self._document.result
        return error.with_traceback(self._frames)  # it is raised again at each await: its traceback must not grow

    async def look(self) -> Update:
        """Return the task's state with all that is known of it, in one request; PENDING if nothing is stored.

        Each of the methods below it returns one part of that, and asks anew until the task has ended.
        """
        if self._document is None:
            reader = await self._readers.reader()
            (record,) = await reader.records.get([self.id])
            if record is None:
                return Update(states.PENDING, None, is_ready=False)
            document = reader.document(record, self.task_name)
            if not states.is_ready(document.state):
                return Update.of(document)
            self._document = document
        return Update.of(self._document)

    async def state(self) -> str:
        """Return the task's state; PENDING if nothing is stored under the id."""
        return (await self.look()).state

    async def ready(self) -> bool:
        """Whether the task has ended, with any outcome."""
        return (await self.look()).is_ready

    async def successful(self) -> bool:
        """Whether the task has ended with a value."""
        return (await self.look()).state == states.SUCCESS

    async def failed(self) -> bool:
        """Whether the task has ended with an exception."""
        return (await self.look()).state == states.FAILURE

    async def info(self) -> Any:
        """Return the value, the exception, or the argument of the running task's `update_state`."""
        return (await self.look()).info

    async def traceback(self) -> str | None:
        """Return the worker's traceback as text, if the task failed."""
        return (await self.look()).traceback

    async def date_done(self) -> datetime | None:
        """Return when the task ended (UTC)."""
        return (await self.look()).date_done

    async def name(self) -> str | None:
        """Return the task's name, if a state is stored."""
        return (await self.look()).name

    async def worker(self) -> str | None:
        """Return the name of the worker that runs or ran the task."""
        return (await self.look()).worker

    async def args(self) -> tuple[Any, ...] | None:
        """Return the positional arguments; stored with `result_extended`, if a run began."""
        return (await self.look()).args

    async def kwargs(self) -> Mapping[str, Any] | None:
        """Return the keyword arguments; stored as `args` are."""
        return (await self.look()).kwargs

    async def retries(self) -> int | None:
        """Return the number of retries; stored with `result_extended`."""
        return (await self.look()).retries

    async def queue(self) -> str | None:
        """Return the queue of the message; stored with `result_extended`."""
        return (await self.look()).queue

    async def stamps(self) -> Mapping[str, Sequence[Any]] | None:
        """Return the stamps, if there are any; stored with `result_extended`."""
        return (await self.look()).stamps

    async def children(self) -> list[AsyncResult[Any]]:
        """Return the results of the calls that this task made."""
        return [AsyncResult(child, self._readers) for child in (await self.look()).children]

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

    async def updates(self) -> AsyncGenerator[Update, None]:
        """Yield the present state, and then each change until the task has ended."""
        async with aclosing(self._changes(await self._readers.reader())) as changes:
            async for document in changes:
                yield Update.of(document)

    async def forget(self) -> None:
        """Delete the task's stored result and state."""
        reader = await self._readers.reader()
        await reader.forget([self.id])
        self._document = None

    async def revoke(self, *, terminate: bool = False) -> None:
        """Revoke the call: a worker that gets it ends it as REVOKED and does not run it.

        `terminate=True` also cancels it while it runs: a coroutine at its next await, a process task by killing its
        process. A function in a thread can't be stopped and goes on. With `celery_compat` on RabbitMQ the workers of
        Celery that run now are told too. The revocation is kept for a day after the task's
        due time (or as long as results are kept, if that is longer); for a result that was made from an id, for a year.
        """
        reader = await self._readers.reader()
        now = self._readers.now()
        if self._was_sent:
            expires = max(now, self._due or now) + max(_REVOCATION_TIME, reader.result_expires)
        else:
            expires = now + max(LONG_REVOCATION, reader.result_expires)
        await reader.ledger.revoke([self.id], terminate=terminate, expires=expires)
        await tell_revoked(reader.celery, [self.id], {}, terminate=terminate)

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
            why = await why_waiting([self], timeout)
            raise ResultTimeout(f"no result of {name} within {timeout:g} s; the task goes on{why}") from None

    async def _wait(self, on_message: OnMessage | None) -> None:
        reader = await self._readers.reader()
        if on_message is not None:
            await self._tell(reader, on_message)
            return
        record = await reader.waiting.terminal(
            self.id, pushed_here=not self.elsewhere(reader), queue=self.first().queue_sent_to
        )
        self._document = reader.document(record, self.task_name)

    @property
    def may_be_unknown(self) -> bool:
        """Whether nothing says that there is such a task: the handle was made from an id."""
        return not (self._was_sent or self.is_known)

    def first(self) -> AsyncResult[Any]:
        """Return the handle of the call that its workflow began with (of several the first): itself if it is alone."""
        step: AsyncResult[Any] | GroupResult[Any] = self
        while step.parent is not None:
            step = step.parent
        return step if isinstance(step, AsyncResult) else next(iter(step.leaves()), self)

    @property
    def queue_sent_to(self) -> str | None:
        """The queue that this process has sent it to."""
        return self._queue

    async def why_in(self, queues: Collection[str]) -> str | None:
        """Return why what waits in one of `queues` does not go on, as far as that is known."""
        return await (await self._readers.reader()).why_waiting(queues)

    def see(self, document: Document) -> None:
        """Take `document` as the outcome of the task."""
        self._document = document

    def elsewhere(self, reader: Reader) -> tuple[str, ...]:
        """Return the id if its records are pushed to another process, else nothing."""
        return (self.id,) if is_elsewhere(reader, self) else ()

    async def _changes(self, reader: Reader) -> AsyncGenerator[Document, None]:
        """Yield what is stored of the task now, and then each change until it has ended."""
        async with reader.waiting.records([self.id], elsewhere=self.elsewhere(reader), size=_BACKLOG) as records:
            last: Record | None = None
            while last is None or not states.is_ready(last.state):
                record = await records.get()
                if last is None or not record.is_behind(last):  # a push and a look may tell the same
                    last = record
                    yield reader.document(record, self.task_name)

    async def _tell(self, reader: Reader, on_message: OnMessage) -> None:
        async with aclosing(self._changes(reader)) as changes:
            async for document in changes:
                told = on_message(document.as_meta())
                if inspect.isawaitable(told):
                    await told
                if states.is_ready(document.state):
                    self._document = document


async def why_waiting(results: Sequence[AsyncResult[Any]], waited: float) -> str:
    """Return, as the end of a sentence, why results did not come within `waited` seconds: nothing if that is not known.

    Who waits for less looks what is there, again and again: the broker is not asked each time.
    """
    if waited < _LEAST_TO_ASK:
        return ""
    firsts = {each.id: each for each in (result.first() for result in results) if each.queue_sent_to is not None}
    try:
        async with asyncio.timeout(_TIME_TO_ASK):
            waiting = [first for first in list(firsts.values())[:_MOST_ASKED] if not await first.ready()]
            queues = {first.queue_sent_to or "" for first in waiting}
            why = await waiting[0].why_in(queues) if waiting else None
    except (OperationalError, TimeoutError):
        return ""
    return f": {why}" if why else ""


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
