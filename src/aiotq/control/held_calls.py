"""Lets go of calls that a block held: they are noted as those that wait for a permit, of which there was none."""

from __future__ import annotations

from ..results import Ledger
from ..results.permits import NOBODY
from ..transport import Broker

#: Calls that are let go together.
_AT_ONCE = 500


async def let_go(ledger: Ledger, broker: Broker, name: str) -> int:
    """Make all calls due that are noted to wait under `name`; return how many were. Repeating is safe.

    Raises:
        OperationalError: some may have been let go.
    """
    count = 0
    if not broker.can_make_due_now:  # they ask again by themselves
        return count
    limits = {name: _AT_ONCE}
    waiting = await ledger.hand_over_permits((), (), NOBODY, limits)
    while waiting:
        count += sum(await broker.make_due_now([each.key for each in waiting]))
        waiting = await ledger.hand_over_permits(waiting, (), NOBODY, limits)
    return count
