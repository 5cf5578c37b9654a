"""Commands for dead letters (P5)."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from ..app import AioTQ
from ..transport import DeadLetter
from . import output
from .app_option import CommandFailed, Target, UsageError, run
from .command import command, group
from .words import Json, Queue, Yes, confirm, read_duration

dead: Final = group("dead", "Dead letters: messages that were given up.")

#: Characters of a message body that are shown.
_MAX_BODY: Final = 4000


@dead.command("list")
@command()
def dead_list(
    target: Target,
    queue: Queue = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="The newest so many.")] = 50,
    as_json: Json = False,
) -> None:
    """List dead letters, the newest first."""
    letters = target.run(lambda app: app.admin.dead_letters(queue, limit=limit))
    if as_json:
        output.as_json([_as_data(letter) for letter in letters])
        return
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
    output.table(("key", "task", "id", "queue", "reason", "age"), rows, whole=("key", "id"))


@dead.command("show")
@command("KEY")
def dead_show(target: Target, key: str, as_json: Json = False) -> None:
    """Show one dead letter, by its key or its task's id."""
    letter = target.run(lambda app: app.admin.dead_letter(key))
    if letter is None:
        raise CommandFailed(f"no dead letter has the key or task id {key!r}")
    body = letter.raw if letter.message is None else letter.message.body
    if as_json:
        output.as_json({**_as_data(letter), "body": _text_of(body)})
    else:
        _print(letter, body)


def _as_data(letter: DeadLetter) -> dict[str, Any]:
    message = letter.message
    return {
        "key": letter.key,
        "task": None if message is None else message.task,
        "id": None if message is None else message.id,
        "queue": letter.queue,
        "reason": letter.reason,
        "detail": letter.detail,
        "died_at": datetime.fromtimestamp(letter.died_at, UTC).isoformat(timespec="seconds"),
        "deaths": letter.deaths,
        "priority": letter.priority,
        "retries": None if message is None else message.retries,
        "origin": None if message is None else message.origin,
        "content_type": None if message is None else message.content_type,
    }


def _print(letter: DeadLetter, body: bytes) -> None:
    died_at = datetime.fromtimestamp(letter.died_at, UTC).isoformat(sep=" ", timespec="seconds")
    pairs = [
        ("key", letter.key),
        ("queue", letter.queue),
        ("reason", letter.reason),
        ("detail", letter.detail),
        ("died", f"{died_at} ({output.age(time.time() - letter.died_at)} ago)"),
        ("deaths", str(letter.deaths)),
        ("priority", str(letter.priority)),
    ]
    message = letter.message
    if message is None:
        pairs.append(("message", "could not be read"))
    else:
        pairs += [
            ("task", message.task),
            ("id", message.id),
            ("retries", str(message.retries)),
            ("sent from", message.origin or "-"),
            ("content", message.content_type),
        ]
    text = _text_of(body)
    shown = text if len(text) <= _MAX_BODY else f"{text[:_MAX_BODY]}… ({len(body)} bytes)"
    output.fields([*pairs, ("body", shown)])


def _text_of(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        return repr(body)


@dead.command("replay")
@command(many="KEY")
def dead_replay(
    target: Target,
    keys: list[str],
    all_: Annotated[bool, typer.Option("--all", help="All of them, or all of --queue.")] = False,
    queue: Queue = None,
) -> None:
    """Send dead letters to their queues again, by key or task id."""
    if all_ == bool(keys) or (queue is not None and not all_):
        raise UsageError("name the dead letters by key or task id, or say --all (with --queue: all of that queue)")

    async def replay(app: AioTQ) -> int:
        if all_:
            return await app.admin.replay_all(queue)
        for key in keys:
            letter = await app.admin.dead_letter(key)
            if letter is None:
                raise CommandFailed(f"no dead letter has the key or task id {key!r}: nothing was replayed")
            if letter.message is None:
                raise CommandFailed(f"dead letter {key} can't be read, so it can't run: nothing was replayed")
        return await app.admin.replay(keys)

    print(f"replayed {output.count(target.run(replay), 'dead letter')}")


@dead.command("purge")
@command()
def dead_purge(
    target: Target,
    queue: Queue = None,
    older_than: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Only those older than this: 7d, 12h, 30m.")
    ] = None,
    yes: Yes = False,
) -> None:
    """Delete dead letters."""
    seconds = None if older_than is None else read_duration(older_than)
    app = target.load(with_tasks=False)
    which = f" of queue {queue!r}" if queue is not None else ""
    which += f" older than {older_than}" if older_than is not None else ""
    confirm(f"Delete all dead letters{which}?", yes)
    deleted = run(app, lambda app: app.admin.purge_dead(queue, older_than=seconds))
    print(f"deleted {output.count(deleted, 'dead letter')}")
