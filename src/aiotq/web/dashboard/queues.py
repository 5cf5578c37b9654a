"""Queues: which one does not keep up, and stopping it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.responses import Response

from ...control.views import QueueView
from .desk import Desk, is_confirmed
from .forms import Form
from .visits import Done, Undo, Visit
from .words import counted, number

#: Queues on a page.
_A_PAGE: Final = 25

_SORTS: Final[Mapping[str, Callable[[QueueView], float]]] = {
    "ready": lambda row: row.stats.ready,
    "running": lambda row: row.stats.leased,
    "delayed": lambda row: row.stats.delayed,
    "dead": lambda row: row.stats.dead,
    "oldest": lambda row: row.stats.oldest_age or 0.0,
}


async def page(desk: Desk, visit: Visit) -> Response:
    """Return the page of all queues."""
    look = await desk.watch.look()
    rows = list(look.queues)
    sort = visit.query.get("sort", "ready")
    if sort in _SORTS:
        rows.sort(key=_SORTS[sort], reverse=True)
    known = [each for each in rows if each.coming is not None]
    start = number(visit.query.get("from", ""))
    return await desk.page(
        visit,
        "queues.html",
        "queues",
        live="queues",
        rows=rows[start : start + _A_PAGE],
        every=rows,
        start=start,
        a_page=_A_PAGE,
        sort=sort,
        slots=[
            sum(slot[at] for each in look.workers if not each.is_missing for slot in each.slots.values())
            for at in (0, 1)
        ],
        coming=sum(each.coming or 0.0 for each in known) if known else None,
        going=sum(each.going for each in rows),
    )


async def _pause(desk: Desk, visit: Visit, form: Form) -> Done:
    queue = form.need("queue")
    is_new = await desk.app.admin.pause(queue)
    said = f"{queue} is paused. What runs goes on; nothing new is started. Tasks that come in wait."
    undo = Undo("queues/resume", {"queue": queue})
    return Done(said if is_new else f"{queue} was paused already.", visit.url("queues"), undo=undo)


async def _resume(desk: Desk, visit: Visit, form: Form) -> Done:
    queue = form.need("queue")
    was_paused = await desk.app.admin.resume(queue)
    undo = Undo("queues/pause", {"queue": queue})
    said = f"{queue} is resumed: workers take from it again." if was_paused else f"{queue} was not paused."
    return Done(said, visit.url("queues"), undo=undo if was_paused else None)


async def _purge(desk: Desk, visit: Visit, form: Form) -> Done:
    queue = form.need("queue")
    look = await desk.watch.look()
    stats = next((each.stats for each in look.queues if each.stats.name == queue), None)
    ready, delayed = (0, 0) if stats is None else (stats.ready, stats.delayed)
    if not is_confirmed(
        form,
        queue,
        title=f"Purge {queue}?",
        lost=f"{ready:,} ready and {counted(delayed, 'delayed task')} will be deleted. They can't be brought back, and "
        "whoever awaits them waits until the time is up. What runs now is not touched.",
        button=f"Purge {counted(ready + delayed, 'task')}",
    ):
        return Done(f"Nothing was purged: what was typed is not {queue}.", visit.url("queues"), is_ok=False)
    count = await desk.app.admin.purge(queue)
    text = f"{counted(count, 'task')} deleted from {queue}. What runs goes on."
    if desk.broker == "RabbitMQ":  # which keeps what is delayed of all queues together
        text += " What is delayed stays."
    return Done(text, visit.url("queues"))


ACTS: Final[Mapping[str, Callable[[Desk, Visit, Form], Awaitable[Done]]]] = {
    "queues/pause": _pause,
    "queues/resume": _resume,
    "queues/purge": _purge,
}
