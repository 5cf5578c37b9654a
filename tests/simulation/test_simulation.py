"""The simulation itself, in processes of its own: what it does to clocks and threads is not undone (P1 to P9)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from .breaks import BREAKS
from .plan import from_json, plan_of, smaller

ROOT = Path(__file__).parents[2]


def simulate(*words: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m tests.simulation` to its end."""
    path = os.pathsep.join(filter(None, (str(ROOT / "src"), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "tests.simulation", *words]
    environment = os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_no_promise_is_broken_in_the_worlds_of_some_seconds() -> None:
    """`make simulate` runs twenty thousand. A failing seed is printed, with how to run it again."""
    ended = simulate("--seconds", os.environ.get("TEST_SIMULATION_SECONDS", "6"), "--jobs", "1")

    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = re.search(r"^(\d+) worlds, .* 0 broken promises", ended.stdout, re.MULTILINE)
    assert found is not None, ended.stdout
    assert int(found[1]) > 0


def test_a_seed_gives_the_same_trace_each_time_and_so_does_its_plan() -> None:
    seed = next(seed for seed in range(100) if len(plan_of(seed).faults) > 3)

    first, planned = simulate("--seed", str(seed)), simulate("--plan", plan_of(seed).as_json())

    assert first.returncode == 0, first.stdout + first.stderr
    assert "accepted" in first.stdout
    assert first.stdout == planned.stdout


def test_each_way_to_break_the_code_is_found() -> None:
    ended = simulate("--breaks")

    assert f"{len(BREAKS)} of {len(BREAKS)} breaks are found" in ended.stdout, ended.stdout + ended.stderr


def test_a_plan_is_made_smaller_as_long_as_it_fails() -> None:
    plan = next(plan for seed in range(100) if len((plan := plan_of(seed)).faults) > 3 and len(plan.calls) > 2)
    guilty, call = plan.faults[1], plan.calls[1]

    small = smaller(plan, lambda each: guilty in each.faults and call in each.calls)

    assert (small.faults, small.calls, small.schedulers, small.workers) == ((guilty,), (call,), 0, 1)
    assert from_json(small.as_json()) == small
