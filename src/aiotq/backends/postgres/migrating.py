"""The tables: numbered files of SQL in `migrations/`, each applied once, and the check that all are."""

from __future__ import annotations

import hashlib
import logging
from importlib.resources import files
from typing import Any, Final

import psycopg

from ...exceptions import OperationalError
from .address import Address
from .errors import translated

logger = logging.getLogger("aiotq.postgres")

#: What is executed on: a connection of either kind, in a transaction of its own.
_TABLE: Final = """
create table if not exists aiotq.migration (
    number int primary key, name text not null, applied_at timestamptz not null default clock_timestamp()
)
"""


def migrations() -> list[tuple[int, str, str]]:
    """Return all there are: number, name, SQL."""
    found: list[tuple[int, str, str]] = []
    for file in sorted(files(__name__.rpartition(".")[0]).joinpath("migrations").iterdir(), key=lambda each: each.name):
        number, _, name = file.name.removesuffix(".sql").partition("_")
        if file.name.endswith(".sql"):
            found.append((int(number), name, file.read_text("utf-8")))
    return found


async def applied(wire: psycopg.AsyncConnection[Any], address: Address) -> int:
    """Return the number of the last migration that was applied; 0 if there are no tables."""
    cursor = await wire.execute(
        b"select to_regclass($1::text) is not null", (address.named("aiotq.migration"),), binary=True
    )
    (row,) = await cursor.fetchall()
    if not row[0]:
        return 0
    cursor = await wire.execute(address.named("select coalesce(max(number), 0) from aiotq.migration").encode())
    (row,) = await cursor.fetchall()
    return int(row[0])


async def check(wire: psycopg.AsyncConnection[Any], address: Address) -> None:
    """See that the tables are those of this version.

    Raises:
        OperationalError: they are not; the text says what to do.
    """
    try:
        there = await applied(wire, address)
    except psycopg.Error as exc:
        raise translated(exc, address.shown) from exc
    _check_newer(there, address)
    newest = migrations()[-1][0]
    if there < newest:
        what = f"has migration {there} of {newest}" if there else "has no tables of aiotq"
        raise OperationalError(
            f"{address.shown}: schema {address.schema!r} {what}: run `aiotq migrate-db`, or set postgres_migrate"
        )


async def migrate(wire: psycopg.AsyncConnection[Any], address: Address) -> int:
    """Apply what is missing, all of it or nothing; return how many migrations that were.

    Raises:
        OperationalError: it can't be done; the text says why.
    """
    all_of_them = migrations()
    try:
        there = await applied(wire, address)
        _check_newer(there, address)
        if there == all_of_them[-1][0]:
            return 0
        async with wire.transaction():
            await wire.execute(b"select pg_advisory_xact_lock($1::bigint)", (_lock_number(address),))
            there = await applied(wire, address)  # another process may have done it meanwhile
            cursor = await wire.execute(b"select to_regnamespace($1::text) is null", (f'"{address.schema}"',))
            ((is_missing,),) = await cursor.fetchall()
            if is_missing:
                await wire.execute(f'create schema "{address.schema}"'.encode())
            if not there:
                await wire.execute(address.named(_TABLE).encode())
            missing = [each for each in all_of_them if each[0] > there]
            for number, name, sql in missing:
                await wire.execute(address.named(sql).encode(), prepare=False)
                insert = address.named("insert into aiotq.migration (number, name) values ($1::int, $2::text)")
                await wire.execute(insert.encode(), (number, name))
    except psycopg.Error as exc:
        raise translated(exc, address.shown) from exc
    if missing:
        logger.info("%s: schema %s has migration %d now", address.shown, address.schema, all_of_them[-1][0])
    return len(missing)


def _check_newer(there: int, address: Address) -> None:
    newest = migrations()[-1][0]
    if there > newest:
        raise OperationalError(
            f"{address.shown}: the tables in schema {address.schema!r} are of a newer aiotq (migration {there}, and "
            f"{newest} is the last one that is known here): upgrade aiotq"
        )


def _lock_number(address: Address) -> int:
    place = hashlib.blake2s(f"migrate {address.schema}.{address.prefix}".encode(), digest_size=8).digest()
    return int.from_bytes(place, signed=True)
