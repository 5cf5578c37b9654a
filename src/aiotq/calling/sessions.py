"""Users' own sessions and connections, on which one statement is carried out: recognised by their classes, so that no
library is imported that they did not."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from ..backends.base import Statement
from ..core.values import shown
from ..exceptions import CallError

#: SQLSTATEs of a database without our functions: undefined function, and undefined schema.
_NO_FUNCTION: Final = frozenset({"42883", "3F000"})
_NOT_OURS: Final = (
    "this session's database is not the one with the app's messages (broker_url): nothing can be sent in its "
    "transaction"
)


class Session:
    """A session or connection of a kind that is known."""

    is_async: bool = False

    def __init__(self, given: Any) -> None:
        self._given = given

    def __str__(self) -> str:
        return f"a {type(self._given).__module__.partition('.')[0]} {type(self._given).__name__}"

    def check(self) -> None:
        """Raise `CallError` if its database can't be that of the messages; as `check_begun`."""
        self.check_begun()

    def check_begun(self) -> None:
        """Raise `CallError` unless a transaction has begun, or begins with the first statement."""

    def run(self, statement: Statement) -> Any:
        """Carry out `statement`, which has no rows; return what is awaited for that."""
        raise NotImplementedError

    def rows(self, statement: Statement) -> Any:
        """Carry out `statement`; return its rows, or what is awaited for them."""
        raise NotImplementedError


class _SQLAlchemy(Session):
    def check_begun(self) -> None:
        options = getattr(self._given, "get_execution_options", dict)
        if cast("Mapping[str, Any]", options()).get("isolation_level") == "AUTOCOMMIT":
            raise _not_begun()

    def _text(self, statement: Statement) -> tuple[Any, dict[str, str | int]]:
        text = importlib.import_module("sqlalchemy").text
        return text(_written(statement, lambda n: f":aiotq_{n}")), {
            f"aiotq_{n}": given for n, given in enumerate(statement.values)
        }

    def run(self, statement: Statement) -> Any:
        return self._given.execute(*self._text(statement))

    def rows(self, statement: Statement) -> Any:
        return self._given.execute(*self._text(statement)).all()


class _AsyncSQLAlchemy(_SQLAlchemy):
    is_async = True

    async def rows(self, statement: Statement) -> Any:
        return (await self._given.execute(*self._text(statement))).all()


class _Asyncpg(Session):
    is_async = True

    def check_begun(self) -> None:
        if not self._given.is_in_transaction():
            raise _not_begun()

    def run(self, statement: Statement) -> Any:
        return self._given.execute(_written(statement, lambda n: f"${n + 1}"), *statement.values)

    async def rows(self, statement: Statement) -> Any:
        return await self._given.fetch(_written(statement, lambda n: f"${n + 1}"), *statement.values)


class _Psycopg(Session):
    def check_begun(self) -> None:
        if self._given.autocommit and not self._given.info.transaction_status:  # 0: none is open
            raise _not_begun()

    def run(self, statement: Statement) -> Any:
        return self._given.execute(_written(statement, lambda _: "%s"), statement.values)

    def rows(self, statement: Statement) -> Any:
        return self._given.execute(_written(statement, lambda _: "%s"), statement.values).fetchall()


class _AsyncPsycopg(_Psycopg):
    is_async = True

    async def rows(self, statement: Statement) -> Any:
        done = await self._given.execute(_written(statement, lambda _: "%s"), statement.values)
        return await done.fetchall()


class _Django(Session):
    def check(self) -> None:
        if self._given.vendor != "postgresql":
            raise CallError(_NOT_OURS)
        self.check_begun()

    def check_begun(self) -> None:
        if not self._given.in_atomic_block:
            raise CallError("no transaction is open here: send inside `with transaction.atomic():`")

    def run(self, statement: Statement) -> Any:
        with self._given.cursor() as cursor:
            cursor.execute(_written(statement, lambda _: "%s"), statement.values)

    def rows(self, statement: Statement) -> Any:
        with self._given.cursor() as cursor:
            cursor.execute(_written(statement, lambda _: "%s"), statement.values)
            return cursor.fetchall()


#: By the package and name of a class, or of one that it inherits from.
_KINDS: Final[Mapping[tuple[str, str], type[Session]]] = {
    ("sqlalchemy", "AsyncSession"): _AsyncSQLAlchemy,
    ("sqlalchemy", "async_scoped_session"): _AsyncSQLAlchemy,
    ("sqlalchemy", "AsyncConnection"): _AsyncSQLAlchemy,
    ("sqlalchemy", "Session"): _SQLAlchemy,
    ("sqlalchemy", "scoped_session"): _SQLAlchemy,
    ("sqlalchemy", "Connection"): _SQLAlchemy,
    ("asyncpg", "Connection"): _Asyncpg,
    ("asyncpg", "PoolConnectionProxy"): _Asyncpg,
    ("psycopg", "AsyncConnection"): _AsyncPsycopg,
    ("psycopg", "Connection"): _Psycopg,
    ("django", "ConnectionProxy"): _Django,
    ("django", "BaseDatabaseWrapper"): _Django,
}


def session_of(given: object) -> Session:
    """Return the session that `given` is.

    Raises:
        CallError: it is none that we know.
    """
    for each in type(given).__mro__:
        kind = _KINDS.get((each.__module__.partition(".")[0], each.__name__))
        if kind is not None:
            return kind(given)
    raise CallError(
        f"this takes a session or connection of SQLAlchemy, asyncpg, psycopg 3 or Django, not {shown(given)}"
    )


async def carried_out(session: Session, statement: Statement) -> Sequence[Any]:
    """Return the row of `statement`, carried out in the transaction of an asynchronous `session`.

    Raises:
        CallError: it is a transaction of another database.
        Exception: what the session raises.
    """
    try:
        rows = await session.rows(statement)
    except Exception as exc:
        raise translated(exc) from exc.__cause__
    return only_row(rows)


def only_row(rows: Any) -> Sequence[Any]:
    """Return the only one of `rows`; raises `CallError` if the statement found itself in another database."""
    if not rows:
        raise CallError(_NOT_OURS)
    return cast("Sequence[Any]", rows[0])


def translated(exc: Exception) -> Exception:
    """Return what to raise for an error of the driver's: its own, unless the database knows nothing of ours."""
    cause = getattr(exc, "orig", None) or exc
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    state = state or getattr(exc.__cause__, "sqlstate", None)
    return CallError(_NOT_OURS) if state in _NO_FUNCTION else exc


def _written(statement: Statement, placeholder: Callable[[int], str]) -> str:
    first, *others = statement.sql
    return first + "".join(placeholder(number) + part for number, part in enumerate(others))


def _not_begun() -> CallError:
    return CallError("no transaction is open on this connection: begin one, and send before it commits")
