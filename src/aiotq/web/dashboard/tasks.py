"""Tasks: where that one is, and what to do with all like it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from starlette.responses import Response

from ... import states
from ...control.acts import delete_found, run_again
from ...control.views import DELAYED, CallsPage, LiveCall, LiveCalls
from ...core.values import value
from ...exceptions import AioTQError
from ...results.index import Finished, FinishedQuery
from .desk import Desk, is_confirmed
from .forms import BadForm, Form
from .visits import Done, Visit
from .words import clock, counted

#: Tasks on a page: ended ones, and others above them; bars of the chart, and tasks that one act is about.
_A_PAGE: Final = 40
_MOST_LIVE: Final = 20
_BARS: Final = 60
_MOST: Final = 10_000
#: The tabs: what is asked for, in the order of a task's life.
TABS: Final = (DELAYED, states.RECEIVED, states.STARTED, states.RETRY, states.FAILURE, states.SUCCESS, states.REVOKED)
_LIVE: Final = frozenset({DELAYED, states.RECEIVED, states.STARTED, states.RETRY})
#: Times that can be chosen, in seconds back from now.
SINCE: Final[Mapping[str, tuple[str, float | None]]] = {
    "": ("Any time", None),
    "5m": ("Last 5 minutes", 300),
    "1h": ("Last hour", 3_600),
    "24h": ("Last 24 hours", 86_400),
    "7d": ("Last 7 days", 604_800),
}
_TEXTS: Final = ("find", "task", "queue", "worker", "root", "periodic")
#: What a filter is called on its chip.
_CHIPS: Final = {
    "find": "text",
    "task": "task",
    "queue": "queue",
    "worker": "worker",
    "root": "workflow",
    "periodic": "schedule",
    "since": "since",
}


@value
class Filters:
    """What is asked for, as the address has it."""

    state: str
    find: str
    task: str
    queue: str
    worker: str
    root: str
    periodic: str
    since: str

    @classmethod
    def of(cls, given: Callable[[str], str]) -> Filters:
        """Return what is asked for; `given` returns a field, or nothing."""
        state, since = given("state"), given("since")
        find, task, queue, worker, root, periodic = (given(name).strip() for name in _TEXTS)
        state, since = state if state in TABS else "", since if since in SINCE else ""
        return cls(state, find, task, queue, worker, root, periodic, since)

    def query(self, now: float, *, limit: int, cursor: str | None = None) -> FinishedQuery:
        """Return what is searched among what ended."""
        back = SINCE[self.since][1]
        return FinishedQuery(
            states=(self.state,) if self.state and self.state not in _LIVE else (),
            name=self.task,
            queue=self.queue,
            worker=self.worker,
            root_id=self.root,
            periodic=self.periodic,
            since=None if back is None else now - back,
            text=self.find,
            limit=limit,
            cursor=cursor,
        )

    def fields(self) -> dict[str, str]:
        """Return what narrows, by name."""
        given = {name: getattr(self, name) for name in ("state", *_CHIPS)}
        return {name: text for name, text in given.items() if text}

    def fits(self, call: LiveCall) -> bool:
        """Whether a call that has not ended is asked for."""
        text = self.find.casefold()
        return (
            (not self.state or call.state == self.state)
            and (not self.task or call.name == self.task)
            and (not self.queue or call.queue == self.queue)
            and (not self.worker or call.worker == self.worker)
            and (not self.root or self.root in {call.root_id, call.id})
            and not self.periodic
            and (not text or any(text in said.casefold() for said in (call.id, call.name, call.args)))
        )


@value
class Bar:
    """A stretch of time in the chart of when tasks ended: how many did, and how many of them failed."""

    x: int
    y: float
    height: float
    bad: float
    title: str


async def page(desk: Desk, visit: Visit) -> Response:
    """Return the page of tasks: what is live, then what ended, the newest first."""
    filters = Filters.of(lambda name: visit.query.get(name, ""))
    cursor = visit.query.get("before") or None
    said = await desk.watch.live()
    found = await _search(desk, filters, visit.now, said, limit=_A_PAGE, cursor=cursor)
    live = [] if cursor else [each for each in found.live if filters.fits(each)]
    look = await desk.watch.look()
    finished = () if filters.state in _LIVE else found.finished
    knows_live = cursor is None and (not filters.state or filters.state in _LIVE)  # else they are not looked at
    return await desk.page(
        visit,
        "tasks.html",
        "tasks",
        live="tasks",
        found=found,
        calls=live[:_MOST_LIVE],
        calls_left_out=max(len(live) - _MOST_LIVE, 0),
        finished=finished,
        cursor=found.cursor if finished else None,
        is_first=cursor is None,
        a_page=_A_PAGE,
        filters=filters,
        chips=[(key, word, getattr(filters, key)) for key, word in _CHIPS.items() if getattr(filters, key)],
        tabs=[(key, found.counts.get(key, 0) if knows_live or key not in _LIVE else None) for key in TABS],
        total=sum(found.counts.values()) if knows_live else None,
        bars=_bars(finished),
        ticks=_ticks(finished),
        since=[(key, word) for key, (word, _) in SINCE.items()],
        names=sorted({*desk.core.registry.own_tasks, *([filters.task] if filters.task else ())}),
        queues=sorted({each.stats.name for each in look.queues} | ({filters.queue} if filters.queue else set[str]())),
        workers=sorted({each.name for each in look.workers} | ({filters.worker} if filters.worker else set[str]())),
        index=desk.core.conf.result_index,
    )


async def _search(
    desk: Desk, filters: Filters, now: float, live: LiveCalls, *, limit: int, cursor: str | None
) -> CallsPage:
    return await desk.queries.calls(filters.query(now, limit=limit, cursor=cursor), live)


def _bars(finished: Sequence[Finished]) -> list[Bar]:
    """Return when the tasks of a page ended."""
    if len(finished) < 2:
        return []
    first, last = finished[-1].ended, finished[0].ended
    width = max((last - first) / _BARS, 1e-6)
    counts = [[0, 0] for _ in range(_BARS)]
    for each in finished:
        place = min(int((each.ended - first) / width), _BARS - 1)
        counts[place][0] += 1
        counts[place][1] += each.state == states.FAILURE
    most = max(count for count, _ in counts)
    return [
        Bar(
            x,
            round(100 - count / most * 100, 1),
            round(count / most * 100, 1),
            round(failed / most * 100, 1),
            f"{clock(first + x * width)}: {counted(count, 'task')}, {failed} failed",
        )
        for x, (count, failed) in enumerate(counts)
        if count
    ]


def _ticks(finished: Sequence[Finished]) -> list[str]:
    if len(finished) < 2:
        return []
    first, last = finished[-1].ended, finished[0].ended
    return [clock(first + (last - first) * quarter / 4) for quarter in range(5)]


async def _chosen(desk: Desk, visit: Visit, form: Form) -> tuple[list[str], list[Finished]]:
    """Return the ids that an act is about, and what ended of them: those chosen, or all that match, counted again."""
    if not form.get("all"):
        pairs = [each.partition(" ") for each in form.all("id")]
        return [task_id for task_id, _, _ in pairs], [_entry(task_id, key) for task_id, _, key in pairs if key]
    filters, said = Filters.of(form.get), await desk.queries.live()
    ids: dict[str, None] = {}
    ended: list[Finished] = []
    cursor: str | None = None
    while True:
        found = await _search(desk, filters, visit.now, said, limit=500, cursor=cursor)
        ids |= dict.fromkeys(each.id for each in found.live if filters.fits(each))
        if filters.state not in _LIVE:
            ids |= dict.fromkeys(each.id for each in found.finished)
            ended += found.finished
        cursor = found.cursor
        if cursor is None or filters.state in _LIVE or len(ids) >= _MOST:
            return list(ids)[:_MOST], ended[:_MOST]


def _entry(task_id: str, key: str) -> Finished:
    """Return an entry by what a form has of it."""
    return Finished(task_id, "", "", 0.0, key=key)


async def _act(desk: Desk, visit: Visit, form: Form) -> Done:
    """Do with the chosen tasks what the button says that was pressed."""
    to = visit.url("tasks", **Filters.of(form.get).fields())
    ids, ended = await _chosen(desk, visit, form)
    if not ids:
        raise BadForm("no task was chosen")
    match form.need("act"):
        case "again":
            _ask_of_all(form, f"Run {counted(len(ids), 'task')} again?", "Each is sent once more.", "Run again")
            return await _again(desk, ids, to)
        case "revoke":
            _ask_of_all(form, f"Revoke {counted(len(ids), 'task')}?", "What has not started will not run.", "Revoke")
            await desk.app.admin.revoke(*ids)
            return Done(f"{counted(len(ids), 'task')} revoked: what has not started will not.", to)
        case "delete" if not is_confirmed(
            form,
            "delete",
            title=f"Delete what is kept of {counted(len(ended), 'task')}?",
            lost="Their records go: arguments, results and tracebacks. What runs is not stopped.",
            button=f"Delete {counted(len(ended), 'record')}",
        ):
            return Done('Nothing was deleted: what was typed is not "delete".', to, is_ok=False)
        case "delete":
            await delete_found(desk.core, ended)
            return Done(f"What is kept of {counted(len(ended), 'task')} is deleted.", to)
        case _:
            return Done("Nothing was changed: there is no such act.", to, is_ok=False)


def _ask_of_all(form: Form, title: str, lost: str, button: str) -> None:
    """Ask before something is done with all that matches, of which a page shows a part."""
    if form.get("all"):
        is_confirmed(form, "", title=title, lost=lost, button=button)


async def _again(desk: Desk, ids: Sequence[str], to: str) -> Done:
    sent, why = 0, ""
    for each in ids:
        try:
            await run_again(desk.core, each)
            sent += 1
        except AioTQError as exc:
            why = str(exc)
    failed = len(ids) - sent
    more = f" {counted(failed, 'task')} can't: {why}." if failed else ""
    return Done(f"{counted(sent, 'task')} sent to run again.{more}", to, is_ok=sent > 0)


ACTS: Final[Mapping[str, Callable[[Desk, Visit, Form], Awaitable[Done]]]] = {"tasks/chosen": _act}
