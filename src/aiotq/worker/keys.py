"""The keys of calls where these start: a debounced call waits for the last of its burst, and a key may be free again.

A start moves what is to run from the row of the key to one of the call's own, in which whoever runs it after a death
finds it, and then gives the key up; should it have been changed meanwhile, both are done again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..core.clock import Clock
from ..core.values import replace
from ..results import Ledger, ScheduleChange, ScheduleRow, key_change
from ..results.keys import KEPT_FOR_LATER, READ_FIRST, RUNS, Held, Key, held_of, in_place_of, key_of, row_of_run
from ..transport import Delivery


class Keys:
    """Looks after the keys of calls that start in one worker."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self._ledger = ledger
        self._clock = clock

    async def waits(self, keyed: Sequence[Delivery]) -> Mapping[int | str, float]:
        """Return the seconds for which those of `keyed` wait whose bursts go on, by their leases."""
        debounced = [
            (each, key) for each in keyed if (key := key_of(each.message)) is not None and key.mode == "debounce"
        ]
        rows = await self._rows([key.name for _, key in debounced])
        now = self._clock.time()
        waits: dict[int | str, float] = {}
        for delivery, key in debounced:
            held = _own(rows.get(key.name), delivery)
            if held is not None and held.due > now:
                waits[delivery.lease] = min(held.due - now, key.seconds)
        return waits

    async def begun(self, keyed: Sequence[Delivery]) -> Mapping[int | str, Delivery]:
        """Release the keys of those that start now; return those that run with other arguments, by their leases."""
        left: dict[int | str, tuple[Delivery, Key]] = {
            each.lease: (each, key)
            for each in keyed
            if (key := key_of(each.message)) is not None and key.mode in READ_FIRST
        }
        begun: dict[int | str, Delivery] = {}
        while left:
            pairs = list(left.values())
            rows = await self._rows(
                [name for delivery, key in pairs for name in (key.name, row_of_run(delivery.message.id))]
            )
            refused = await self._moved(pairs, rows, begun)
            left = {lease: pair for lease, pair in left.items() if lease in refused}
        return begun

    async def _moved(
        self,
        pairs: Sequence[tuple[Delivery, Key]],
        rows: Mapping[str, ScheduleRow],
        begun: dict[int | str, Delivery],
    ) -> set[int | str]:
        """Move what runs from the rows of keys; return the leases of those whose rows were changed meanwhile."""
        changes: list[ScheduleChange] = []
        released: dict[int, int | str] = {}
        for delivery, key in pairs:
            message = delivery.message
            row, kept = rows.get(key.name), rows.get(row_of_run(message.id))
            held = _own(row, delivery)
            if held is None or row is None:  # it began before, or the key has expired
                held = held_of(kept) if kept is not None else None
            else:
                if held.message is not None:
                    seen = "" if kept is None else RUNS
                    changes.append(key_change(row_of_run(message.id), seen, RUNS, KEPT_FOR_LATER, row.body))
                released[len(changes)] = delivery.lease
                changes.append(key_change(key.name, row.mark, "", 0.0))
            fresh = message if held is None else in_place_of(message, held.message)
            if fresh is not message:
                begun[delivery.lease] = replace(delivery, message=fresh)
        answers = await self._ledger.change_schedules(changes) if changes else ()
        return {lease for index, lease in released.items() if not answers[index]}

    async def _rows(self, names: Sequence[str]) -> dict[str, ScheduleRow]:
        found = await self._ledger.keys(list(dict.fromkeys(names))) if names else ()
        return {row.name: row for row in found}


def _own(row: ScheduleRow | None, delivery: Delivery) -> Held | None:
    """Return what the row of a key says, if the key is this delivery's."""
    if row is None:
        return None
    held = held_of(row)
    return held if (held.task_id, held.attempt) == delivery.message.key else None
