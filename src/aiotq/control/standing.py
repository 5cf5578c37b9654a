"""Who is there and what ended in the last hour, for whoever looks again and again.

A hundred workers tell megabytes. What stayed as it was is not read anew, and between two rows others have their turn.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from ..core.values import replace
from ..exceptions import MalformedMessage
from ..results import Ledger
from ..results.fleet import Presence
from .added_up import AddedUp
from .fleet import FleetMember, read_member
from .recent import Recent


class Standing:
    """The fleet registry as it was read last, and the sums of what its rows tell."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[bytes, FleetMember]] = {}
        self._sums = AddedUp()

    async def read(self, ledger: Ledger, now: float) -> tuple[Sequence[FleetMember], Recent]:
        """Return the members by name, and the hour before `now`; rows that can't be read are left out."""
        members: list[FleetMember] = []
        present = await ledger.fleet()
        for presence in present:
            known = self._rows.get(presence.key)
            if known is None or known[0] != presence.row:
                await asyncio.sleep(0)
                known = self._read(presence)
            if known is not None:
                members.append(_at(known[1], presence.left))
        for key in self._rows.keys() - {each.key for each in present}:
            del self._rows[key]
        self._sums.keep(self._rows.keys())
        return sorted(members, key=lambda each: (each.name, each.key)), self._sums.recent(now)

    def _read(self, presence: Presence) -> tuple[bytes, FleetMember] | None:
        with suppress(MalformedMessage):  # of a version to come, perhaps
            member = read_member(presence)
            self._sums.tell(presence.key, member.recent)
            self._rows[presence.key] = presence.row, replace(member, recent=None)
            return self._rows[presence.key]
        self._rows.pop(presence.key, None)
        return None


def _at(member: FleetMember, left: float) -> FleetMember:
    """Return a member whose lease has so many seconds left."""
    return replace(member, is_missing=left <= 0, missing_for=max(-left, 0.0))
