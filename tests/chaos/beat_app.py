"""The app of the tests on periodic tasks: its tasks write down for which occurrence they run."""

from __future__ import annotations

from typing import Any, Final

from aiotq import AioTQ, group

from .apps import note

#: Seconds between occurrences of each entry.
EVERY: Final = 0.25
ENTRIES: Final = 8

app = AioTQ("beaten")


def _occurred(request: Any) -> None:
    note("occurred", request.id, detail=[request.periodic.entry, request.periodic.due.isoformat()])


@app.task(bind=True)
async def occur(self: Any) -> None:
    """Write down the entry and the due time of this run."""
    _occurred(self.request)


@app.task
async def part(number: int) -> int:
    return number


@app.task(bind=True)
async def whole(self: Any, numbers: list[int]) -> None:
    """The same for a workflow, of which all parts are there."""
    assert numbers == [1, 2]
    _occurred(self.request)


for _number in range(ENTRIES - 1):
    app.add_periodic_task(EVERY, occur.s(), name=f"entry {_number}", misfire="all", expires=None)
app.add_periodic_task(EVERY, group(part.s(1), part.s(2)) | whole.s(), name="workflow", misfire="all", expires=None)
