"""Tasks with `transactional=True`: what one writes in its transaction and the end of its call are one commit (P3)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, cast

from ..backends.base import Statement
from ..calling.connection import Connection
from ..calling.sessions import carried_out, session_of
from ..canvas.outcome import Outcome, Success
from ..commit import Finish
from ..core.settings import Settings
from ..core.values import shown, value
from ..exceptions import CallError, InvalidOption
from ..tasks.task import Task
from .run import Run

logger = logging.getLogger("aiotq.worker")

_NO_FACTORY: Final = (
    "it is transactional, so the setting task_transaction must be a function whose result is an async context manager "
    "with a session in a transaction (SQLAlchemy: async_sessionmaker(engine).begin)"
)


class _RolledBack(Exception):
    """Ends a transaction that is not to be committed."""


class Transaction:
    """The transaction of one run, from its task's first line to the end of its call."""

    def __init__(self, manager: AbstractAsyncContextManager[Any], session: Any) -> None:
        self._manager = manager
        self.session = session

    async def commit(self, statement: Statement | None) -> Sequence[Any] | None:
        """Commit with what `statement` writes; return its row. None: there is none, or nothing was committed, since
        the lease was lost.

        Raises:
            Exception: nothing is known to be committed.
        """
        row: Sequence[Any] | None = None
        try:
            if statement is not None:
                row = await carried_out(session_of(self.session), statement)
        except BaseException:
            await self.roll_back()
            raise
        if statement is not None and row is not None and not statement.held(row):
            await self.roll_back()
            return None
        await self._manager.__aexit__(None, None, None)
        return row

    async def roll_back(self) -> None:
        """Undo what was written."""
        error = _RolledBack()
        try:
            await self._manager.__aexit__(_RolledBack, error, None)
        except _RolledBack:
            pass
        except Exception as exc:  # the database does it when the connection is gone
            logger.debug("rolling back failed: %s", exc)


class Transactions:
    """Begins the transactions of runs, and ends them.

    `failed` returns the outcome of a run that failed by an error after its task had returned.
    """

    def __init__(self, conf: Settings, failed: Callable[[Run, BaseException], Outcome | None]) -> None:
        self._conf = conf
        self._failed = failed
        #: Of the worker: follows an outcome, makes SQL of what that is, and is told what was committed. None: calls
        #: run where they are made, and nothing but what the task wrote is committed.
        self.ends: Ends | None = None

    async def begin(self, run: Run, task: Task[..., Any]) -> Any:
        """Begin the transaction of `run`, and return its session.

        Raises:
            CallError: the setting `task_transaction` does not make one.
            Exception: what that raises.
        """
        make = self._conf.task_transaction
        if make is None:
            raise CallError(f"task {task.name}: {_NO_FACTORY}")
        given: object = make()
        if not isinstance(given, AbstractAsyncContextManager):
            raise CallError(f"task {task.name}: {_NO_FACTORY}; it is {shown(given)}")
        manager = cast("AbstractAsyncContextManager[Any]", given)
        transaction = Transaction(manager, await manager.__aenter__())
        try:
            session = session_of(transaction.session)
            if not session.is_async:
                raise CallError(f"task {task.name}: {session} would block the loop: task_transaction must give another")
            session.check()
        except BaseException:
            await transaction.roll_back()
            raise
        run.transaction = transaction
        return transaction.session

    async def end(self, run: Run, outcome: Outcome | None) -> Outcome | None:
        """Commit what the task of `run` wrote, and its end with it, or undo it; return the outcome after that.

        A run whose end is committed has it as `run.committed`. None: the lease was lost, and nothing was written.
        """
        transaction = run.transaction
        assert transaction is not None
        if not isinstance(outcome, Success):
            await transaction.roll_back()
            return outcome
        try:
            if self.ends is None:
                await transaction.commit(None)
                return outcome
            finish = self.ends.follow(outcome)
            statement = await self._made(transaction, self.ends.statement(finish))
            run.is_ending = True
            row = await transaction.commit(statement)
        except BaseException as exc:  # it may be committed all the same: then what is written for it now is refused
            return self._failed(run, exc)
        if row is None:
            message = run.delivery.message
            logger.warning(
                "Task %s[%s] ended too late: its lease was lost, and its transaction is rolled back",
                message.task,
                message.id,
            )
            return None
        run.committed = finish
        statement.committed(row)
        self.ends.committed(finish)
        return outcome

    @staticmethod
    async def _made(transaction: Transaction, statement: Awaitable[Statement]) -> Statement:
        try:
            return await statement
        except BaseException:
            await transaction.roll_back()
            raise


@value
class Ends:
    """How a worker ends the calls of its transactional tasks."""

    follow: Callable[[Outcome], Finish]
    statement: Callable[[Finish], Awaitable[Statement]]
    committed: Callable[[Finish], None]


def check_transactional(tasks: Iterable[Task[..., Any]], conf: Settings, connection: Connection) -> None:
    """Refuse to work where the tasks that are transactional can't be.

    Raises:
        InvalidOption: that is so; the text has the task's name.
    """
    found = sorted(task.name for task in tasks if task.declared.transactional)
    if not found:
        return
    if conf.task_transaction is None:
        raise InvalidOption(f"task {found[0]}: {_NO_FACTORY}")
    if not connection.can_enlist:
        raise InvalidOption(
            f"task {found[0]}: it is transactional, which needs messages and results in PostgreSQL "
            "(broker_url postgresql://…, no other result_backend)"
        )
