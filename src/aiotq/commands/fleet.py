"""`aiotq status`, `aiotq inspect` and `aiotq control`: who the workers are, asking them, telling them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, cast

import typer

from ..app import AioTQ
from ..control.asking import TIMEOUT, Answers
from ..control.commands import builtin_commands
from ..control.declared import DeclaredCommand, Kind
from ..control.fleet import FleetMember
from ..core.inside import core_of
from . import output
from .app_option import CommandFailed, Target, UsageError
from .command import command
from .words import Json, near

#: The exit code when nobody answers, as Celery's.
UNAVAILABLE: Final = 69
_COLUMNS: Final = ("worker", "state", "host", "pid", "up", "running", "done", "load", "queues", "version", "seen")
_NUMBERS: Final = ("pid", "up", "running", "done", "load", "seen")

Destination = Annotated[
    list[str] | None,
    typer.Option(
        "-d", "--destination", metavar="NAME", help="Only these workers: names, globs (mail-*), commas between them."
    ),
]
Seconds = Annotated[float, typer.Option("-t", "--timeout", metavar="SECONDS", help="Wait no longer for answers.")]


#: Words of Celery's `control` that are said to no worker: revocations are kept with results.
_REVOKING: Final = ("revoke", "terminate")


class NobodyThere(CommandFailed):
    """No worker answered."""

    exit_code = UNAVAILABLE


@command()
def status(target: Target, timeout: Seconds = TIMEOUT, as_json: Json = False) -> None:
    """Show the workers and schedulers that are there, and those that went missing in the last hour."""
    members = target.run(lambda app: app.control.fleet(timeout=timeout))
    now = time.time()
    if as_json:
        output.as_json([_as_data(each) for each in members])
    elif members:
        output.table(_COLUMNS, [_row(each, now) for each in members], numbers=_NUMBERS, whole=("worker",))
    if all(each.is_missing for each in members if each.kind == "worker"):
        raise NobodyThere("no worker is there")


@command(many="COMMAND [ARGUMENT]...")
def inspect(
    target: Target,
    words: list[str],
    destination: Destination = None,
    timeout: Seconds = TIMEOUT,
    as_json: Json = False,
) -> None:
    """Ask workers what they do; nothing is changed. Without a command: list those there are.

    An argument is a word, or NAME=VALUE.
    """
    _tell(target, "inspect", words, destination, timeout, as_json)


@command(many="COMMAND [ARGUMENT]...")
def control(
    target: Target,
    words: list[str],
    destination: Destination = None,
    timeout: Seconds = TIMEOUT,
    as_json: Json = False,
) -> None:
    """Tell workers to do something. Without a command: list those there are.

    An argument is a word, or NAME=VALUE. What is changed holds until a worker is started anew. `revoke ID...` and
    `terminate ID...` are those of `aiotq revoke`, which knows more ways to name calls.
    """
    if words and words[0] in _REVOKING:
        _revoke(target, words)
    else:
        _tell(target, "control", words, destination, timeout, as_json)


def _revoke(target: Target, words: list[str]) -> None:
    """Revoke calls, as Celery's commands of these names do."""
    name, *ids = words
    if not ids:
        raise UsageError(f"{name}: which calls? {name} ID...")
    target.run(lambda app: app.admin.revoke(*ids, terminate=name == "terminate"))
    print(f"revoked: {', '.join(map(output.printable, ids))}")


def _tell(
    target: Target, kind: Kind, words: list[str], destination: list[str] | None, timeout: float, as_json: bool
) -> None:
    app = target.load(with_tasks=False)
    known = {name: each for name, each in {**builtin_commands(), **core_of(app).commands}.items() if each.kind == kind}
    if not words:
        _list(known, as_json)
        return
    if not timeout > 0:
        raise UsageError(f"--timeout must be seconds, more than 0, not {timeout:g}")
    name, *arguments = words
    if name not in known:
        raise UsageError(f"no {kind} command {name!r}{near(name, known)}: aiotq {kind} lists them")
    args, kwargs = _arguments(known[name], arguments)
    known[name].bound(args, kwargs)  # what is wrong is said here, once
    chosen = [each for given in destination or () for each in given.split(",") if each] or None

    async def ask(app: AioTQ) -> Answers:
        return await app.control.broadcast(name, args, kwargs, destination=chosen, timeout=timeout)

    _print(target.run(ask), as_json)


def _print(answers: Answers, as_json: bool) -> None:
    """Print what workers answered.

    Raises:
        NobodyThere: none did.
        CommandFailed: all of them refused.
    """
    if as_json:
        output.as_json(dict(sorted(answers.items())))
    else:
        for name, answer in sorted(answers.items()):
            _print_one(name, answer)
    for name in answers.silent:
        why = f": {answers.blocked[name]}" if name in answers.blocked else ""
        output.complain(f"{name} did not answer{why}")
    if not answers:
        raise NobodyThere("no worker answered")
    if len(answers.failed) == len(answers):
        raise CommandFailed("no worker did it")


def _print_one(name: str, answer: Any) -> None:
    match answer:
        case {"ok": str(text), **rest} if "\n" not in text:
            more = "".join(f"; {key}: {value}" for key, value in rest.items())
            print(output.printable(f"{name}: {text}{more}"))
        case {"ok": str(text)}:
            print(output.printable(f"{name}:\n{text}"))
        case {"error": str(text), **rest} if not rest:
            output.complain(output.printable(f"{name}: {text}"))
        case list() | dict() if not answer:
            print(output.printable(f"{name}: nothing"))
        case _:
            print(output.printable(f"{name}:"))
            for line in _lines(answer):
                print(output.printable(f"  {line}"))


def _lines(answer: object) -> Sequence[str]:
    if isinstance(answer, list):
        return [each if isinstance(each, str) else _as_json(each) for each in cast("list[object]", answer)]
    if isinstance(answer, dict):
        return [f"{name}: {_as_json(each)}" for name, each in cast("Mapping[str, object]", answer).items()]
    return [_as_json(answer)]


def _as_json(answer: object) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)


def _list(known: Mapping[str, DeclaredCommand], as_json: bool) -> None:
    if as_json:
        output.as_json([{"name": each.name, "usage": each.usage, "meaning": each.meaning} for each in known.values()])
        return
    output.fields([(each.usage, each.meaning) for each in sorted(known.values(), key=lambda each: each.name)])


def _arguments(command: DeclaredCommand, words: Sequence[str]) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments in words: NAME=VALUE where the command has such an argument."""
    named = {each.name for each in command.arguments if not each.takes_several}
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for word in words:
        name, equals, given = word.partition("=")
        if equals and name in named:
            kwargs[name] = given
        else:
            args.append(word)
    return args, kwargs


def state_of(member: FleetMember) -> str:
    """Return whether a worker or scheduler is there, in a word."""
    if member.is_missing:
        return "missing"
    if member.blocked is not None:
        return "blocked"
    if member.kind == "scheduler":
        return "live" if member.is_live else "waits"
    return "paused" if member.is_paused else "up"


def _row(member: FleetMember, now: float) -> tuple[str, ...]:
    most = sum(capacity for _, capacity in member.slots.values())
    return (
        member.name,
        state_of(member),
        member.host,
        str(member.pid),
        output.age(member.seen - member.started),
        f"{member.running}/{most}" if member.kind == "worker" else "-",
        str(member.completed) if member.kind == "worker" else "-",
        f"{member.load:.2f}",
        ", ".join(member.queues) if member.kind == "worker" else "(beat)",
        member.version,
        output.age(max(now - member.seen, 0.0)),
    )


def _as_data(member: FleetMember) -> dict[str, Any]:
    return {
        "kind": member.kind,
        "name": member.name,
        "state": state_of(member),
        "key": member.key,
        "host": member.host,
        "pid": member.pid,
        "boot_id": member.boot_id,
        "version": member.version,
        "queues": list(member.queues),
        "tasks": list(member.tasks),
        "task_count": member.task_count,
        "slots": {kind: {"running": counts[0], "max": counts[1]} for kind, counts in member.slots.items()},
        "running": member.running,
        "completed": member.completed,
        "load": member.load,
        "started": member.started,
        "seen": member.seen,
        "missing_for": member.missing_for if member.is_missing else None,
        "blocked": member.blocked,
    }
