"""`aiotq events`: what workers tell, as it happens, or as a camera sees it."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, cast

import typer

from ..app import AioTQ
from ..control.camera import Camera
from ..control.state import State
from . import output
from .app_option import Target, UsageError
from .command import command
from .words import Json, read_names

#: What a line of an event begins with; all else stands behind it.
_HEAD: Final = frozenset({"type", "timestamp", "hostname", "pid", "utcoffset", "clock", "uuid", "name"})
#: Letters of a line for people; a traceback is as long as it is.
_LONGEST: Final = 300
#: What is left out of a line for people: it is in `--dump`.
_LEFT_OUT: Final = frozenset({"traceback", "root_id", "parent_id", "sw_ident", "sw_ver", "sw_sys", "freq", "signum"})
_MOST_NAMES: Final = 10_000

Types = Annotated[
    str | None, typer.Option("--types", metavar="TYPES", help="Only these: task-failed,worker-* (commas between them).")
]
Limit = Annotated[int | None, typer.Option("-n", "--limit", metavar="N", min=1, help="End after so many events.")]
Seconds = Annotated[
    float | None, typer.Option("-t", "--timeout", metavar="SECONDS", help="End when none came for so long.")
]
Dump = Annotated[bool, typer.Option("-d", "--dump", help="Each event with all its fields, heartbeats too.")]
CameraPath = Annotated[
    str | None, typer.Option("-c", "--camera", metavar="MODULE.CLASS", help="Let a camera look at the state instead.")
]
Frequency = Annotated[
    float | None, typer.Option("-F", "--frequency", "--freq", metavar="SECONDS", help="Time between looks (1).")
]


@command()
def events(
    target: Target,
    types: Types = None,
    limit: Limit = None,
    timeout: Seconds = None,
    dump: Dump = False,
    camera: CameraPath = None,
    frequency: Frequency = None,
    as_json: Json = False,
) -> None:
    """Show what workers tell as it happens, until Ctrl-C.

    Workers need no option for it: they tell what happens while somebody reads.
    """
    if timeout is not None and not timeout > 0:
        raise UsageError(f"--timeout must be seconds, more than 0, not {timeout:g}")
    if camera is not None:
        if dump or as_json or types is not None or limit is not None or timeout is not None:
            raise UsageError("--camera goes with --frequency alone")
        _look(target, camera, 1.0 if frequency is None else frequency)
        return
    if frequency is not None:
        raise UsageError("--frequency goes with --camera")
    names = None if types is None else read_names(types)
    if names == []:
        raise UsageError("--types names none: write them as task-failed,worker-*")
    show = _as_json if as_json else _dumped if dump else Lines().shown

    async def read(app: AioTQ) -> None:
        async for event in app.events.capture(limit, types=names, timeout=timeout):
            line = show(event)
            if line is not None:
                print(output.printable(line), flush=True)

    target.run(read)


class Lines:
    """Events as lines for people. The name of a call's task is remembered from the event that tells it; of heartbeats
    the first of each worker is shown."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._workers: set[str] = set()

    def shown(self, event: Mapping[str, Any]) -> str | None:
        kind, uuid = event["type"], event.get("uuid")
        who = event["hostname"]
        if kind == "worker-heartbeat" and who in self._workers:
            return None
        if len(self._workers) < _MOST_NAMES:
            self._workers.add(who)
        if isinstance(uuid, str):
            name = event.get("name") or self._names.get(uuid, "")
            self._names[uuid] = str(name)
            if len(self._names) > _MOST_NAMES:
                del self._names[next(iter(self._names))]
            who = f"{who}  {name}[{uuid}]"
        rest = _fields({key: each for key, each in event.items() if key not in _LEFT_OUT and each is not None})
        line = f"{_time(event['timestamp'])}  {kind:15}  {who}  {rest}".rstrip()
        return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


def _dumped(event: Mapping[str, Any]) -> str:
    return (
        f"{_time(event['timestamp'])} {event['type']} {event['hostname']} {_fields(event, ('uuid', 'name', 'clock'))}"
    )


def _as_json(event: Mapping[str, Any]) -> str:
    return json.dumps(event, ensure_ascii=False)


def _fields(event: Mapping[str, Any], also: tuple[str, ...] = ()) -> str:
    shown = [*(name for name in also if name in event), *sorted(event.keys() - _HEAD)]
    return " ".join(f"{name}={event[name]}" for name in shown)


def _time(timestamp: float) -> str:
    return datetime.fromtimestamp(timestamp, UTC).astimezone().isoformat(sep=" ", timespec="milliseconds")


def _look(target: Target, path: str, frequency: float) -> None:
    if not 0 < frequency < float("inf"):
        raise UsageError(f"--frequency must be seconds, more than 0, not {frequency:g}")
    make = _camera(path)

    async def run(app: AioTQ) -> None:
        await make(State(), frequency=frequency).run(app.events)

    target.run(run)


def _camera(path: str) -> Callable[..., Camera]:
    """Return the class of a camera by its path, from the directory of the command as well."""
    module, dot, name = path.replace(":", ".").rpartition(".")
    if not dot:
        raise UsageError(f"--camera names a class in a module, as proj.cameras.Camera, not {path!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = getattr(importlib.import_module(module), name, None)
    except ImportError as exc:
        raise UsageError(f"--camera {path}: {exc}") from exc
    if not (isinstance(found, type) and issubclass(found, Camera)):
        raise UsageError(f"--camera {path}: it is no class made from aiotq.control.camera.Camera")
    return cast("Callable[..., Camera]", found)
