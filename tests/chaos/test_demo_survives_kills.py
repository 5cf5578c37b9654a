"""`kill -9` of the worker in the middle of the demo, followed by a restart, loses nothing (P1)."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

from ..waiting import wait_until
from .backends import ON_SQLITE
from .harness import LEASE, PATIENCE, ROOT, Chaos, Process

#: The demo has a file of its own.
pytestmark = ON_SQLITE

DEMO = ROOT / "examples" / "stdlib_survey"
MODULES = 120


def workers(demo: Process) -> list[int]:
    """The workers that the demo has started, the last one last."""
    return [int(pid) for pid in re.findall(r"process (\d+)", demo.said)]


async def has_started(demo: Process, count: int) -> None:
    await wait_until(lambda: len(workers(demo)) == count, f"the demo has started {count} workers", PATIENCE)


async def test_the_demo_ends_as_if_nothing_had_happened_when_its_worker_is_killed_again_and_again(
    chaos: Chaos,
) -> None:
    demo = chaos.start(
        str(DEMO / "demo.py"), "--limit", str(MODULES), name="demo", COLUMNS=200, PYTHONIOENCODING="utf-8"
    )

    for kill, tenths in enumerate((1, 3, 5, 8), start=1):
        await demo.says(f"{tenths * MODULES // 10} of {MODULES} modules")
        os.kill(workers(demo)[-1], signal.SIGKILL)
        await has_started(demo, kill + 1)
    assert await demo.ended() == 0

    assert f"{MODULES} modules, 0 failed; {3 * MODULES} tasks" in demo.said
    assert demo.said.count("The worker was killed (SIGKILL); another one runs") == 4
    assert "Worker stopped cleanly" in demo.said
    assert len(workers(demo)) == 5


async def test_a_demo_whose_workers_are_killed_before_it_has_any_answer_still_gets_all(
    chaos: Chaos, tmp_path: Path
) -> None:
    """The worker is ours here: none is there for a while, and each is killed soon after it began."""
    database = tmp_path / "survey.db"
    demo = chaos.start(
        *(str(DEMO / "demo.py"), "--no-worker", "--database", str(database), "--limit", "30"),
        name="demo",
        COLUMNS=200,
        PYTHONIOENCODING="utf-8",
    )

    for _ in range(3):
        worker = survey_worker(chaos, database)
        await worker.says(" succeeded in ")
        os.kill(worker.pid, signal.SIGKILL)
        await worker.ended()
    survey_worker(chaos, database)
    assert await demo.ended() == 0

    assert "30 modules, 0 failed; 90 tasks" in demo.said


def survey_worker(chaos: Chaos, database: Path) -> Process:
    return chaos.start(
        *("-m", "aiotq", "worker", "survey:app"),
        name="worker",
        AIOTQ_BROKER_URL=f"sqlite:///{database}",
        AIOTQ_WORKER_LEASE=LEASE,
        PYTHONPATH=os.pathsep.join((str(ROOT / "src"), str(DEMO))),
    )
