"""The app of the tests on periodic tasks: its tasks write down for which occurrence they run."""

from __future__ import annotations

from typing import Any, Final

from aiotq import AioTQ

from .apps import note

#: Seconds between occurrences of each entry.
EVERY: Final = 0.25
ENTRIES: Final = 8

app = AioTQ("beaten")


@app.task(bind=True)
async def occur(self: Any) -> None:
    """Write down the entry and the due time of this run."""
    periodic = self.request.periodic
    note("occurred", self.request.id, detail=[periodic.entry, periodic.due.isoformat()])


for _number in range(ENTRIES):
    app.add_periodic_task(EVERY, occur.s(), name=f"entry {_number}", misfire="all", expires=None)
