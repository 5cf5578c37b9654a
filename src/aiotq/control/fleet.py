"""The fleet registry as people read it: what each worker says of itself, and whether it is still there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from typing import Any, Final, Literal, cast

import orjson

from ..core.values import value
from ..exceptions import MalformedMessage
from ..results.fleet import Presence

Kind = Literal["worker", "scheduler"]

#: What a scheduler does not have.
_NONE_OF_ITS_OWN: Final[Mapping[str, Any]] = {
    "queues": (),
    "tasks": (),
    "task_count": 0,
    "slots": {},
    "running": 0,
    "completed": 0,
    "is_paused": False,
    "blocked": None,
}


@value
class FleetMember:
    """A worker or a scheduler, as it last said it is (`await app.control.fleet()`). Times are seconds since the epoch.

    A scheduler has no queues, tasks and slots.
    """

    key: str  #: of this life of this worker
    kind: Kind
    name: str
    host: str
    pid: int
    boot_id: str  #: changes when its machine is started anew; empty where that can't be known
    version: str  #: of aiotq
    queues: tuple[str, ...]
    tasks: tuple[str, ...]  #: the first five hundred it knows
    task_count: int
    slots: Mapping[str, Sequence[int]]  #: by kind: how many run, and how many may
    running: int
    completed: int
    is_paused: bool
    load: float  #: of its machine, over the last minute
    started: float
    seen: float  #: when it last said so
    is_missing: bool  #: its lease ended, and it did not say good-bye
    missing_for: float  #: seconds
    is_live: bool  #: of schedulers: it is the one that sends; a worker is always
    blocked: str | None  #: by what its event loop is blocked, if it is
    blocked_since: float | None
    blocked_stack: str = field(default="", repr=False)
    recent: object = field(default=None, repr=False)  #: what it counted in the last hour (see `control.recent`)
    memory: int = 0  #: bytes that it has in the machine's memory


def read_member(presence: Presence) -> FleetMember:
    """Return the worker of a row.

    Raises:
        MalformedMessage: the row is none.
    """
    return member_of(presence.key, presence.row, presence.left)


def member_of(key: str, row: bytes, left: float) -> FleetMember:
    """Return what a worker says in `row`, whose lease has so many seconds `left`; raises as `read_member`."""
    try:
        said = cast("dict[str, Any]", orjson.loads(row))
        if said.get("kind") == "scheduler":
            said = {**_NONE_OF_ITS_OWN, **said}
        blocked: dict[str, Any] | None = said["blocked"]
        return FleetMember(
            key=key,
            kind="scheduler" if said.get("kind") == "scheduler" else "worker",
            name=str(said["name"]),
            host=str(said["host"]),
            pid=int(said["pid"]),
            boot_id=str(said["boot_id"]),
            version=str(said["version"]),
            queues=tuple(map(str, said["queues"])),
            tasks=tuple(map(str, said["tasks"])),
            task_count=int(said["task_count"]),
            slots={str(kind): tuple(map(int, counts)) for kind, counts in said["slots"].items()},
            running=int(said["running"]),
            completed=int(said["completed"]),
            is_paused=bool(said["is_paused"]),
            load=float(said["load"]),
            started=float(said["started"]),
            seen=float(said["seen"]),
            is_missing=left <= 0,
            missing_for=max(-left, 0.0),
            is_live=bool(said.get("is_live", True)),
            blocked=None if blocked is None else str(blocked["by"]),
            blocked_since=None if blocked is None else float(blocked["since"]),
            blocked_stack="" if blocked is None else str(blocked["stack"]),
            recent=said.get("recent"),
            memory=int(said.get("memory", 0)),
        )
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError, AttributeError) as exc:
        raise MalformedMessage(f"no row of the fleet registry: {exc!r}") from exc
