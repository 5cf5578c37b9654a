"""Commands for blocks: calls of a task that do not start for a time, by their arguments."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Final, Literal, cast

import typer

from ..app import AioTQ
from ..results.blocks import Block
from . import output
from .app_option import Target, UsageError
from .command import command, group
from .words import Json, read_duration, unknown_task

block: Final = group("block", "Calls that do not start for a time, by their arguments: add, list, lift.")

_COLUMNS: Final = ("id", "task", "where", "action", "ends", "reason")


@block.command("add")
@command("TASK")
def block_add(
    target: Target,
    task: str,
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="NAME=VALUE", help="Only calls with this argument.", show_default=False),
    ] = None,
    action: Annotated[
        str, typer.Option(metavar="ACTION", help="hold: they wait; reject: they end as REVOKED.")
    ] = "hold",
    for_: Annotated[str, typer.Option("--for", metavar="TIME", help="For how long, as 1h30m.")] = "1h",
    reason: Annotated[str, typer.Option(metavar="TEXT", help="Why, for those who look.", show_default=False)] = "",
) -> None:
    """Have calls of a task not start for a time. A VALUE is read as JSON if it is that, and is text otherwise."""
    wanted = dict(_read(each) for each in where or ())
    seconds = read_duration(for_)

    async def act(app: AioTQ) -> Block:
        if warning := unknown_task(task, app.tasks):
            output.complain(f"{warning}; it counts all the same")
        how = cast("Literal['hold', 'reject']", action)
        return await app.admin.block(app.tasks.get(task, task), where=wanted, action=how, for_=seconds, reason=reason)

    made = target.run(act, with_tasks=True)
    print(f"blocked: {made.id}")


@block.command("list")
@command()
def block_list(target: Target, as_json: Json = False) -> None:
    """List the blocks that hold."""
    found = target.run(lambda app: app.admin.blocks())
    if as_json:
        fields = ("id", "task", "where", "action", "until", "reason")
        output.as_json([{name: getattr(each, name) for name in fields} for each in found])
        return
    if not found:
        print("nothing is blocked")
        return
    now = time.time()
    output.table(_COLUMNS, [_row(each, now) for each in found], whole=("id", "task"))


@block.command("lift")
@command("ID")
def block_lift(target: Target, block_id: str) -> None:
    """Lift a block: the calls that it holds are due now."""
    count = target.run(lambda app: app.admin.unblock(block_id))
    print(f"lifted: {block_id}, {count} {'call is' if count == 1 else 'calls are'} due now")


def _row(each: Block, now: float) -> tuple[str, ...]:
    where = ", ".join(f"{name}={json.dumps(wanted)}" for name, wanted in each.where.items()) or "(all calls)"
    return each.id, each.task, where, each.action, f"in {output.age(max(0.0, each.until - now))}", each.reason


def _read(text: str) -> tuple[str, Any]:
    name, equals, given = text.partition("=")
    if not (name and equals):
        raise UsageError(f"--where must be NAME=VALUE, not {text}")
    try:
        return name, json.loads(given)
    except (ValueError, RecursionError):
        return name, given
