"""`aiotq tasks`: what an app can be asked to do."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..app import AioTQ
from ..calling import schemas
from ..calling.envelopes import declared_places
from ..control.code_changes import parameters
from ..core.inside import core_of
from ..exceptions import AioTQError
from ..tasks.task import Task
from . import output
from .app_option import Target
from .command import command
from .words import Json

Schema = Annotated[bool, typer.Option("--schema", help="Print JSON Schema of all arguments and return values.")]
AsyncApi = Annotated[
    str | None,
    typer.Option("--asyncapi", metavar="VERSION", help="Print an AsyncAPI document of the app, as of this version."),
]


@command()
def tasks(target: Target, as_json: Json = False, schema: Schema = False, asyncapi: AsyncApi = None) -> None:
    """List the app's tasks: how each runs, its queue, its arguments. Or describe them for other programs."""
    app = target.load()
    if asyncapi is not None:
        output.as_json(schemas.asyncapi(core_of(app), asyncapi))
        return
    if schema:
        output.as_json(schemas.schemas_of_tasks(core_of(app)))
        return
    found = [
        (name, output.KINDS[task.runs_in], _shown_queues(app, task), _arguments_of(task))
        for name, task in sorted(core_of(app).registry.own_tasks.items())
    ]
    if as_json:
        fields = ("name", "runs_as", "queues", "arguments", "parameters")
        own = core_of(app).registry.own_tasks
        output.as_json([dict(zip(fields, (*each, parameters(own[each[0]])), strict=True)) for each in found])
        return
    rows = [(name, kind, ", ".join(queues), arguments) for name, kind, queues, arguments in found]
    output.table(("task", "runs as", "queue", "arguments"), rows, whole=("task",))


def _arguments_of(task: Task[..., Any]) -> str:
    """Return the arguments a call of `task` takes."""
    signature = inspect.signature(task.fn)
    needs = task.dependencies
    injected = frozenset[str]() if needs is None else needs.names
    parameters = list(signature.parameters.values())[1 if task.declared.bind else 0 :]
    return str(signature.replace(parameters=[each for each in parameters if each.name not in injected]))


def queues_of(app: AioTQ, task: Task[..., Any]) -> Sequence[str]:
    """Return where calls of `task` go that say nothing of it and have no arguments.

    Raises:
        AioTQError: they can't be routed.
    """
    return core_of(app).router.route(task.name, (), {}, {}, declared_places(task.declared), task).queues


def _shown_queues(app: AioTQ, task: Task[..., Any]) -> Sequence[str]:
    try:
        return list(queues_of(app, task))
    except AioTQError as exc:
        return [f"? ({exc})"]
