"""How one worker consumes: what is chosen for it, and what the settings say of the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict, cast

from ..control.commands import MOST_SLOTS
from ..core.bounds import Bounds
from ..core.settings import Settings
from ..exceptions import InvalidOption
from ..transport import FAIR, QueueOrder
from ..transport.routing import MAX_WEIGHT, select_queues
from ..wire.message import MAX_NAME


class WorkerChoices(TypedDict, total=False):
    """The options of `app.worker()`, but for its queues. The default of each is a setting `worker_…`."""

    exclude_queues: Sequence[str]
    "Queues from which it does not consume."
    queue_weights: Mapping[str, int] | None
    "Queues take turns; from one with a weight of 3 three times as much is taken as from one with 1."
    strict_queues: bool | None
    "True: nothing is taken from a queue while one before it has anything."
    name: str | None
    concurrency: int | None
    "Coroutine tasks that run at once."
    autoscale: tuple[int, int] | None
    "At most and at least so many of them in place of that: more as soon as all run, fewer when few did for 30 s."
    threads: int | None
    processes: int | None
    prefetch: int | None
    "Messages that are taken before there is room for them."
    grace: float | None
    "Seconds that running tasks have to end in when it stops."


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How one worker consumes; `grace` in seconds.

    `bounds`: how many coroutine tasks run at once is scaled between them, beginning with `concurrency`.

    `leaves_threads`: functions in threads that outlast the grace time are handed back and left running, for a caller
    which then ends the process (the command line). Without it the worker waits for them.
    """

    queues: Sequence[str]
    concurrency: int
    threads: int
    processes: int
    prefetch: int
    grace: float
    order: QueueOrder = FAIR
    name: str | None = None
    leaves_threads: bool = False
    bounds: Bounds | None = None

    def __post_init__(self) -> None:
        if isinstance(self.queues, str):
            raise InvalidOption(f"a worker's queues are a list of names: [{self.queues!r}], not {self.queues!r}")
        for queue in self.queues:
            if not 0 < len(queue) <= MAX_NAME:
                raise InvalidOption(f"a queue's name has 1 to {MAX_NAME} characters: {queue[:MAX_NAME]!r}")
        for queue, weight in self.order.weights.items():
            if not isinstance(cast(object, weight), int) or not 1 <= weight <= MAX_WEIGHT:
                raise InvalidOption(f"a queue's weight is a whole number from 1 to {MAX_WEIGHT}: {queue!r}: {weight!r}")
        for name, least in (("concurrency", 1), ("threads", 1), ("processes", 1), ("prefetch", 0), ("grace", 0)):
            if not getattr(self, name) >= least:
                raise InvalidOption(f"a worker's {name} must be {least} or more, not {getattr(self, name)!r}")
        if not self.queues:
            raise InvalidOption("a worker needs at least one queue")


def worker_options(conf: Settings, queues: Sequence[str] | None, choices: WorkerChoices) -> WorkerOptions:
    """Return how a worker of `queues` (None: `task_queues`) consumes.

    Raises:
        InvalidOption: a choice is unknown, a queue's name or a number is impossible.
    """
    if unknown := choices.keys() - WorkerChoices.__annotations__.keys():
        there_are = ", ".join(WorkerChoices.__annotations__)
        raise InvalidOption(f"a worker has no option {min(unknown)!r} (there are queues, {there_are})")
    weights, is_strict = choices.get("queue_weights"), choices.get("strict_queues")
    order = QueueOrder(
        conf.worker_queue_weights if weights is None else weights,
        conf.worker_queue_order == "strict" if is_strict is None else is_strict,
    )
    concurrency, threads = choices.get("concurrency"), choices.get("threads")
    bounds = _bounds(choices.get("autoscale"), concurrency)
    if bounds is not None:
        concurrency = bounds.least
    processes, prefetch, grace = choices.get("processes"), choices.get("prefetch"), choices.get("grace")
    return WorkerOptions(
        queues=select_queues(conf, queues, choices.get("exclude_queues", ())),
        order=order,
        name=choices.get("name"),
        concurrency=conf.worker_concurrency if concurrency is None else concurrency,
        threads=conf.worker_threads if threads is None else threads,
        processes=(conf.worker_processes or os.cpu_count() or 1) if processes is None else processes,
        prefetch=conf.worker_prefetch if prefetch is None else prefetch,
        grace=conf.worker_grace if grace is None else grace,
        bounds=bounds,
    )


def _bounds(autoscale: tuple[int, int] | None, concurrency: int | None) -> Bounds | None:
    if autoscale is None:
        return None
    if concurrency is not None:
        raise InvalidOption("a worker has a fixed concurrency or is autoscaled, not both")
    match cast(object, autoscale):
        case (int(most), int(least)) if 1 <= least <= most <= MOST_SLOTS:
            return Bounds(least, most)
        case _:
            raise InvalidOption(f"autoscale is (most, least), two numbers from 1 to {MOST_SLOTS}, not {autoscale!r}")
