"""Blocks: calls of a task with certain arguments that are not to run for a time, as rows of the ledger.

They stand among the rows of periodic tasks, under a scope that no app has: there are few, and workers learn from one
number whether there are others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import orjson

from ..core.values import value
from .ledger import ScheduleChange, ScheduleRow

#: Under which the rows stand; no app can be called so.
SCOPE: Final = ":blocks"
#: The topic on which workers are told that there are other blocks.
BLOCKED: Final = "blocked"

Action = Literal["hold", "reject"]


@value
class Block:
    """A block: calls of `task` whose arguments are as `where` says (none: all) do not start before wall time `until`.

    They wait for that ("hold"), or end as REVOKED ("reject").
    """

    id: str
    task: str
    where: Mapping[str, Any]
    action: Action
    until: float
    reason: str = ""

    @property
    def name(self) -> str:
        """Under which the calls that it holds are noted."""
        return f"block:{self.id}"

    def change(self, seen: str, mark: str) -> ScheduleChange:
        """Return the write of its row; an empty `mark` removes it."""
        body = orjson.dumps([self.task, dict(self.where), self.action, self.until, self.reason]) if mark else b""
        return ScheduleChange(SCOPE, self.id, seen, mark, body, tells=True)


def block_of(row: ScheduleRow) -> Block | None:
    """Return the block in a row; None if it can't be read."""
    try:
        task, where, action, until, reason = orjson.loads(row.body)
    except ValueError:
        return None
    return Block(row.name, task, where, "reject" if action == "reject" else "hold", until, reason)
