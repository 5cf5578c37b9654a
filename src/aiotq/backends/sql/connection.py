"""A database as one process uses it: SQLAlchemy's pool, each use within a time, errors in our words."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from sqlalchemy import URL, Table
from sqlalchemy.exc import DatabaseError, DataError, DBAPIError, InternalError, ProgrammingError, SQLAlchemyError
from sqlalchemy.exc import OperationalError as CannotBeReached
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from ...exceptions import ConnectionLost, NotConnected, OperationalError, Refused
from .address import shown
from .tables import RESULTS, make_table

#: Seconds that one use of the database may take.
_PATIENCE: Final = 20.0
#: Seconds after which a connection is replaced: below what proxies and MySQL itself grant an idle one.
_RECYCLED: Final = 3600


class SqlClient:
    """Connections to one database, with one `table`."""

    def __init__(self, url: URL, table: Table = RESULTS, *, migrates: bool = True) -> None:
        self.shown = shown(url)
        self._url = url
        self._table = table
        self._migrates = migrates
        self._engine: AsyncEngine | None = None

    async def __aenter__(self) -> Self:
        engine = make_engine(self._url)
        try:
            async with translated(self.shown):
                await make_table(engine, self._table, self.shown, migrates=self._migrates)
        except BaseException as exc:
            await engine.dispose()
            if isinstance(exc, ConnectionLost):
                raise NotConnected(str(exc)) from exc
            raise
        self._engine = engine
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.dispose()

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[AsyncConnection]:
        """Enter a transaction, which is committed at the end of the block.

        Raises:
            ConnectionLost: it may or may not have been committed.
            Refused: the database will never take what it was given.
            OperationalError: anything else that is wrong with it.
        """
        if self._engine is None:
            raise OperationalError(f"{self.shown}: the store is not open")
        async with translated(self.shown), self._engine.begin() as connection:
            yield connection


def make_engine(url: URL) -> AsyncEngine:
    """Return a pool of connections to the database at `url`; none is made yet."""
    more: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        more["connect_args"] = {"timeout": _PATIENCE / 2}  # for who writes in the file at the same time
    else:
        more["isolation_level"] = "READ COMMITTED"
    return create_async_engine(
        url, pool_size=2, max_overflow=2, pool_pre_ping=True, pool_recycle=_RECYCLED, hide_parameters=True, **more
    )


async def migrated(url: URL, table: Table) -> int:
    """Make `table` in the database at `url`; return how many changes that took; raises as `make_table`."""
    engine = make_engine(url)
    try:
        async with translated(shown(url)):
            return await make_table(engine, table, shown(url), migrates=True)
    finally:
        await engine.dispose()


@asynccontextmanager
async def translated(place: str) -> AsyncGenerator[None]:
    """Give the block its time, and say what fails in it in our words."""
    try:
        async with asyncio.timeout(_PATIENCE):
            yield
    except TimeoutError as exc:
        raise ConnectionLost(f"{place}: no answer within {_PATIENCE:g} s") from exc
    except DataError as exc:
        raise Refused(f"{place} can't keep a result: {exc.orig}", "unencodable") from exc
    except ProgrammingError as exc:
        raise OperationalError(f"{place}: {exc.orig} (is its table there? `aiotq migrate-db`)") from exc
    except DBAPIError as exc:
        # What was given, or the table, is wrong. All else passes: no server, a lock, two in each other's way.
        is_final = isinstance(exc, DatabaseError) and not isinstance(exc, CannotBeReached | InternalError)
        kind = OperationalError if is_final and not exc.connection_invalidated else ConnectionLost
        raise kind(f"{place}: {exc.orig}") from exc
    except (OSError, SQLAlchemyError) as exc:
        raise ConnectionLost(f"{place}: {exc}") from exc
