"""Workers: who runs what, for how long, and whether that is usual; more slots, fewer, pause, stop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

from starlette.responses import Response

from ...control.asking import Answers
from ...control.fleet import FleetMember
from ...control.views import LiveCall
from ...core.values import value
from ...exceptions import CallError
from .desk import Desk, is_confirmed
from .forms import Form
from .visits import Done, Undo, Visit
from .watching import Look
from .words import number

#: Workers and running calls on a page.
_A_PAGE: Final = 20
_MOST_CALLS: Final = 60
_NO_SLOTS: Final[Mapping[str, Sequence[int]]] = {}


@value
class WorkerRow:
    """A worker as the page shows it."""

    member: FleetMember
    state: str
    busy: int
    total: int
    slow: int


def rows_of(look: Look, calls: Sequence[LiveCall]) -> list[WorkerRow]:
    """Return the workers of a look: the missing ones last."""
    slow = Counter(each.worker for each in calls if each.is_slow)
    rows = [_row(each, slow[each.name]) for each in look.workers]
    return sorted(rows, key=lambda row: (row.member.is_missing, row.member.name))


def _row(member: FleetMember, slow: int) -> WorkerRow:
    busy, total = (sum(counts[at] for counts in member.slots.values()) for at in (0, 1))
    if member.is_missing:
        state = "LOST"
    elif member.blocked is not None:
        state = "BLOCKED"
    else:
        state = "PAUSED" if member.is_paused else "WORKS"
    return WorkerRow(member, state, busy, total, min(slow, busy))


async def page(desk: Desk, visit: Visit) -> Response:
    """Return the page of all workers; of one of them what it runs, and where that stands if it is asked."""
    look = await desk.watch.look()
    live = await desk.watch.live()
    every = live.running
    rows = rows_of(look, every)
    chosen = visit.query.get("worker") or None
    calls = [each for each in every if chosen is None or each.worker == chosen]
    start = number(visit.query.get("from", ""))
    asks = visit.query.get("ask") == "stacks"
    versions: dict[str, int] = {}
    for row in rows:
        if not row.member.is_missing:
            versions[row.member.version] = versions.get(row.member.version, 0) + 1
    return await desk.page(
        visit,
        "workers.html",
        "workers",
        live="workers running",
        rows=rows[start : start + _A_PAGE],
        every=len(rows),
        start=start,
        a_page=_A_PAGE,
        schedulers=[each for each in look.members if each.kind == "scheduler"],
        busy=sum(row.busy for row in rows if not row.member.is_missing),
        total=sum(row.total for row in rows if not row.member.is_missing),
        slow=sum(row.slow for row in rows),
        lost=sum(row.member.is_missing for row in rows),
        versions=sorted(versions.items()),
        chosen=chosen,
        calls=calls[:_MOST_CALLS],
        calls_total=len(calls),
        longest=max((max(each.seconds or 0.0, each.usual or 0.0) for each in calls), default=0.0) or 1.0,
        asks=asks,
        stacks=await desk.watch.stacks(chosen) if asks else None,
        notes=live.notes,
    )


def _to(visit: Visit, form: Form) -> str:
    return visit.url("workers", worker=form.get("shown"))


def _said(answers: Answers, name: str) -> str:
    """Return what a worker answered.

    Raises:
        CallError: it did not, or could not.
    """
    if answers.failed:
        raise CallError(next(iter(answers.failed.values())))
    if not answers:
        raise CallError(f"worker {name} did not answer")
    answer: Any = next(iter(answers.values()))
    return str(answer.get("ok", "done")) if isinstance(answer, dict) else "done"  # pyright: ignore[reportUnknownMemberType, reportUnknownArgumentType]


async def _act(desk: Desk, visit: Visit, form: Form) -> Done:
    """Do with a worker what the button says that was pressed."""
    name, control = form.need("worker"), desk.app.control
    at = [name]
    match form.need("act"):
        case "pause":
            _said(await control.pause(destination=at), name)
            undo = Undo("workers/one", {"worker": name, "act": "resume"})
            return Done(f"{name} takes nothing new. What it runs goes on.", _to(visit, form), undo=undo)
        case "resume":
            _said(await control.resume(destination=at), name)
            undo = Undo("workers/one", {"worker": name, "act": "pause"})
            return Done(f"{name} takes tasks again.", _to(visit, form), undo=undo)
        case "grow" | "shrink" as change:
            kind = await _kind_of(desk, name)
            resize = control.pool_grow if change == "grow" else control.pool_shrink
            said = _said(await resize(1, kind, destination=at), name)
            undo = Undo("workers/one", {"worker": name, "act": "shrink" if change == "grow" else "grow"})
            return Done(f"{name} has {said}.", _to(visit, form), undo=undo)
        case _:
            return Done("Nothing was changed: there is no such act.", _to(visit, form), is_ok=False)


async def _kind_of(desk: Desk, name: str) -> str:
    """Return the kind of slots of which a worker has most: those that are made more and fewer."""
    look = await desk.watch.look()
    slots = next((each.slots for each in look.workers if each.name == name), _NO_SLOTS)
    kinds = {kind: counts[1] for kind, counts in slots.items() if kind in {"loop", "thread"}}
    return max(kinds, key=lambda kind: kinds[kind], default="loop")


async def _stop(desk: Desk, visit: Visit, form: Form) -> Done:
    name = form.need("worker")
    if not is_confirmed(
        form,
        name,
        title=f"Stop {name}?",
        lost="It takes no more tasks, lets what runs finish for its grace time, then hands back the rest. Nothing is "
        "lost; it starts again only if something starts it.",
        button="Stop it",
    ):
        return Done(f"Nothing was stopped: what was typed is not {name}.", _to(visit, form), is_ok=False)
    _said(await desk.app.control.shutdown(destination=[name]), name)
    said = f"{name} stops: it takes no more tasks, and lets finish what runs."
    return Done(said, _to(visit, form))


ACTS: Final[Mapping[str, Callable[[Desk, Visit, Form], Awaitable[Done]]]] = {
    "workers/one": _act,
    "workers/stop": _stop,
}
