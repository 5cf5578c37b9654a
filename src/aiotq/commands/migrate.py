"""`aiotq migrate`: moves what one broker has to another."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from ..control.migrating import Moved
from ..control.migrating import migrate as move
from ..core.clock import SYSTEM_CLOCK
from ..core.settings import Settings
from . import output
from .app_option import CommandFailed
from .words import Json, read_names

#: What is said of what was left, by its kind.
_LEFT = "held by workers of the source", "delayed (this broker can't say which: they move when they are due)", "dead"


def migrate(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="The URL of the broker that has the messages.")],
    destination: Annotated[str, typer.Argument(metavar="DESTINATION", help="The URL of the one that is to have them.")],
    queues: Annotated[
        str | None, typer.Option("-Q", "--queues", metavar="NAMES", help="Only these queues, commas between them.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Move messages from one broker to another: what is ready, what is delayed, dead letters.

    Killed midway, it is begun again, and nothing is lost or doubled. Start the workers of the destination when it has
    ended. Results and periodic tasks are kept with results, and stay there, and so do revocations, blocks, pauses and
    the keys of unique calls: revoke, block and pause again at the destination before its workers start. A call that a
    block holds runs when that block would have ended.
    """

    def tell(queue: str, moved: Moved) -> None:
        if not as_json:
            counts = f"ready {moved.ready}, delayed {moved.delayed}, dead {moved.dead}"
            print(output.printable(f"{queue}: {counts}"), flush=True)

    names = None if queues is None else read_names(queues)
    total = asyncio.run(move(source, destination, names, conf=Settings(), clock=SYSTEM_CLOCK, tell=tell))
    left = total.left_held, total.left_delayed, total.left_dead
    if as_json:
        output.as_json(
            {
                "moved": {"ready": total.ready, "delayed": total.delayed, "dead": total.dead},
                "left": {"held": total.left_held, "delayed": total.left_delayed, "dead": total.left_dead},
            }
        )
    else:
        print(f"moved: ready {total.ready}, delayed {total.delayed}, dead {total.dead}")
    if any(left):
        said = ", ".join(f"{count} {what}" for count, what in zip(left, _LEFT, strict=True) if count)
        raise CommandFailed(f"left in the source: {said}; begin it again later")
