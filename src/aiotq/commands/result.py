"""`aiotq result`: what became of a call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import typer

from .. import states
from ..app import AioTQ
from ..core.values import value
from ..results.handle import AsyncResult
from . import output
from .app_option import Target
from .command import command
from .words import Json, Timeout, Wait


@value
class _Found:
    """What is known of a call. `note` says what a state that tells nothing may mean."""

    state: str
    info: Any
    done: str | None
    traceback: str | None
    note: str | None


@command("ID")
def result(target: Target, task_id: str, wait: Wait = False, timeout: Timeout = None, as_json: Json = False) -> None:
    """Show what became of a call; with --wait, exit with 1 if it failed."""

    async def look(app: AioTQ) -> _Found:
        handle = app.AsyncResult(task_id)
        if wait:
            await handle.get(timeout, propagate=False)
        return await _look(app, handle)

    found = target.run(look, with_tasks=True)
    failed = found.state in states.EXCEPTION_STATES
    if as_json:
        output.as_json(_as_data(task_id, found, failed=failed))
    else:
        output.fields(_as_pairs(task_id, found, failed=failed))
        if found.traceback:
            print(output.printable(found.traceback).rstrip())
    if wait and failed:
        raise typer.Exit(1)


async def _look(app: AioTQ, handle: AsyncResult[Any]) -> _Found:
    state, info = await handle.state(), await handle.info()
    done = await handle.date_done()
    when = None if done is None else done.isoformat(sep=" ", timespec="milliseconds")
    note = await _note(app, handle.id) if state == states.PENDING else None
    return _Found(state, info, when, await handle.traceback(), note)


async def _note(app: AioTQ, task_id: str) -> str:
    """Return what it can mean that a store knows nothing of a call, as far as the queues tell."""
    if (letter := await app.admin.dead_letter(task_id)) is not None:
        return f"it is a dead letter ({letter.reason}): aiotq dead show {letter.key}"
    stats = await app.admin.queues()
    waiting = sum(each.ready + each.delayed for each in stats)
    running = sum(each.leased for each in stats)
    if not waiting and not running:
        return "unknown: nothing waits or runs anywhere; the id is wrong, or its result has expired or is not kept"
    tracked = "" if app.conf.task_track_started else "; task_track_started would tell running from waiting"
    return f"it waits or runs, or the id is wrong: {waiting} wait and {running} run in all queues{tracked}"


def _as_data(task_id: str, found: _Found, *, failed: bool) -> dict[str, Any]:
    data: dict[str, Any] = {"id": task_id, "state": found.state, "done": found.done}
    if failed:
        data |= {"error": f"{type(found.info).__name__}: {found.info}", "traceback": found.traceback}
    elif found.state == states.SUCCESS:
        data["result"] = found.info
    else:
        data |= {"info": found.info, "note": found.note}
    return data


def _as_pairs(task_id: str, found: _Found, *, failed: bool) -> Sequence[tuple[str, str]]:
    pairs = [("id", task_id), ("state", found.state)]
    if failed:
        pairs.append(("error", f"{type(found.info).__name__}: {found.info}"))
    elif found.info is not None or found.state == states.SUCCESS:
        pairs.append(("result" if found.state == states.SUCCESS else "info", output.value(found.info)))
    if found.note is not None:
        pairs.append(("note", found.note))
    if found.done is not None:
        pairs.append(("done", found.done))
    return pairs
