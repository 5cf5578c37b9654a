"""The rows of the fleet registry, as ledgers keep them: who is there, under a lease, and who went missing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..core.values import value

#: Seconds for which a row is kept when its lease has ended: so long its worker is shown as missing.
MISSING_KEPT: Final = 3600.0


@value
class Presence:
    """A row: `key` is of one life of one worker, `row` what it says of itself.

    `left` are the seconds that its lease has left; less than 0: it ended so long ago, and nobody said good-bye.
    """

    key: str
    row: bytes
    left: float


@value
class FleetRow:
    """What is written into the registry: `row` under `key`, for `lease` seconds."""

    key: str
    row: bytes
    lease: float


class FleetTable:
    """The rows in the memory of one process; whoever has it holds its lock."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[bytes, float]] = {}  #: with the ends of their leases

    def __len__(self) -> int:
        return len(self._rows)

    def renew(self, key: str, row: bytes, lease: float, now: float) -> None:
        self._forget(now)
        self._rows[key] = row, now + lease

    def end(self, key: str) -> None:
        self._rows.pop(key, None)

    def present(self, now: float) -> list[Presence]:
        self._forget(now)
        return sorted_by_key(Presence(key, row, ends - now) for key, (row, ends) in self._rows.items())

    def _forget(self, now: float) -> None:
        for key in [key for key, (_, ends) in self._rows.items() if ends + MISSING_KEPT <= now]:
            del self._rows[key]


def sorted_by_key(found: Iterable[Presence]) -> list[Presence]:
    """Return rows in the order in which every ledger gives them."""
    return sorted(found, key=lambda each: each.key)
