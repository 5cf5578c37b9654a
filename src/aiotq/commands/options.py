"""The words that commands have in common, and what is done with them."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Collection
from typing import Annotated, Any, Final, TypeVar, cast

import typer

from ..app import AioTQ
from .app_option import CommandFailed, Target, UsageError, connected

T = TypeVar("T")

#: Characters of a wrong word that its complaint repeats.
_MAX_SHOWN: Final = 200

App = Annotated[
    str | None, typer.Option("-A", "--app", metavar="APP", help="The app: module:attribute, or module alone.")
]
Broker = Annotated[str | None, typer.Option("-b", "--broker", metavar="URL", help="Use this broker instead.")]
Debug = Annotated[bool, typer.Option("-v", "--debug", help="Show the traceback of an error.")]
#: The first word of a command: its app, or what comes after that if the app is known already.
First = Annotated[str | None, typer.Argument(metavar="APP", show_default=False)]
TaskName = Annotated[str | None, typer.Argument(metavar="NAME", show_default=False)]
TaskId = Annotated[str | None, typer.Argument(metavar="ID", show_default=False)]
QueueName = Annotated[str | None, typer.Argument(metavar="QUEUE", show_default=False)]
Key = Annotated[str | None, typer.Argument(metavar="KEY", show_default=False)]
Wait = Annotated[bool, typer.Option("--wait", help="Wait for the result.")]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=0, help="Wait no longer than this (with --wait).")
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Don't ask.")]
Queue = Annotated[str | None, typer.Option("-q", "--queue", metavar="QUEUE", help="Only those of this queue.")]


def target_of(context: typer.Context, app: str | None, broker: str | None, debug: bool) -> Target:
    """Return what the command is about, its own options taken in."""
    target: Target = context.obj
    return target.given(app, broker, debug)


def run(app: AioTQ, work: Callable[[], Awaitable[T]]) -> T:
    """Return what `work` returns, run while the app is connected."""

    async def run() -> T:
        async with connected(app):
            return await work()

    return asyncio.run(run())


def confirm(question: str, yes: bool) -> None:
    """Ask, unless `yes`; return only if the answer is yes."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise CommandFailed(f"{question} Nobody is there to answer: say --yes")
    typer.confirm(question, abort=True)


def read_names(text: str) -> list[str]:
    """Return the names in `a,b`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def read_queues(text: str | None, *, known: Collection[str]) -> tuple[list[str] | None, dict[str, int]]:
    """Return the queues in `a:3,b`, and the weights given with them; None: none are named.

    A queue that is known under all of `a:3` is that one.
    """
    if text is None:
        return None, {}
    names: list[str] = []
    weights: dict[str, int] = {}
    for word in read_names(text):
        name, colon, weight = word.rpartition(":")
        if colon and name and word not in known and weight.isdecimal():
            names.append(name)
            weights[name] = int(weight)
        else:
            names.append(word)
    return list(dict.fromkeys(names)), weights


def read_list(option: str, text: str) -> list[Any]:
    """Return the list that is written in `text` as JSON."""
    found = _read_json(option, text, wanted := "a JSON list, such as '[2, 2]'")
    if not isinstance(found, list):
        raise UsageError(f"{option} must be {wanted}, not {text}")
    return cast("list[Any]", found)


def read_object(option: str, text: str) -> dict[str, Any]:
    """Return the object that is written in `text` as JSON."""
    found = _read_json(option, text, wanted := """a JSON object, such as '{"x": 2}'""")
    if not isinstance(found, dict):
        raise UsageError(f"{option} must be {wanted}, not {text}")
    return cast("dict[str, Any]", found)


def _read_json(option: str, text: str, wanted: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        shown = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
        raise UsageError(f"{option} must be {wanted}: {exc}: {shown}") from exc
