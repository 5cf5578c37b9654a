"""Blocking calls by their arguments, and letting them go, for operators."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from ..calling.core import AppCore
from ..exceptions import InvalidOption, StoreRequired
from ..results.blocks import BLOCKED, SCOPE, Action, Block, block_of
from ..tasks.keys import plain_json
from ..tasks.task import Task
from ..wire.message import LONGEST_LIMIT, MAX_NAME, is_name
from .held_calls import let_go

#: The largest `where` and reason together, in bytes: they are read by each worker.
_MOST: Final = 4096


async def block(
    core: AppCore, task: Task[..., Any] | str, where: Mapping[str, Any], action: Action, seconds: float, reason: str
) -> Block:
    """Write a block, and tell workers; raises as `Admin.block`."""
    name = task if isinstance(task, str) else task.name
    known = core.tasks.get(name)
    if not is_name(name):
        raise InvalidOption(f"a task's name is a string of 1 to {MAX_NAME} printable characters, not {name!r}")
    if action not in ("hold", "reject"):
        raise InvalidOption(f'block {name}: action must be "hold" or "reject", not {action!r}')
    if isinstance(seconds, bool) or not 0 < seconds <= LONGEST_LIMIT:
        raise InvalidOption(f"block {name}: for_ must be seconds, more than 0, at most ten years, not {seconds!r}")
    parameters = [] if known is None else [each.name for each in known.call_parameters]
    for each in where:
        if parameters and each not in parameters:
            raise InvalidOption(f"block {name}: {each!r} is none of its parameters ({', '.join(parameters)})")
    packed = plain_json(name, "where", dict(where))
    if len(packed) + len(reason) > _MOST:
        raise InvalidOption(f"block {name}: where and reason are over {_MOST} bytes")
    until = core.now() + seconds
    made = Block(os.urandom(4).hex(), name, orjson.loads(packed), action, until, reason)
    await _change(core, made, "", "1")
    return made


async def blocks(core: AppCore) -> Sequence[Block]:
    """Return the blocks that hold, the first to end in front."""
    rows = await (await core.connection()).ledger.schedules(SCOPE)
    found = [each for row in rows if (each := block_of(row)) is not None and each.until > core.now()]
    return sorted(found, key=lambda each: each.until)


async def unblock(core: AppCore, block_id: str) -> int | None:
    """Remove a block, tell workers, and let go of what it held; None: there is none of that id."""
    ledger = (await core.connection()).ledger
    rows = await ledger.schedules(SCOPE, [block_id])
    if not rows:
        return None
    lifted = block_of(rows[0]) or Block(block_id, "", {}, "hold", 0.0)
    await _change(core, lifted, rows[0].mark, "")
    return await let_go(ledger, (await core.connection()).broker, lifted.name)


async def _change(core: AppCore, changed: Block, seen: str, mark: str) -> None:
    connection = await core.connection()
    if not connection.ledger.has_fleet:
        raise StoreRequired(
            "calls can't be blocked for all workers: that is kept in a store that they share, and rpc:// is none: set "
            "result_backend to a redis://, postgresql:// or sqlite:// URL"
        )
    await connection.ledger.change_schedules([changed.change(seen, mark)])
    await connection.bus.tell_all(BLOCKED, b"")
