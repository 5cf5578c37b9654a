"""`aiotq call`: one call from a terminal."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, cast

import typer

from ..app import AioTQ
from ..calling.envelopes import declared_places
from ..core.inside import core_of
from ..results.handle import AsyncResult
from ..tasks.options import CallOptions
from . import output
from .app_option import Target, run
from .command import command
from .unclaimed import wait_for
from .words import Timeout, Wait, read_list, read_object, unknown_task


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The call that was asked for."""

    name: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: CallOptions


@command("NAME")
def call(
    target: Target,
    name: str,
    args: Annotated[str, typer.Option(metavar="JSON", help="Positional arguments: a list.")] = "[]",
    kwargs: Annotated[str, typer.Option(metavar="JSON", help="Keyword arguments: an object.")] = "{}",
    queue: Annotated[
        str | None, typer.Option("-q", "--queue", metavar="QUEUE", help="In place of the task's own.")
    ] = None,
    priority: Annotated[int | None, typer.Option(metavar="0-9", help="9 goes first.")] = None,
    countdown: Annotated[float | None, typer.Option(metavar="SECONDS", help="Start no earlier than this.")] = None,
    expires: Annotated[float | None, typer.Option(metavar="SECONDS", help="Start no later than this.")] = None,
    task_id: Annotated[str | None, typer.Option(metavar="ID", help="An id of your own.")] = None,
    wait: Wait = False,
    timeout: Timeout = None,
) -> None:
    """Call a task; print its id, or with --wait its result as JSON."""
    given = {
        "queue": queue,
        "priority": priority,
        "countdown": countdown,
        "expires": expires,
        "task_id": task_id,
        "ignore_result": False if wait else None,
    }
    options: Any = {option: wanted for option, wanted in given.items() if wanted is not None}
    wanted = _Wanted(name, read_list("--args", args), read_object("--kwargs", kwargs), options)
    app = target.load()
    if warning := unknown_task(name, app.tasks):
        output.complain(f"{warning}; sending it all the same")
    if not wait:
        print(run(app, lambda app: _send(app, wanted)).id)
        return
    sent: list[AsyncResult[Any]] = []
    try:
        run(app, lambda app: _send_and_wait(app, wanted, timeout, sent))
    except KeyboardInterrupt:
        if sent:
            output.complain(f"not waiting any longer; the task goes on: {sent[0].id}")
        raise


async def _send(app: AioTQ, wanted: _Wanted) -> AsyncResult[Any]:
    return await app.send_task(wanted.name, wanted.args, wanted.kwargs, **wanted.options)


async def _send_and_wait(app: AioTQ, wanted: _Wanted, timeout: float | None, sent: list[AsyncResult[Any]]) -> None:
    """Print what comes of a call; `sent` gets its handle as soon as there is one.

    Raises:
        typer.Exit: it failed.
        CommandFailed: it did not end in time.
    """
    await core_of(app).reader()  # an app that keeps no results says so before anything is sent
    queues = _queues_of(app, wanted)
    result = await _send(app, wanted)
    sent.append(result)
    await wait_for(app, result, queues, timeout)
    if await result.successful():
        print(output.value(await result.info()))
        return
    await _print_failure(result)
    raise typer.Exit(1)


def _queues_of(app: AioTQ, wanted: _Wanted) -> Sequence[str]:
    """Return where the call goes."""
    task = app.tasks.get(wanted.name)
    declared: Mapping[str, str] = {} if task is None else declared_places(task.declared)
    call = cast("Mapping[str, Any]", wanted.options)
    return core_of(app).router.route(wanted.name, wanted.args, wanted.kwargs, call, declared, task).queues


async def _print_failure(ended: AsyncResult[Any]) -> None:
    error = await ended.info()
    trace = await ended.traceback()
    text = trace or f"{type(error).__name__}: {error}"
    print(output.printable(text).rstrip(), file=sys.stderr)
