"""The fleet registry's row as a statement: alone, or beside the renewal of leases, in the same request."""

from __future__ import annotations

from typing import Final

_NOW: Final = "extract(epoch from clock_timestamp())"


def writing_row(key: int, body: int, lease: int) -> str:
    """Return the statement that writes a row; the numbers are those of its values."""
    return (
        f"insert into aiotq.fleet (key, ends, body) values (${key}::text, {_NOW} + ${lease}::float8, ${body}::bytea)"
        " on conflict (key) do update set ends = excluded.ends, body = excluded.body"
    )
