"""Settings of a Redis that don't go with queues: what may be deleted, and what a restart loses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .connection import RedisClient, info_fields

#: Shares of the memory that a server may have, from which on it is said to be nearly full.
_NEARLY_FULL: Final = 0.9


async def server_warnings(client: RedisClient) -> list[str]:
    """Return what is wrong with the server's settings, each with what to do behind a semicolon.

    Raises:
        OperationalError: it does not say how they are.
    """
    info = info_fields(await client.ask("INFO", "memory"))
    return warnings_of(info | info_fields(await client.ask("INFO", "persistence")))


def warnings_of(info: Mapping[str, str]) -> list[str]:
    """As `server_warnings`, of what the server says of itself (INFO)."""
    found: list[str] = []
    policy, most = info.get("maxmemory_policy", "noeviction"), info.get("maxmemory", "0")
    if most != "0" and policy != "noeviction":
        what = "queues, and lose tasks" if policy.startswith("allkeys") else "results before they expire"
        found.append(f"maxmemory-policy is {policy}: it may delete {what}; set it to noeviction")
    used = info.get("used_memory", "0")
    if most.isdecimal() and used.isdecimal() and int(used) > _NEARLY_FULL * int(most) > 0:
        found.append(
            f"memory is used to {int(used) / int(most):.0%}: calls are refused when it is full; "
            "raise maxmemory, or see what fills it: aiotq queues"
        )
    if info.get("aof_enabled") == "0":
        found.append(
            "append-only file is off: a restart loses what was accepted since its last snapshot; "
            "set appendonly yes, and appendfsync always if not even a second may be lost"
        )
    for what, key in (
        ("snapshot", "rdb_last_bgsave_status"),
        ("append-only file's last write", "aof_last_write_status"),
    ):
        if info.get(key) == "err":
            found.append(f"{what} failed: what is accepted now may be lost; see the server's log (is its disk full?)")
    return found
