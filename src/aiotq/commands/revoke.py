"""The command that revokes calls: by their ids, or many by what they have in common."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from ..app import AioTQ
from . import output
from .app_option import Target, UsageError
from .command import command
from .words import read_duration, unknown_task


@command(many="ID")
def revoke(
    target: Target,
    task_ids: list[str],
    task: Annotated[
        list[str] | None, typer.Option("--task", metavar="NAME", help="All calls of this task.", show_default=False)
    ] = None,
    header: Annotated[
        list[str] | None,
        typer.Option("--header", metavar="NAME=VALUE", help="All calls with this header.", show_default=False),
    ] = None,
    stamp: Annotated[
        list[str] | None,
        typer.Option("--stamp", metavar="NAME=VALUE", help="All calls with this stamp.", show_default=False),
    ] = None,
    root: Annotated[
        list[str] | None,
        typer.Option("--root", metavar="ID", help="A call and all it led to: a workflow.", show_default=False),
    ] = None,
    terminate: Annotated[bool, typer.Option("--terminate", help="Also stop them where they run.")] = False,
    expires: Annotated[
        str | None, typer.Option(metavar="TIME", help="How long that holds, as 7d or 1h30m.", show_default=False)
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Let them run again.")] = False,
) -> None:
    """See to it that calls do not run any more: by id, or all of a task, a header, a stamp or a workflow.

    What revokes many holds for those that are sent later too: for a day, or as long as --expires says. A VALUE is read
    as JSON if it is that, and is text otherwise.
    """
    headers = dict(_read("--header", each) for each in header or ())
    stamps: dict[str, list[Any]] = {}
    for each in stamp or ():
        name, given = _read("--stamp", each)
        stamps.setdefault(name, []).append(given)
    if not (task_ids or task or root or headers or stamps):
        raise UsageError(
            "what is to be revoked? Give ids, --task NAME, --header NAME=VALUE, --stamp NAME=VALUE or --root ID"
        )
    if undo and (terminate or expires is not None):
        raise UsageError("--undo goes with neither --terminate nor --expires")
    chosen: dict[str, Any] = {"tasks": task or (), "roots": root or (), "headers": headers, "stamps": stamps}
    seconds = None if expires is None else read_duration(expires)

    async def act(app: AioTQ) -> None:
        for name in task or ():
            if warning := unknown_task(name, app.tasks):
                output.complain(f"{warning}; it counts all the same")
        if undo:
            await app.admin.unrevoke(*task_ids, **chosen)
        else:
            await app.admin.revoke(*task_ids, **chosen, terminate=terminate, expires=seconds)

    target.run(act, with_tasks=bool(task))
    for what in _described(task_ids, task or (), [*(header or ()), *(stamp or ())], root or ()):
        print(f"{'no longer revoked:' if undo else 'revoked'} {what}")


def _read(option: str, text: str) -> tuple[str, Any]:
    name, equals, given = text.partition("=")
    if not (name and equals):
        raise UsageError(f"{option} must be NAME=VALUE, not {text}")
    try:
        return name, json.loads(given)
    except (ValueError, RecursionError):
        return name, given


def _described(
    task_ids: Sequence[str], tasks: Sequence[str], headers: Sequence[str], roots: Sequence[str]
) -> Sequence[str]:
    return (
        *task_ids,
        *(f"all calls of {name}" for name in tasks),
        *(f"all calls with {text}" for text in headers),
        *(f"{root_id} and all it led to" for root_id in roots),
    )
