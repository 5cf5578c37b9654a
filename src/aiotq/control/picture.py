"""How things stand with an app at one moment, as the rules of `findings` look at it, and from where on they speak."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, Literal, cast

from ..core.settings import Settings
from ..core.values import value
from ..exceptions import InvalidSetting
from ..transport import QueueStats
from .fleet import FleetMember
from .recent import Recent

#: `error`: work is lost, stands still or will; `warning`: it may soon; `note`: worth knowing.
Level = Literal["error", "warning", "note"]

LEVELS: Final[tuple[Level, ...]] = ("error", "warning", "note")


@value
class Finding:
    """Something that needs a look: which rule found it, in what, what is so, and what to do."""

    rule: str
    level: Level
    about: str
    text: str
    advice: str


@value
class Thresholds:
    """From where on something needs a look (the setting `alert_thresholds`); seconds unless said otherwise."""

    oldest: float = 600.0  #: how long a call may wait in a queue that workers take from
    behind: float = 60.0  #: the same, while calls wait longer and longer
    growing: float = 2.0  #: times the usual wait from which on they do
    clock: float = 2.0  #: by how much clocks may differ
    dead: float = 3600.0  #: dead letters that are younger are new
    lease: float = 5.0  #: a lease that is shorter ends when a machine is busy for a moment
    failing: float = 0.05  #: the part of a task's runs that may fail, if so many did not before
    failing_times: float = 2.0  #: times as many as before from which on that is more
    failing_runs: float = 20.0  #: runs in the last ten minutes, below which nothing is said of them
    slow: float = 10.0  #: how long a run may take at least
    slow_times: float = 3.0  #: times what 95 of 100 runs take


@value
class TaskFacts:
    """A task that this app declares, and where calls of it go; `problem`: why they can't be routed."""

    name: str
    queues: tuple[str, ...]
    runs_in: str = "loop"
    problem: str | None = None


@value
class WorkerFacts:
    """What a worker said: the tasks it knows, and by how many seconds its clock is ahead (None: it did not answer)."""

    tasks: frozenset[str] | None
    clock: float | None


@value
class DeadFacts:
    """New dead letters of one queue: how many, and why."""

    queue: str
    count: int
    reasons: tuple[str, ...]


@value
class RunningFacts:
    """A call that runs for so many seconds."""

    id: str
    task: str
    worker: str
    seconds: float


@value
class ScheduleFacts:
    """A periodic task, and the state of its last run (None: it did not run, or nothing is kept)."""

    name: str
    last_state: str | None
    last_id: str | None = None


@value
class Picture:
    """All that is known at one moment.

    `members` is the fleet registry; where there is none (`has_fleet` False), it has those that answered. `workers` are
    those that are there, by their keys; those that were not asked are left out. `clock` is by how much the store's
    clock is ahead of ours.
    """

    now: float
    version: str
    conf: Settings
    has_fleet: bool
    members: Sequence[FleetMember]
    workers: Mapping[str, WorkerFacts]
    queues: Sequence[QueueStats]
    tasks: Sequence[TaskFacts]
    dead: Sequence[DeadFacts] = ()
    periodic: int = 0  #: entries that are sent
    server: Sequence[str] = ()  #: what broker and store say of their own settings
    clock: float = 0.0
    recent: Recent = Recent()
    running: Sequence[RunningFacts] = ()
    schedules: Sequence[ScheduleFacts] = ()


Rule = Callable[[Picture, Thresholds], Iterator[Finding]]

_NAMES: Final = frozenset(each.name for each in fields(cast("Any", Thresholds)))


def check_thresholds(given: object) -> Mapping[str, float]:
    """Return the setting `alert_thresholds`.

    Raises:
        InvalidSetting: it names no threshold, or one is no number that is 0 or more.
    """
    shown: object = given
    if not isinstance(given, Mapping):
        raise InvalidSetting("alert_thresholds", shown, "a mapping of names to numbers")
    told = cast("Mapping[Any, Any]", given)
    for name, number in told.items():
        if name not in _NAMES:
            raise InvalidSetting("alert_thresholds", shown, f"thresholds: {', '.join(sorted(_NAMES))}")
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not 0 <= number < float("inf"):
            raise InvalidSetting("alert_thresholds", shown, f"numbers that are 0 or more ({name})")
    return {name: float(number) for name, number in cast("Mapping[str, float]", told).items()}


def thresholds_of(conf: Settings) -> Thresholds:
    """Return the thresholds as the settings have them."""
    return Thresholds(**conf.alert_thresholds)
