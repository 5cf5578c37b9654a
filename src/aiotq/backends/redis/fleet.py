"""How rows of the fleet registry look to the scripts in `lua/`."""

from __future__ import annotations

from typing import Final

from ...results.fleet import MISSING_KEPT, FleetRow

#: What scripts that write rows include after `base`.
LIBRARY: Final = "fleet_rows"


def packed_row(row: FleetRow) -> tuple[str, bytes, float, float]:
    """Return a row as `write_fleet_row` reads it."""
    return row.key, row.row, row.lease * 1000, MISSING_KEPT * 1000
