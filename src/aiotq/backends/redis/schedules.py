"""How rows of periodic tasks and of keys look to the scripts in `lua/`, and where they are kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from ...exceptions import MalformedMessage
from ...results.ledger import ScheduleChange, ScheduleRow
from .connection import RedisClient
from .envelopes import envelopes_of_list, packed_envelopes
from .script import Script, unpack

logger = logging.getLogger("aiotq.results.redis")

#: What scripts that change rows of periodic tasks include; rows of keys are changed by `KEYS`.
LIBRARY: Final = "schedules"
#: The library of rows of keys: late, since few calls have one.
KEYS: Final = "keys"
CHANGE_SCHEDULES: Final = Script("base", "bus", "results", KEYS, LIBRARY, "change_schedules", late={KEYS})

#: The mark of a row that is none of ours, as `schedules.lua` has it.
_UNREADABLE: Final = "?"


def packed_change(change: ScheduleChange) -> tuple[object, ...]:
    """Return a change as `change_schedule` reads it."""
    return (
        change.scope,
        change.name,
        change.seen,
        change.mark,
        change.body,
        packed_envelopes(change.unsent),
        change.tells,
        change.lasts if change.lasts is not None else False,
    )


async def read_rows(client: RedisClient, scope: str, names: Sequence[str] | None) -> list[ScheduleRow]:
    """Return the rows of an app, all or those of `names`; what is none of ours has no body."""
    key = f"{client.base}:schedules:{scope}"
    found: list[tuple[bytes, bytes]]
    if names is None:
        pairs: list[bytes] = await client.ask("HGETALL", key)
        found = list(zip(pairs[::2], pairs[1::2], strict=True))
    else:
        values: list[bytes | None] = await client.ask("HMGET", key, *names) if names else []
        given = [name.encode() for name in names]
        found = [(name, each) for name, each in zip(given, values, strict=True) if each is not None]
    return [_row(name.decode(errors="replace"), packed) for name, packed in found]


async def read_keys(client: RedisClient, names: Sequence[str]) -> list[ScheduleRow]:
    """Return the rows of keys; of one that is none of ours the mark and no body."""
    if not names:
        return []
    found: list[bytes | None] = await client.ask("MGET", *(f"{client.base}:key:{name}" for name in names))
    return [_row(name, packed) for name, packed in zip(names, found, strict=True) if packed is not None]


async def read_revision(client: RedisClient, scope: str) -> int:
    """Return how many changes of an app's rows were to be looked at."""
    return int(await client.ask("HGET", f"{client.base}:schedule-revisions", scope) or 0)


def _row(name: str, packed: bytes) -> ScheduleRow:
    seen = _UNREADABLE
    try:
        fields = unpack(packed)
        seen = fields[0].decode()  # by this the row can be removed, whatever the rest is
        _, body, unsent = fields
        if not isinstance(body, bytes):
            raise TypeError("its body is no text")
        return ScheduleRow(name, seen, body, envelopes_of_list(unsent))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, MalformedMessage) as exc:
        logger.warning("the row of the periodic task or key %s can't be read: %s", name, exc)
        return ScheduleRow(name, seen, b"")
