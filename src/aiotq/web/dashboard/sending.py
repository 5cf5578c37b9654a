"""Sending a task: a form for every task that is known, and the arguments as JSON for those that are not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.responses import Response

from ...tasks.options import CallOptions
from .desk import Desk
from .forms import BadForm, Form
from .parameters import arguments_of, fields_of, read_json, signature_of
from .visits import Done, Visit

#: When a task is to start, in seconds from now.
STARTS: Final[Mapping[str, float]] = {"now": 0, "in 1 minute": 60, "in 10 minutes": 600, "in 1 hour": 3_600}
_MOST_TASKS: Final = 300


async def page(desk: Desk, visit: Visit) -> Response:
    """Return the page on which a task is chosen, and its form."""
    name, text = visit.query.get("task", ""), visit.query.get("find", "").strip()
    known = sorted(desk.core.registry.own_tasks)
    task = desk.core.tasks.get(name)
    found = [each for each in known if text.casefold() in each.casefold()]
    signature = None if task is None else signature_of(task)
    return await desk.page(
        visit,
        "send.html",
        "send",
        task=name,
        text=text,
        known=found[:_MOST_TASKS],
        left_out=max(len(found) - _MOST_TASKS, 0),
        about="" if task is None else (task.__doc__ or "").strip().partition("\n")[0],
        signature=signature,
        fields=[] if signature is None else fields_of(signature, {}, desk.shown),
        queues=sorted({each.stats.name for each in (await desk.watch.look()).queues}),
        starts=list(STARTS),
    )


def options_of(form: Form) -> CallOptions:
    """Return the options that a form has.

    Raises:
        BadForm: one of them is impossible.
    """
    options = CallOptions()
    if queue := form.get("queue"):
        options["queue"] = queue
    if seconds := STARTS.get(form.get("when"), 0):
        options["countdown"] = seconds
    if priority := form.get("priority"):
        if not (priority.isdecimal() and len(priority) == 1):
            raise BadForm("a priority is 0 to 9")
        options["priority"] = int(priority)
    return options


def arguments_in(desk: Desk, name: str, form: Form, before: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments that a form has for the task `name`.

    Raises:
        BadForm: they can't be so.
    """
    task = desk.core.tasks.get(name)
    if task is not None and not form.get("as-json"):
        return arguments_of(signature_of(task), form, before, desk.shown)
    return (
        read_json("arguments", form.get("args") or "[]", list),
        read_json("keyword arguments", form.get("kwargs") or "{}", dict),
    )


async def _send(desk: Desk, visit: Visit, form: Form) -> Done:
    name = form.need("task").strip()
    try:
        args, kwargs = arguments_in(desk, name, form, {})
        result = await desk.app.send_task(name, args, kwargs, **options_of(form))
    except BadForm as exc:
        return Done(f"Nothing was sent: {exc}.", visit.url("send", task=name), is_ok=False)
    to = visit.url("send", task=name)
    return Done(f"{name} is sent, as {result.id}.", to, link=("See it", visit.url(f"tasks/{result.id}")))


ACTS: Final[Mapping[str, Callable[[Desk, Visit, Form], Awaitable[Done]]]] = {"send": _send}
