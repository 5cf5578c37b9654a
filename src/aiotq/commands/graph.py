"""`aiotq graph`: a workflow as a drawing, planned or under way."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, cast

import typer

from .. import canvas as composing
from ..app import AioTQ
from ..canvas import Canvas
from ..core.logs import has_colours
from ..core.values import shown
from ..exceptions import AioTQError
from ..graph.graph import Graph
from ..results.sets import GroupResult, is_shape
from ..tasks.task import Task
from .app_option import AppImportFailed, CommandFailed, Target, UsageError, importing, run
from .command import command
from .words import Json

Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write it here; FILE.svg and FILE.dot say the form as well."),
]

#: What an expression may be made of beside the app's module and its tasks.
_COMPOSERS: Final = ("chain", "chord", "group", "signature")
#: Without one of these a word is an id, or a name in the app's module.
_OF_EXPRESSIONS: Final = frozenset("(|[")
_FORMS: Final = {".svg": "svg", ".dot": "dot", ".gv": "dot", ".json": "json"}


@command("EXPRESSION|ID")
def graph(
    target: Target,
    asked: str,
    svg: Annotated[bool, typer.Option("--svg", help="A drawing, with states in colour.")] = False,
    dot: Annotated[bool, typer.Option("--dot", help="Graphviz's language.")] = False,
    text: Annotated[bool, typer.Option("--text", help="A tree of lines (as without any of these).")] = False,
    output: Output = None,
    as_json: Json = False,
) -> None:
    """Draw a workflow: one that is written as an expression, or what became of a call, by its id.

    An expression such as "add.s(2, 2) | mul.s(8)" is evaluated as Python, with the names of the app's module, its
    tasks by the last part of their names, and chain, group, chord, signature: don't give one that you would not run.
    An id is that of a workflow's first call, of a task that has begun or ended, or of a group that was saved.
    """
    form = _form({"svg": svg, "dot": dot, "text": text, "json": as_json}, output)
    app = target.load()
    found = _planned(app, target, asked) or run(app, lambda app: _sent(app, asked))
    match form:
        case "json":
            drawn = _as_json(found) + "\n"
        case "svg":
            drawn = found.svg()
        case "dot":
            drawn = found.dot() + "\n"
        case _:
            drawn = found.text(colour=output is None and has_colours(sys.stdout)) + "\n"
    if output is None:
        print(drawn, end="")
        return
    try:
        output.write_text(drawn, encoding="utf-8")
    except OSError as exc:
        raise CommandFailed(f"can't write {output}: {exc.strerror}") from exc


def _form(wanted: Mapping[str, bool], output: Path | None) -> str:
    given = [form for form, is_wanted in wanted.items() if is_wanted]
    if len(given) > 1:
        raise UsageError(f"one form at a time: --{' or --'.join(given)}")
    return given[0] if given else _FORMS.get(output.suffix.lower() if output else "", "text")


def _as_json(graph: Graph) -> str:
    nodes = [
        {
            "id": each.id,
            "kind": each.kind,
            "task": each.task,
            "state": each.state,
            "label": each.label,
            "count": each.count,
        }
        for each in graph.nodes
    ]
    edges = [{"source": each.source, "target": each.target, "kind": each.kind} for each in graph.edges]
    return json.dumps({"nodes": nodes, "edges": edges}, ensure_ascii=False)


def _planned(app: AioTQ, target: Target, asked: str) -> Graph | None:
    """Return the workflow that `asked` is written as; None if it is an id."""
    names = _names(app, target)
    if not _OF_EXPRESSIONS & set(asked):
        if not asked.isidentifier() or not isinstance(names.get(asked), (Canvas, Task)):
            return None
        found: object = names[asked]
    else:
        found = _evaluated(asked, names)
    if isinstance(found, Task):
        found = cast("Task[..., Any]", found).s()
    if not isinstance(found, Canvas):
        raise UsageError(f"{asked} is no workflow but {shown(found)}: write task.s(...), or a chain, group or chord")
    return cast("Canvas[Any]", found).graph()


def _evaluated(expression: str, names: Mapping[str, object]) -> object:
    try:
        code = compile(expression, "<expression>", "eval")
    except (SyntaxError, ValueError) as exc:
        raise UsageError(f"{expression} can't be read as Python: {exc}") from exc
    try:
        with importing(f"{expression!r}"):
            return eval(code, dict(names))  # what the command is for, and its help says so
    except AppImportFailed as failed:
        error = failed.__cause__
        if isinstance(error, NameError) and error.name is not None:
            near = difflib.get_close_matches(error.name, names, n=1)
            hint = f": did you mean {near[0]}?" if near else f" in {_tasks_in(names)}"
            raise UsageError(f"there is no {error.name!r}{hint}") from error
        why = str(error) if isinstance(error, AioTQError) else f"{type(error).__name__}: {error}"
        raise UsageError(f"{expression} can't be evaluated: {why}") from error


def _tasks_in(names: Mapping[str, object]) -> str:
    """Return the names of tasks among `names`, as an error tells them."""
    tasks = sorted(name for name, found in names.items() if isinstance(found, Task))
    return (
        f"the app's module; its tasks are {', '.join(tasks[:10])}" if tasks else "the app's module, which has no tasks"
    )


def _names(app: AioTQ, target: Target) -> dict[str, object]:
    """Return what an expression can name: in doubt what the app's module means by it."""
    names: dict[str, object] = {name.rpartition(".")[2]: task for name, task in sorted(app.tasks.items())}
    for task in app.tasks.values():  # proj.tasks.add.s()
        package = task.fn.__module__.partition(".")[0]
        if package in sys.modules:
            names.setdefault(package, sys.modules[package])
    names.update({name: getattr(composing, name) for name in _COMPOSERS})
    names.update(vars(sys.modules[target.spec.partition(":")[0]]))
    return names


async def _sent(app: AioTQ, task_id: str) -> Graph:
    result = app.AsyncResult(task_id)
    now = await result.look()
    if is_shape(now.info) and (group := await GroupResult[Any].restore(task_id, app)) is not None:
        return await group.graph()
    found = await result.graph()
    if len(found) == 1 and now.state == "PENDING":
        raise CommandFailed(
            f"nothing is known of {task_id}: it has not begun, or its result has expired, or it is not kept "
            "(and no task is called so here)"
        )
    return found
