"""The app whose workflows are run by workers that are killed: each call says when it starts, and what with."""

from __future__ import annotations

import asyncio
from typing import Any

from aiotq import AioTQ, Task, chain, group

from ..canvas.specs import value_of
from .apps import note

app = AioTQ("workflows")


@app.task(bind=True)
async def cell(self: Task[..., Any], *args: Any, label: str, of: int, does: str, seconds: float) -> str:
    """Return a text of its label and arguments after `seconds`; or fail, or have three others take its place.

    What it notes is about its label `of` its workflow: the last of those three has its id.
    """
    note("start", f"{of}.{label}")
    await asyncio.sleep(seconds)
    note("end", f"{of}.{label}")
    if does == "fails":
        raise ValueError(label)
    if does == "is replaced":
        inner = [cell.s(label=f"{label}{n}", of=of, does="returns", seconds=seconds) for n in range(3)]
        raise self.replace(chain(group(inner[:2]), inner[2]))
    return value_of(label, args)


@app.task
async def told(request: Any, exc: Exception, traceback: str | None) -> None:
    """Note that an error callback was called, for whom."""
    note("told", request.id, detail=str(exc))
