"""`aiotq diff`: before a deploy, what the new version of an app can't run of what waits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from ..app import AioTQ
from ..control.code_changes import Looked, Parameter, Tasks, changes, look, parameters
from ..core.inside import core_of
from . import output
from .app_option import CommandFailed, Target, UsageError, run
from .command import Broker
from .words import Json, read_names

#: Seconds that the old version has to be imported and to say what it has.
_PATIENCE: Final = 60.0
#: The exit code when something can't be run: no error of this command.
_CONCERNED: Final = 3


def diff(
    context: typer.Context,
    old: Annotated[
        str, typer.Argument(metavar="OLD", help="What runs now: a directory with that code, or a file (tasks --json).")
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="The app that is to run, as proj:app.")],
    broker: Broker = None,
    queues: Annotated[
        str | None, typer.Option("-Q", "--queues", metavar="NAMES", help="Look at these queues only.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say which waiting calls new code can't run, before it is deployed.

    The tasks of two versions are compared: those that are gone, and arguments that no longer fit. Then calls that wait
    are looked at in NEW's broker, up to 10,000 of each queue that are ready and as many that are delayed, and the steps
    that follow them in their workflows. Nothing is taken from a queue. RabbitMQ can't show what waits.

    Exit code 3: something can't be run.
    """
    target: Target = context.obj
    target.given(new, broker, False)
    app = target.load()
    before = _tasks_of(old, new)
    after = {name: parameters(task) for name, task in core_of(app).registry.own_tasks.items()}
    differences = changes(before, after)
    names = None if queues is None else read_names(queues)
    looked = run(app, lambda app: _look(app, before, names))
    if as_json:
        output.as_json(
            {
                "changes": [{"task": task, "why": why} for task, why in differences],
                "waiting": None if looked is None else _as_data(looked),
            }
        )
    else:
        _tell(differences, looked)
    if differences or (looked is not None and looked.unrunnable):
        raise typer.Exit(_CONCERNED)


async def _look(app: AioTQ, before: Tasks, names: Sequence[str] | None) -> Looked | None:
    """Return what waits; None: the broker can't show it."""
    core = core_of(app)
    if not (await core.connection()).broker.can_list:
        return None
    return await look(core, before, names)


def _tell(differences: Sequence[tuple[str, str]], looked: Looked | None) -> None:
    for task, why in differences:
        print(output.printable(f"{task}: {why}"))
    if not differences:
        print("the new version takes all calls of the old one")
    if looked is None:
        print("RabbitMQ can't show what waits: calls like these may be among it")
        return
    others = f", {looked.others} of them of tasks that neither version has" if looked.others else ""
    print(f"waiting: {looked.calls} calls looked at{others}")
    if looked.unrunnable:
        rows = [(each.task, each.queue, str(each.count), each.why, each.id) for each in looked.unrunnable]
        output.table(("task", "queue", "calls", "why they can't run", "one of them"), rows, numbers=("calls",))
    else:
        print("all of them can be run")


def _tasks_of(old: str, new: str) -> Tasks:
    """Return the tasks of the old version.

    Raises:
        CommandFailed: they can't be had.
    """
    place = Path(old)
    if place.is_dir():
        command = [sys.executable, "-m", "aiotq", "tasks", "-A", new, "--json"]
        try:
            done = subprocess.run(
                command, cwd=place, capture_output=True, text=True, timeout=_PATIENCE, check=False, env=_environment()
            )
        except subprocess.TimeoutExpired as exc:
            raise CommandFailed(f"{old}: its app did not say within {_PATIENCE:g} s which tasks it has") from exc
        if done.returncode != 0:
            raise CommandFailed(f"{old}: its tasks can't be had:\n{done.stderr.strip()}")
        return _read(old, done.stdout)
    if not place.exists():
        raise UsageError(f"OLD is a directory, or a file that `aiotq tasks {new} --json` wrote: there is no {old!r}")
    return _read(old, place.read_text(encoding="utf-8"))


def _environment() -> dict[str, str]:
    """Return this process's environment with paths that mean the same in another directory."""
    paths = [str(Path(path).absolute()) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def _read(old: str, text: str) -> Tasks:
    try:
        found: list[dict[str, Any]] = json.loads(text)
        return {each["name"]: [_parameter(*parameter) for parameter in each["parameters"]] for each in found}
    except (ValueError, TypeError, KeyError) as exc:
        raise CommandFailed(f"{old} is no list of tasks, as `aiotq tasks APP --json` writes it: {exc!r}") from exc


def _parameter(name: str, kind: str, is_required: bool) -> Parameter:
    return name, kind, is_required


def _as_data(looked: Looked) -> dict[str, Any]:
    fields = ("task", "queue", "why", "count", "id")
    return {
        "calls": looked.calls,
        "of_others": looked.others,
        "unrunnable": [{field: getattr(each, field) for field in fields} for each in looked.unrunnable],
    }
