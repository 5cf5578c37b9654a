"""`aiotq top`: what workers do, live in a terminal."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ..app import AioTQ
from .app_option import CommandFailed, Target
from .command import command


@command()
def top(
    target: Target,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.2, help="Look at queues and workers so often.")
    ] = 1.0,
) -> None:
    """Show workers, queues, calls and periodic tasks live; revoke, retry and pause them by keys (? has them)."""
    try:
        from ..top.view import Top  # noqa: PLC0415
    except ImportError as exc:
        raise CommandFailed(f"top needs {exc.name}, which is not installed: pip install 'aiotq[top]'") from exc
    if not all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stdout, sys.stderr)):
        raise CommandFailed("top needs a terminal: aiotq status and aiotq queues print what it shows")

    async def show(app: AioTQ) -> None:
        await Top(app, every=every).run_async()

    target.run(show, with_tasks=True)
