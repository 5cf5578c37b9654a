"""Statements on a PostgreSQL without psycopg's cursors: what was given comes back, and a connection's end is seen."""

from __future__ import annotations

import asyncio
import math

import pytest

from aiotq.backends.postgres.address import Address, parse
from aiotq.backends.postgres.connection import PostgresClient
from aiotq.backends.postgres.values import Value
from aiotq.exceptions import OperationalError, Refused

from ..servers import shared_postgres
from ..waiting import wait_until

_TYPES = "bigint", "float8", "boolean", "text", "bytea", "text[]", "bigint[]", "float8[]", "text[]", "jsonb"


@pytest.fixture
def address() -> Address:
    return parse(shared_postgres().schema())


async def test_values_come_back_as_they_were_given(address: Address) -> None:
    texts = ["", "a,b", '"', "\\", '\\"{}', "NULL", " ü\n", None]
    numbers = -(2**63), math.inf, True
    values: tuple[Value, ...] = (
        *numbers,
        "ö'\\x",
        bytes(range(256)),
        texts,
        [1, -2],
        [0.1, 1e300],
        [],
        '{"a": [1, null]}',
    )
    columns = ", ".join(f"${number}::{each}" for number, each in enumerate(_TYPES, 1))
    async with PostgresClient(address) as client:
        row = await client.row(f"select {columns}, $11::text".encode(), *values, None)

        with pytest.raises(Refused, match="NUL"):
            await client.rows(b"select $1::text[]", ["a\0b"])
        with pytest.raises(Refused):
            await client.rows(b"select $1::text", "\udc80")
        with pytest.raises(OperationalError, match="division by zero"):
            await client.rows(b"select 1 / $1::int", 0)
        assert await client.rows(b"create temporary table t ()") == []

    assert row == (*values[:-1], {"a": [1, None]}, None)


async def test_what_is_larger_than_the_socket_takes_at_once_goes_and_comes_in_parts(address: Address) -> None:
    large = bytes(range(256)) * 40_000
    async with PostgresClient(address) as client:
        answers = await asyncio.gather(*(client.rows(b"select $1::bytea, $2::int", large, n) for n in range(3)))

    assert answers == [[(large, n)] for n in range(3)]


async def test_a_connection_that_ends_while_nobody_asks_is_made_anew(address: Address) -> None:
    async with PostgresClient(address) as client:
        (pid,) = await client.row(b"select pg_backend_pid()")

        shared_postgres().ask("select pg_terminate_backend(%s)", pid)

        await wait_until(lambda: client.requests.reconnected_at is not None, "it is there again")
        assert await client.row(b"select pg_backend_pid()") != (pid,)
