"""Commands for dead letters (P5)."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from . import output
from .app_option import CommandFailed, UsageError, read_duration
from .options import App, Broker, Debug, First, Key, Queue, Yes, confirm, run, target_of

dead: Final = typer.Typer(
    name="dead",
    help="Dead letters: messages that were given up.",
    rich_markup_mode=None,
    no_args_is_help=True,
)


@dead.command("list")
def dead_list(
    context: typer.Context,
    first: First = None,
    queue: Queue = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The newest so many.")] = 50,
    app: App = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """List dead letters, the newest first."""
    target = target_of(context, app, broker, debug)
    target.split([first])
    loaded = target.load(with_tasks=False)
    letters = run(loaded, lambda: loaded.admin.dead_letters(queue, limit=limit))
    if not letters:
        print("no dead letters")
        return
    now = time.time()
    rows = [
        (
            letter.key,
            letter.message.task if letter.message else "(unreadable)",
            letter.message.id if letter.message else "-",
            letter.queue,
            letter.reason,
            output.age(now - letter.died_at),
        )
        for letter in letters
    ]
    output.table(("key", "task", "id", "queue", "reason", "age"), rows)


@dead.command("show")
def dead_show(
    context: typer.Context,
    first: First = None,
    second: Key = None,
    app: App = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """Show one dead letter, by its key or its task's id."""
    target = target_of(context, app, broker, debug)
    (key,) = target.split([first, second], "KEY")
    loaded = target.load(with_tasks=False)
    letter = run(loaded, lambda: loaded.admin.dead_letter(key))
    if letter is None:
        raise CommandFailed(f"no dead letter has the key or task id {key!r}")
    died_at = datetime.fromtimestamp(letter.died_at, UTC).isoformat(sep=" ", timespec="seconds")
    output.dead_letter(letter, time.time(), died_at)


@dead.command("replay")
def dead_replay(
    context: typer.Context,
    first: First = None,
    others: Annotated[list[str] | None, typer.Argument(metavar="KEY", show_default=False)] = None,
    all_: Annotated[bool, typer.Option("--all", help="All of them, or all of --queue.")] = False,
    queue: Queue = None,
    app: App = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """Send dead letters to their queues again, by key or task id."""
    target = target_of(context, app, broker, debug)
    keys = target.split_many([first, *(others or ())])
    if all_ == bool(keys) or (queue is not None and not all_):
        raise UsageError("name the dead letters by key or task id, or say --all (with --queue: all of that queue)")
    loaded = target.load(with_tasks=False)

    async def replay() -> int:
        if all_:
            return await loaded.admin.replay_all(queue)
        for key in keys:
            letter = await loaded.admin.dead_letter(key)
            if letter is None:
                raise CommandFailed(f"no dead letter has the key or task id {key!r}: nothing was replayed")
            if letter.message is None:
                raise CommandFailed(f"dead letter {key} can't be read, so it can't run: nothing was replayed")
        return await loaded.admin.replay(keys)

    print(f"replayed {output.count(run(loaded, replay), 'dead letter')}")


@dead.command("purge")
def dead_purge(
    context: typer.Context,
    first: First = None,
    queue: Queue = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only those older than this: 7d, 12h, 30m.")
    ] = None,
    yes: Yes = False,
    app: App = None,
    broker: Broker = None,
    debug: Debug = False,
) -> None:
    """Delete dead letters."""
    target = target_of(context, app, broker, debug)
    target.split([first])
    seconds = None if older_than is None else read_duration(older_than)
    loaded = target.load(with_tasks=False)
    which = f" of queue {queue!r}" if queue is not None else ""
    which += f" older than {older_than}" if older_than is not None else ""
    confirm(f"Delete all dead letters{which}?", yes)
    deleted = run(loaded, lambda: loaded.admin.purge_dead(queue, older_than=seconds))
    print(f"deleted {output.count(deleted, 'dead letter')}")
