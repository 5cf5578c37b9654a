"""What a worker counts of the runs that ended here, for its row in the fleet registry (see `control.recent`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final

from .. import states
from ..canvas.outcome import Outcome, Success
from ..commit import Finish
from ..control.recent import Cell, RecentCounts, interval_of
from ..exceptions import EncodeError
from ..states import SUCCESS
from .run import Run

#: Of the first runs of a task in a minute that succeed all are timed, of the others one in eight: enough for a p95, and
#: half of what counting costs.
_ALL_TIMED: Final = 200
_OTHERS: Final = 7

#: How long a run took, how long it waited (None: that is not known), and for how many runs it stands.
Timing = tuple[float, float | None, int]


class RecentRuns:
    """Counts on the worker's loop; the row is made in the thread that renews leases."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._counts = RecentCounts()

    def ended(self, run: Run, outcome: Outcome, finish: Finish) -> Timing | None:
        """Count how a run ended: a few additions, since each of them is paid for by every call. Return its times, if
        they were taken."""
        delivery, now, counts = run.delivery, self._clock(), self._counts
        message, minute = delivery.message, int(now // 60)
        if minute != counts.minute:
            counts.turn(minute)
        key = message.task, delivery.queue
        cell = counts.cells.get(key) or counts.new(key)
        if type(outcome) is Success and (finish.record is None or finish.record.state == SUCCESS):
            cell.succeeded = succeeded = cell.succeeded + 1
            stands_for = 1
            if succeeded > _ALL_TIMED:
                if succeeded & _OTHERS:
                    return None
                stands_for = _OTHERS + 1
        elif _count_other(cell, outcome):
            stands_for = 1
        else:
            return None
        if run.request is None:
            return None  # it was not called
        ran = time.perf_counter() - run.started_at
        number = interval_of(ran)
        cell.run[number] = cell.run.get(number, 0) + 1
        ready_at = message.eta or message.sent_at
        if ready_at is None:
            return ran, None, stands_for
        waited = now - ran - ready_at
        number = interval_of(waited)
        cell.wait[number] = cell.wait.get(number, 0) + 1
        return ran, waited, stands_for

    def beside(self, describe: Callable[[], Mapping[str, Any]]) -> Callable[[], Mapping[str, Any]]:
        """Return what makes a row of what `describe` says of the worker, and of what was counted."""
        return lambda: {**describe(), "recent": self._counts.packed(self._clock())}


def _count_other(cell: Cell, outcome: Outcome) -> bool:
    """Count what did not succeed; False: it comes again, or goes on as another."""
    match outcome.state:
        case states.PENDING | "REPLACED":
            return False
        case states.RETRY:
            cell.retried += 1
        case states.FAILURE | states.SUCCESS:  # a success whose value can't be kept is a failure
            cell.failed += 1
            cell.error(EncodeError.__name__ if outcome.error is None else type(outcome.error).__name__)
        case _:
            cell.other += 1
    return True
