"""P9: however many schedulers run and whatever is killed, each due occurrence of a periodic task is sent once."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import defaultdict
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import pytest

from ..waiting import wait_until
from . import beat_app, beat_nursery
from .harness import PATIENCE, SLACK, Chaos, Process

#: Schedulers that are killed in one test; more by the environment.
KILLS: Final = int(os.environ.get("TEST_CHAOS_KILLS", "8"))
#: Seconds of a lease that makes take-overs quick. Who loses it although it lives is taken over from as well.
_SHORT_LEASE: Final = 0.4
#: Seconds of that of which the end is looked at.
_LEASE: Final = 1.5
_LIVE: Final = re.compile(r"^(\d+) scheduler \S+ is live:", re.MULTILINE)

pytestmark = pytest.mark.parametrize("backend", ["sqlite", "redis", "postgres", "rabbitmq"], indirect=True)


def start(chaos: Chaos) -> Process:
    return chaos.start("-m", "aiotq", "beat", f"{beat_app.__name__}:app", name="beat", AIOTQ_WORKER_LEASE=_LEASE)


def occurred(chaos: Chaos) -> dict[str, list[datetime]]:
    """The due times of all runs so far, by entry, sorted."""
    found: dict[str, list[datetime]] = defaultdict(list)
    for fact in chaos.seen("occurred"):
        name, due = fact.detail
        found[name].append(datetime.fromisoformat(due))
    return {name: sorted(dues) for name, dues in found.items()}


def check(chaos: Chaos) -> None:
    """Nothing was missed between the first and the last occurrence of an entry, and nothing came twice."""
    found = occurred(chaos)
    assert len(found) == beat_app.ENTRIES
    for name, dues in found.items():
        steps = {later - sooner for sooner, later in pairwise(dues)}
        assert steps == {timedelta(seconds=beat_app.EVERY)}, f"{name}: {len(dues)} runs"


async def test_three_schedulers_that_are_killed_at_random_miss_nothing_and_double_nothing(chaos: Chaos) -> None:
    chaos.start("-m", "aiotq", "worker", f"{beat_app.__name__}:app", name="worker")
    schedulers = chaos.start("-m", beat_nursery.__name__, "3", name="schedulers", AIOTQ_WORKER_LEASE=_SHORT_LEASE)
    await chaos.sees("occurred", count=beat_app.ENTRIES)

    killed = 0
    while killed < KILLS:
        before = len(chaos.seen("occurred"))
        await chaos.sees("occurred", count=before + chaos.random.randint(1, beat_app.ENTRIES))
        await asyncio.sleep(chaos.random.uniform(0, 0.02))  # a random moment is the point
        # Most often the live one: who waits has nothing to lose.
        running = [
            int(pid) for pid in Path(f"/proc/{schedulers.pid}/task/{schedulers.pid}/children").read_text().split()
        ]
        live = [int(pid) for pid in _LIVE.findall(schedulers.said) if int(pid) in running]
        with suppress(ProcessLookupError):  # the one that was killed last, and was not gone yet
            os.kill(live[-1] if live and chaos.random.random() < 0.8 else chaos.random.choice(running), signal.SIGKILL)
            killed += 1

    before = len(chaos.seen("occurred"))
    await chaos.sees("occurred", count=before + 4 * beat_app.ENTRIES)
    schedulers.terminate()
    assert await schedulers.ended() == 0
    await _all_ran(chaos)
    check(chaos)


async def test_one_that_waits_takes_over_within_a_lease_and_two_seconds(chaos: Chaos) -> None:
    chaos.start("-m", "aiotq", "worker", f"{beat_app.__name__}:app", name="worker")
    first = start(chaos)
    await first.says("is live:")
    second = start(chaos)
    await second.says("is ready")
    await chaos.sees("occurred", count=2 * beat_app.ENTRIES)

    killed = time.monotonic()
    first.kill()
    await second.says("is live:")

    assert time.monotonic() - killed < _LEASE + 2 + SLACK
    before = len(chaos.seen("occurred"))
    await chaos.sees("occurred", count=before + 4 * beat_app.ENTRIES)
    second.terminate()
    assert await second.ended() == 0
    await _all_ran(chaos)
    check(chaos)


async def _all_ran(chaos: Chaos) -> None:
    """Return when each entry has as many runs as any other: nothing is on its way any more.

    What was sent before others and runs behind them is waited for: a machine with much else to do is slow, and loses
    nothing. What is lost never comes, and `check` says so.
    """

    def has_no_gap() -> bool:
        steps = [later - sooner for dues in occurred(chaos).values() for sooner, later in pairwise(dues)]
        return max(steps) <= timedelta(seconds=beat_app.EVERY)

    def are_level(before: dict[str, int]) -> bool:
        counts = {name: len(dues) for name, dues in occurred(chaos).items()}
        is_quiet = counts == before
        before.clear()
        before.update(counts)
        return is_quiet and len(counts) == beat_app.ENTRIES

    with suppress(pytest.fail.Exception):  # `check` names what is missing
        await wait_until(has_no_gap, "nothing between runs is missing", PATIENCE)
    last: dict[str, int] = {}
    for _ in range(3):
        await wait_until(partial(are_level, last), "all that was sent ran", PATIENCE)
        await asyncio.sleep(0.3)  # longer than a message takes to be run
