"""Options that several commands have, and what is read from words."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Collection
from typing import Annotated, Any, Final, cast

import typer

from ..core.durations import parse_duration
from .app_option import CommandFailed, UsageError

#: Characters of a wrong word that its complaint repeats.
_MAX_SHOWN: Final = 200

Wait = Annotated[bool, typer.Option("--wait", help="Wait for the result.")]
Timeout = Annotated[
    float | None, typer.Option(metavar="SECONDS", min=0, help="Wait no longer than this (with --wait).")
]
Yes = Annotated[bool, typer.Option("-y", "--yes", help="Don't ask.")]
Json = Annotated[bool, typer.Option("--json", help="As JSON, for programs.")]
Queue = Annotated[str | None, typer.Option("-q", "--queue", metavar="QUEUE", help="Only those of this queue.")]


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


def read_bounds(option: str, text: str | None) -> tuple[int, int] | None:
    """Return the numbers in `10,3`: the most and the least, which is 1 if it is not given."""
    if text is None:
        return None
    most, _, least = text.replace(" ", "").partition(",")
    least = least or "1"
    if not (most.isdecimal() and least.isdecimal() and 1 <= int(least) <= int(most)):
        raise UsageError(f"{option} is MAX,MIN with 1 <= MIN <= MAX, as 10,3, not {text}")
    return int(most), int(least)


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


def read_duration(text: str) -> float:
    """As `parse_duration`, for a command's word."""
    try:
        return parse_duration(text)
    except ValueError:
        raise UsageError(f"{text!r} is no duration: write it as 7d, 12h, 30m, 90s or 1h30m") from None


def unknown_task(name: str, known: Collection[str]) -> str | None:
    """Return what is to be said of a task's name that is not among the `known`; None if it is."""
    if name in known:
        return None
    last = name.rpartition(".")[2]
    alike = difflib.get_close_matches(last, [each.rpartition(".")[2] for each in known])
    ending = [each for each in known if each.rpartition(".")[2] in alike]
    near = list(dict.fromkeys([*difflib.get_close_matches(name, known), *ending]))
    hint = f" (near it: {', '.join(near)})" if near else ""
    return f"warning: no task is registered as {name!r} here{hint}"


def near(word: str, known: Collection[str]) -> str:
    """Return a hint at what is known and like a wrong word; empty if nothing is."""
    alike = difflib.get_close_matches(word, known, n=1)
    return f" (did you mean {alike[0]!r}?)" if alike else ""
