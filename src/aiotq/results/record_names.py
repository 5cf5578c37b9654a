"""Names of records that belong to a call, beside its result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

#: What a call keeps for its later runs: a state of its own, and the last key of a cursor.
STATE: Final = "checkpoint"
CURSOR: Final = "cursor"
#: Seconds for which that is kept, unless it says otherwise.
KEPT: Final = 7 * 86_400.0
#: What the mark of the row of a flow's journal begins with when the flow has ended.
FLOW_ENDED: Final = "ended "
#: Ids are given to stores as keys, and some of those are short.
_LONGEST_ID: Final = 200


def key_of(task_id: str) -> str:
    """Return what the names of a call's further records begin with."""
    return task_id if len(task_id.encode()) <= _LONGEST_ID else hashlib.sha256(task_id.encode()).hexdigest()


def checkpoints_of(ids: Sequence[str]) -> list[str]:
    """Return the ids of what these calls may have kept for later runs."""
    return [f"{key_of(task_id)}.{what}" for task_id in ids for what in (STATE, CURSOR)]


def flow_row(task_id: str) -> str:
    """Return the name of the row with the journal of a flow."""
    return f"flow:{key_of(task_id)}"
