"""Sending inside the user's own transaction: what rolls back was never sent (P1)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from ..backends.base import Statement
from ..canvas.signature import Canvas, Signature
from ..commit import Finish
from ..exceptions import CallError
from ..results import NO_JOIN_CHANGES, JoinChanges
from ..results.handle import AsyncResult
from ..results.sets import GroupResult, ResultSet
from ..results.sync_result import SyncGroupResult, SyncResult, SyncResultSet
from ..tasks.options import CallOptions
from ..tasks.task import Task, calls_its_own_way
from ..wire.message import Envelope
from .connection import Connection
from .middleware import OutgoingCall
from .pipeline import Batch, Calling, is_plain
from .retry_policy import RetryPolicy
from .sessions import Session, carried_out, only_row, session_of, translated

if TYPE_CHECKING:
    from .core import AppCore

R = TypeVar("R")
Handle = TypeVar("Handle")


class InTransaction:
    """Sends in a transaction of yours: with its commit, or not at all.

        async with session.begin():
            session.add(order)
            await session.flush()
            await app.in_transaction(session).call(charge.s(order.id))

    Only where messages are in the same PostgreSQL database. The session is one of SQLAlchemy (`AsyncSession`,
    `AsyncConnection`), asyncpg or psycopg; `.sync` takes SQLAlchemy's `Session` and `Connection`, psycopg's
    `Connection` and Django's `connection`. The result may be awaited after the commit, and never comes if there is
    none. A delay counts from the call. `after_task_publish` is sent with the call, before the commit.
    """

    def __init__(self, core: AppCore, session: object) -> None:
        self._core = core
        self._session = session_of(session)
        self._collecting: type[Collecting] = Collecting

    def __repr__(self) -> str:
        return f"<in a transaction of {self._session}>"

    async def call(self, workflow: Canvas[Handle]) -> Handle:
        """Send a signature or workflow; return the handle of its result.

        Raises:
            CallError: no transaction has begun, it is of another database, or the call can't be sent so.
            OperationalError: the database can't be reached.
            Exception: what the session raises.
        """
        return await self._sent(lambda calling: calling.send(workflow))

    async def send_many(self, signatures: Iterable[Canvas[AsyncResult[R]]]) -> ResultSet[R]:
        """Send many calls; raises as `call`."""
        return await self._sent(lambda calling: calling.send_many(signatures))

    @property
    def sync(self) -> SyncInTransaction:
        """The same for code without a loop."""
        return SyncInTransaction(self._core, self._session, self._collecting)

    async def _sent(self, send: Callable[[Calling], Coroutine[Any, Any, Handle]]) -> Handle:
        if not self._session.is_async:
            raise CallError(
                f"{self._session} would block the loop: use an asynchronous session, or .sync in plain code"
            )
        self._session.check()
        collecting = self._collecting(self._core)
        handle = await send(collecting)
        for statement in collecting.statements:
            await carried_out(self._session, statement)
        return handle


class SyncInTransaction:
    """As `InTransaction`, for code without a loop."""

    def __init__(self, core: AppCore, session: Session, collecting: type[Collecting]) -> None:
        self._core = core
        self._session = session
        self._collecting = collecting

    @overload
    def call(self, workflow: Canvas[AsyncResult[R]]) -> SyncResult[R]: ...
    @overload
    def call(self, workflow: Canvas[GroupResult[R]]) -> SyncGroupResult[R]: ...
    def call(self, workflow: Canvas[Any]) -> Any:
        """As `InTransaction.call`."""
        return self._sent(lambda calling: calling.send(workflow))

    def send_many(self, signatures: Iterable[Canvas[AsyncResult[R]]]) -> SyncResultSet[R]:
        """As `InTransaction.send_many`."""
        return cast("SyncResultSet[R]", self._sent(lambda calling: calling.send_many(signatures)))

    def _sent(self, send: Callable[[Calling], Coroutine[Any, Any, Any]]) -> Any:
        if self._session.is_async:
            raise CallError(f"{self._session} is to be awaited: leave out .sync in an async def")
        self._session.check()
        collecting = self._collecting(self._core)
        handle = self._core.bridge.run(send, collecting)
        for statement in collecting.statements:
            try:
                rows = self._session.rows(statement)
            except Exception as exc:
                raise translated(exc) from exc.__cause__
            only_row(rows)
        return handle.sync


class Collecting(Calling):
    """Makes statements of what it is asked to send."""

    def __init__(self, core: AppCore) -> None:
        super().__init__(core)
        self.statements: list[Statement] = []

    async def send(self, workflow: Canvas[Handle]) -> Handle:
        if is_plain(workflow):
            call = cast("Signature[Any]", workflow)
            task = self._core.tasks.get(call.task)
            if task is not None and calls_its_own_way(type(task)):
                raise CallError(f"task {call.task} has an apply_async of its own: a transaction can't send it")
        return await super().send(workflow)

    async def call(
        self, task: Task[..., Any] | str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> AsyncResult[Any]:
        name = task if isinstance(task, str) else task.name
        return (await self._calls((OutgoingCall(name, tuple(args), kwargs, options),)))[0]

    async def _accept(
        self,
        connection: Connection,
        sent: Sequence[Envelope],
        batch: Batch,
        timeout: float | None,
        policy: RetryPolicy | None,
    ) -> None:
        if batch.key is not None:
            raise CallError(
                f"{sent[0].message.task}: a transaction can't send a call with a key (unique, debounce, throttle or "
                "idempotency_key): whether it is sent is known before the transaction commits; send it after the commit"
            )
        self.statements.append(await self._statement(connection, sent, batch))

    async def _statement(self, connection: Connection, sent: Sequence[Envelope], batch: Batch) -> Statement:
        """Return what sends `sent` with the commit, and what goes with them."""
        joining = JoinChanges(opened=batch.joins) if batch.joins else NO_JOIN_CHANGES
        finish = Finish(None, envelopes=tuple(sent), joining=joining, further=batch.records)
        return await connection.statement(finish)
