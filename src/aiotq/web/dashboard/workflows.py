"""Workflows: how far they are, and what holds them up; each as a graph and in words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final

from starlette.responses import Response

from ... import states
from ...control.acts import run_again
from ...exceptions import AioTQError
from ...graph.graph import Graph
from .desk import Desk, is_confirmed
from .drawing import draw
from .forms import Form
from .visits import Done, Visit
from .words import counted

_A_PAGE: Final = 50
#: Steps in words, tasks of one workflow that are run again at once.
_MOST_STEPS: Final = 300
_MOST_AGAIN: Final = 1_000
#: The order in which the states of a workflow's tasks are counted, with their colours.
_ORDER: Final = (
    ("ok", "f-ok", "k-ok", "succeeded"),
    ("bad", "f-bad", "k-bad", "failed"),
    ("run", "f-run", "k-run", "running"),
    ("retry", "f-retry", "k-retry", "retrying"),
    ("revoked", "f-idle", "k-wait", "revoked"),
    ("ready", "f-line", "k-ready", "waiting"),
    ("plan", "f-track", "k-plan", "not yet sent"),
)


async def list_page(desk: Desk, visit: Visit) -> Response:
    """Return the list of workflows, the newest first."""
    cursor = visit.query.get("before") or None
    found = await desk.queries.workflows(limit=_A_PAGE, cursor=cursor)
    return await desk.page(visit, "workflows.html", "workflows", live="workflows", found=found, is_first=cursor is None)


async def page(desk: Desk, visit: Visit) -> Response:
    """Return the page of one workflow."""
    first: str = visit.request.path_params["id"]
    graph = await _graph_of(desk, first)
    calls = [node for node in graph.nodes if node.kind == "task"]
    if not any(node.task is not None or (node.state or states.PENDING) != states.PENDING for node in calls):
        text = f"No workflow is known that begins with {first}: nothing of it ended, or it is forgotten."
        return await desk.page(visit, "missing.html", "workflows", status=HTTPStatus.NOT_FOUND, text=text)
    at = visit.query.get("at", "")
    unfolds = bool(visit.query.get("unfold"))
    ran = await desk.queries.run_times(first)
    drawn = draw(graph, lambda call: visit.url_with(at=call), at, ran, unfolds=unfolds)
    selected = await desk.queries.call(at, await desk.watch.live()) if at else None
    begins = next((node for node in calls if node.id == first), calls[0])
    failed = [node for node in calls if node.state == states.FAILURE]
    return await desk.page(
        visit,
        "workflow.html",
        "workflows",
        live="workflow",
        first=first,
        name=begins.task or begins.label or first,
        state=_state(graph),
        drawn=drawn,
        parts=_parts(drawn.counts, drawn.total),
        steps=drawn.steps[:_MOST_STEPS],
        steps_left_out=max(len(drawn.steps) - _MOST_STEPS, 0),
        unfolds=unfolds,
        selected=selected if selected is not None and selected.is_known else None,
        failed=failed,
    )


async def _graph_of(desk: Desk, first: str) -> Graph:
    return await desk.app.AsyncResult(first).graph()


def _state(graph: Graph) -> str:
    """Return the state of a workflow as a whole."""
    found = {node.state for node in graph.nodes if node.kind == "task"}
    if found & {states.STARTED, states.RETRY} or not all(each and states.is_ready(each) for each in found):
        failed = found & {states.FAILURE, states.REVOKED}
        if not failed or found & {states.STARTED, states.RETRY, states.RECEIVED}:
            return states.STARTED if found - {None, states.PENDING} else states.PENDING
    for each in (states.FAILURE, states.REVOKED):
        if each in found:
            return each
    return states.SUCCESS


def _parts(counts: Mapping[str, int], total: int) -> list[dict[str, Any]]:
    """Return the bar of a workflow's progress, part by part."""
    parts: list[dict[str, Any]] = []
    x = 0.0
    for css, fill, key, word in _ORDER:
        if not (count := counts.get(css, 0)):
            continue
        width = count / total * 1000
        parts.append(
            {"x": round(x, 1), "width": round(width, 1), "fill": fill, "key": key, "count": count, "word": word}
        )
        x += width
    return parts


async def _cancel(desk: Desk, visit: Visit, form: Form) -> Done:
    """Revoke all of a workflow: what has not started will not, what runs is cancelled."""
    first = form.need("id")
    to = visit.url(f"workflows/{first}")
    if not is_confirmed(
        form,
        "cancel",
        title="Cancel this workflow?",
        lost="What has not started will not run, and what runs is stopped. What ended stays as it is.",
        button="Cancel it",
    ):
        return Done('Nothing was cancelled: what was typed is not "cancel".', to, is_ok=False)
    await desk.app.admin.revoke(first, roots=[first], terminate=True)
    return Done("The workflow is cancelled: what has not started will not run, what runs is stopped.", to)


async def _again(desk: Desk, visit: Visit, form: Form) -> Done:
    """Run again what failed in a workflow, each as a task of its own."""
    first = form.need("id")
    to = visit.url(f"workflows/{first}")
    graph = await _graph_of(desk, first)
    failed = [node.id for node in graph.nodes if node.kind == "task" and node.state == states.FAILURE]
    sent, why = 0, ""
    for each in failed[:_MOST_AGAIN]:
        try:
            await run_again(desk.core, each)
            sent += 1
        except AioTQError as exc:
            why = f" The others can't: {exc}."
    said = f"{counted(sent, 'task')} sent to run again, each on its own: what follows them is not sent.{why}"
    return Done(said, to, is_ok=sent > 0)


ACTS: Final[Mapping[str, Callable[[Desk, Visit, Form], Awaitable[Done]]]] = {
    "workflows/cancel": _cancel,
    "workflows/again": _again,
}
