"""`aiotq find`: what finished lately."""

from __future__ import annotations

import time
from typing import Annotated, Final

import typer

from ..app import AioTQ
from ..control.views import plain_all
from ..core.inside import core_of
from ..exceptions import ResultsDisabled
from ..results.index import Finished, FinishedPage, FinishedQuery
from . import output
from .app_option import Target, UsageError
from .command import command
from .words import Json, Queue, read_duration

_COLUMNS: Final = ("state", "task", "id", "queue", "worker", "wait", "run", "ended", "arguments or error")
_NUMBERS: Final = ("wait", "run", "ended")

States = Annotated[
    list[str] | None,
    typer.Option(
        "-s",
        "--state",
        metavar="STATE",
        help="Only those that ended so: SUCCESS, FAILURE, REVOKED, IGNORED; RETRY: attempts before others.",
    ),
]
Name = Annotated[str, typer.Option("-n", "--name", metavar="TASK", help="Only calls of this task.")]
Worker = Annotated[str, typer.Option("-w", "--worker", metavar="WORKER", help="Only those that ended in this worker.")]
Id = Annotated[str, typer.Option("--id", metavar="PREFIX", help="Only those whose ids begin so.")]
Periodic = Annotated[str, typer.Option("--periodic", metavar="NAME", help="Only runs of this periodic task.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="DURATION", help="Only those that ended since then: 1h, 30m, 2d.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="DURATION", help="Only those that ended before then.")]
Text = Annotated[
    str, typer.Option("-t", "--text", metavar="TEXT", help="Only those with this in arguments, error, name or id.")
]
Limit = Annotated[int, typer.Option("-l", "--limit", metavar="N", min=1, max=1000, help="At most so many.")]
Cursor = Annotated[str | None, typer.Option("--cursor", help="Go on where the last page ended.")]


@command()
def find(
    target: Target,
    state: States = None,
    name: Name = "",
    queue: Queue = None,
    worker: Worker = "",
    task_id: Id = "",
    periodic: Periodic = "",
    since: Since = None,
    until: Until = None,
    text: Text = "",
    limit: Limit = 50,
    cursor: Cursor = None,
    as_json: Json = False,
) -> None:
    """Find finished tasks, the newest first. Which of them can be found is up to the setting result_index.

    Arguments are shown in short, without what masked_arguments names. `aiotq result ID` shows all of one.
    """
    now = time.time()
    query = FinishedQuery(
        states=tuple(each.strip().upper() for given in state or () for each in given.split(",") if each.strip()),
        name=name,
        queue=queue or "",
        worker=worker,
        id_prefix=task_id,
        periodic=periodic,
        since=None if since is None else now - read_duration(since),
        until=None if until is None else now - read_duration(until),
        text=text,
        limit=limit,
        cursor=cursor,
    )
    if query.since is not None and query.until is not None and query.since > query.until:
        raise UsageError(f"--since {since} is after --until {until}: both count back from now")

    async def search(app: AioTQ) -> FinishedPage:
        connection = await core_of(app).connection()
        if not connection.keeps_results:
            raise ResultsDisabled("no results are kept, so finished tasks can't be searched: set result_backend")
        return await connection.records.find(query)

    page = target.run(search)
    if as_json:
        tasks = plain_all(page.tasks)
        output.as_json({"tasks": tasks, "cursor": page.cursor, "counts": dict(page.counts)})
        return
    _print(page, now)
    if not page.tasks and task_id:
        print(f"a step that was never run is not searched either: aiotq result {task_id}")


def _print(page: FinishedPage, now: float) -> None:
    if page.tasks:
        output.table(_COLUMNS, [_row(each, now) for each in page.tasks], numbers=_NUMBERS, whole=("id",))
    elif page.cursor is None:
        kept = sum(page.counts.values())
        print(f"none of the {kept} that can be searched" if kept else "none: nothing that can be searched has finished")
    if page.cursor is not None:
        back = "" if page.looked_back_to is None else f" (it looked back for {output.age(now - page.looked_back_to)})"
        print(f"there may be more{back}: --cursor {page.cursor}")


def _row(each: Finished, now: float) -> tuple[str, ...]:
    ran, waited = (None if given is None else f"{given:.3g} s" for given in (each.ran, each.waited))
    ended = output.age(now - each.ended)
    return (
        *(each.state, each.name, each.id, each.queue, each.worker),
        *(waited or "-", ran or "-", ended, each.error or each.args),
    )
