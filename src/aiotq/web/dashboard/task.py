"""A task: why it failed, where its time went, and running it again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from ... import states
from ...control.acts import delete, run_again
from ...control.views import DEAD, CallView
from ...core.values import value
from ...exceptions import AioTQError, CallError
from ...graph.graph import Graph
from ...results.index import Finished
from .desk import Desk, is_confirmed
from .forms import BadForm, Form
from .parameters import as_json, fields_of, signature_of
from .sending import STARTS, arguments_in, options_of
from .tracebacks import read_traceback
from .visits import Done, Visit

_NOTHING: Final = (None, None)
#: Thousandths of the time line that a run has at least, to be seen.
_LEAST_WIDTH: Final = 4.0
#: Relatives that are listed beside a task.
_MOST_RELATIVES: Final = 12


@value
class Relative:
    """A task of the same family: its place, depth and state."""

    id: str
    word: str
    depth: int
    name: str | None
    state: str | None


@value
class Bar:
    """An attempt on the time line: where its wait and its run begin and how wide they are, in thousandths."""

    number: int
    worker: str
    error: str
    is_good: bool
    waited: float
    ran: float
    wait: tuple[float, float]
    run: tuple[float, float]


@value
class TimeLine:
    """The attempts of a call, from when the first might have run on: `seconds` in all."""

    seconds: float
    bars: tuple[Bar, ...]


def time_line(view: CallView) -> TimeLine | None:
    """Return the time line of a call; None if no attempt of it is known."""
    known = [each for each in view.attempts if each.ran is not None]
    if view.ended is not None and view.ran is not None:
        told = (view.queue or "", view.worker or "", "", view.error or "", view.waited, view.ran, view.retries or 0)
        known.append(Finished(view.id, view.state, view.name or "", view.ended, *told))
    spans = [(each, each.ended - (each.ran or 0.0), each.waited or 0.0) for each in known]
    if not spans:
        return None
    start = min(began - waited for _, began, waited in spans)
    seconds = max(max(each.ended for each in known) - start, 1e-6)

    def part(begin: float, length: float, least: float) -> tuple[float, float]:
        width = max(1000 * length / seconds, least)
        return min(1000 * (begin - start) / seconds, 1000 - width), width

    bars = (
        Bar(
            *(each.retries + 1, each.worker, each.error, each.state == states.SUCCESS, waited, each.ran or 0.0),
            *(part(began - waited, waited, 0.0), part(began, each.ran or 0.0, _LEAST_WIDTH)),
        )
        for each, began, waited in spans
    )
    return TimeLine(seconds, tuple(bars))


async def page(desk: Desk, visit: Visit) -> Response:
    """Return the page of a task."""
    task_id: str = visit.request.path_params["id"]
    view = await desk.queries.call(task_id, await desk.watch.live())
    if not view.is_known:
        text = (
            f"Nothing is known of a task with the id {task_id}: it waits in a queue, was never sent, or is forgotten."
        )
        return await desk.page(visit, "missing.html", "tasks", status=HTTPStatus.NOT_FOUND, text=text)
    args, kwargs = await _called(desk, task_id)
    task = None if view.name is None else desk.core.tasks.get(view.name)
    signature = None if task is None else signature_of(task)
    given = {} if signature is None else signature.named(args or (), kwargs or {})
    look = await desk.watch.look()
    return await desk.page(
        visit,
        "task.html",
        "tasks",
        live="task",
        view=view,
        has_ended=states.is_ready(view.state) or view.state == DEAD,
        trace=None if view.traceback is None else read_traceback(view.traceback),
        time_line=time_line(view),
        relatives=_relatives(view),
        usual=None if view.recent is None else view.recent.hour,
        signature=signature,
        fields=[] if signature is None else fields_of(signature, given, desk.shown),
        is_kept=args is not None,
        json_args=as_json(args or []) if signature is None else "",
        json_kwargs=as_json(kwargs or {}) if signature is None else "",
        queues=sorted({each.stats.name for each in look.queues}),
        starts=list(STARTS),
    )


async def _called(desk: Desk, task_id: str) -> tuple[Sequence[Any] | None, Mapping[str, Any] | None]:
    """Return what a task was called with, as its record or its dead letter has it; None where that is not kept."""
    if not (await desk.core.connection()).keeps_results:
        return None, None
    try:
        found = await desk.app.AsyncResult(task_id).look()
    except AioTQError:
        return None, None
    return found.args, found.kwargs


def _relatives(view: CallView) -> list[Relative]:
    """Return the tasks above and below a task."""
    known = _nodes(view.graph)
    found: list[Relative] = []
    for task_id, word in ((view.root_id, "root"), (view.parent_id, "parent")):
        if task_id is not None and task_id != view.id and task_id not in {each.id for each in found}:
            found.append(Relative(task_id, word, len(found), *known.get(task_id, _NOTHING)))
    depth = len(found)
    found.append(Relative(view.id, "this task", depth, view.name, view.state))
    below = view.children[:_MOST_RELATIVES]
    return [*found, *(Relative(each, "sent by it", min(depth + 1, 2), *known.get(each, _NOTHING)) for each in below)]


def _nodes(graph: Graph | None) -> dict[str, tuple[str | None, str | None]]:
    return {} if graph is None else {node.id: (node.task, node.state) for node in graph.nodes if node.kind == "task"}


async def _again(desk: Desk, visit: Visit, form: Form) -> Done:
    """Run a task once more: as it was, or with other arguments."""
    task_id = form.need("id")
    here = visit.url(f"tasks/{task_id}")
    if form.get("as-it-was"):
        sent_id, was_dead = await run_again(desk.core, task_id)
        if was_dead:
            return Done("Its dead letter is sent to run again.", here)
        return Done(f"It is sent again, as {sent_id}.", here, link=("See it", visit.url(f"tasks/{sent_id}")))
    view = await desk.queries.call(task_id, await desk.watch.live())
    if view.name is None:
        raise CallError(f"the name of {task_id} is not known")
    args, kwargs = await _called(desk, task_id)
    task = desk.core.tasks.get(view.name)
    before = {} if task is None else signature_of(task).named(args or (), kwargs or {})
    try:
        new_args, new_kwargs = arguments_in(desk, view.name, form, before)
    except BadForm as exc:
        return Done(f"Nothing was sent: {exc}.", f"{here}#again", is_ok=False)
    sent = await desk.app.send_task(view.name, new_args, new_kwargs, **options_of(form))
    return Done(f"{view.name} is sent again, as {sent.id}.", here, link=("See it", visit.url(f"tasks/{sent.id}")))


async def _revoke(desk: Desk, visit: Visit, form: Form) -> Done:
    task_id = form.need("id")
    await desk.app.admin.revoke(task_id)
    return Done(f"{task_id} is revoked: if it has not started it will not run.", visit.url(f"tasks/{task_id}"))


async def _terminate(desk: Desk, visit: Visit, form: Form) -> Done:
    task_id = form.need("id")
    await desk.app.admin.revoke(task_id, terminate=True)
    return Done(f"{task_id} is revoked, and is cancelled where it runs.", visit.url(f"tasks/{task_id}"))


async def _forget(desk: Desk, visit: Visit, form: Form) -> Done:
    task_id = form.need("id")
    is_confirmed(
        form,
        "",
        title="Delete what is kept of this task?",
        lost="Its record goes: arguments, result and traceback. Who still awaits it will wait until the time is up.",
        button="Delete it",
    )
    await delete(desk.core, [task_id])
    return Done(f"What was kept of {task_id} is deleted.", visit.url("tasks"))


ACTS: Final[Mapping[str, Callable[[Desk, Visit, Form], Awaitable[Done]]]] = {
    "task/again": _again,
    "task/revoke": _revoke,
    "task/terminate": _terminate,
    "task/forget": _forget,
}
