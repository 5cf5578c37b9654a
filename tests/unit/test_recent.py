"""What workers count in an hour, and how it is added up."""

from __future__ import annotations

import random

import orjson
import pytest

from aiotq.control.added_up import AddedUp, recent_of
from aiotq.control.recent import LATELY, MINUTES, MOST_SERIES, OTHER, RecentCounts, interval_of, quantile

MINUTE = 30_000_000
NOW = MINUTE * 60.0 + 12.0


def counted(
    counts: RecentCounts, minute: int, task: str, queue: str, ok: int, failed: int = 0, ran: float = 0.1
) -> None:
    if minute != counts.minute:
        counts.turn(minute)
    cell = counts.cells.get((task, queue)) or counts.new((task, queue))
    cell.succeeded += ok
    cell.failed += failed
    cell.run[interval_of(ran)] = cell.run.get(interval_of(ran), 0) + ok + failed
    for _ in range(failed):
        cell.error("ValueError")


def row(counts: RecentCounts, now: float = NOW) -> object:
    return orjson.loads(orjson.dumps(counts.packed(now)))


@pytest.mark.parametrize("seconds", [0.00002, 0.003, 0.25, 1.0, 47.0, 4000.0])
def test_a_quantile_is_as_exact_as_its_intervals(seconds: float) -> None:
    spread = {interval_of(seconds): 100}

    for part in (0.01, 0.5, 0.95, 1.0):
        found = quantile(spread, part)
        assert found is not None
        assert seconds / 1.5 < found < seconds * 1.5
    assert quantile({}, 0.5) is None
    assert interval_of(0.0) == interval_of(-5.0) == 0


def test_rows_of_several_workers_add_up_by_minute_and_by_task() -> None:
    one, other = RecentCounts(), RecentCounts()
    for minute in (MINUTE - MINUTES - 1, MINUTE - MINUTES + 1, MINUTE - LATELY, MINUTE - 2, MINUTE):
        counted(one, minute, "proj.add", "default", 10, ran=0.01)
    counted(other, MINUTE - 2, "proj.add", "default", 5, 5, ran=2.0)
    counted(other, MINUTE, "proj.mail", "mail", 1)

    found = recent_of([row(one), row(other), None, {"minutes": [["what"]]}, {"tasks": 7}], NOW)

    assert [each.at for each in found.minutes] == [60.0 * m for m in range(MINUTE - MINUTES + 1, MINUTE + 1)]
    assert [each.figures.count for each in found.minutes][-3:] == [20, 0, 11]
    assert found.last(1).count == 11
    assert found.last(MINUTES).count == 51
    add, mail = found.tasks
    assert (add.task, add.queue, mail.task, mail.queue) == ("proj.add", "default", "proj.mail", "mail")
    assert (add.lately.succeeded, add.lately.failed, add.before.count, add.hour.count) == (25, 5, 20, 50)
    assert add.lately.errors == {"ValueError": 5}
    assert add.lately.failing == pytest.approx(5 / 30)
    assert (add.before.ran(0.95) or 0) < 0.02 < (add.lately.ran(0.95) or 0)


def test_a_row_tells_of_the_hour_alone_and_of_so_many_tasks() -> None:
    counts = RecentCounts()
    for number in range(2 * MOST_SERIES):
        counted(counts, MINUTE, f"proj.task{number}", "default", 1)
    counted(counts, MINUTE + 1, "proj.add", "default", 1)

    found = recent_of([row(counts, NOW + 60)], NOW + 60)
    assert len(found.tasks) == MOST_SERIES
    assert max(found.tasks, key=lambda each: each.hour.count).task == OTHER
    assert found.last(MINUTES).count == 2 * MOST_SERIES + 1

    later = NOW + 3600.0
    assert recent_of([row(counts, later + 60)], later + 60).last(MINUTES).count == 0
    assert row(counts, later + 60) == {"minutes": [], "tasks": []}


def test_what_is_added_up_again_and_again_is_what_is_added_up_at_once() -> None:
    """Of rows that are told anew only what changed is added, and what they do not tell any more is taken away."""
    rng, sums, workers = random.Random(7), AddedUp(), [RecentCounts() for _ in range(4)]
    told: dict[str, object] = {}
    for step in range(80):
        minute, number = MINUTE + step, rng.randrange(len(workers))
        for _ in range(rng.randrange(4)):
            task = f"proj.task{rng.randrange(5)}"
            counted(workers[number], minute, task, "default", rng.randrange(5), rng.randrange(2), rng.random())
        told[str(number)] = row(workers[number], 60.0 * minute)
        if rng.random() < 0.1:
            told[str(number)] = rng.choice([None, {"minutes": [["what"]]}, {"tasks": [["a", "b", [1], None]]}])
        elif rng.random() < 0.1:
            del told[str(number)]
        sums.keep(told)
        for key, each in told.items():
            sums.tell(key, each)

        assert sums.recent(60.0 * minute) == recent_of(told.values(), 60.0 * minute)
