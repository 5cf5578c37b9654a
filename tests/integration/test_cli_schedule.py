"""`aiotq schedule`, `aiotq beat` and `aiotq worker --beat`, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ..forked import run_aiotq
from ..waiting import wait_until

PROJECT = """
from pathlib import Path
from aiotq import AioTQ, crontab

app = AioTQ("proj", worker_lease=2.0)

@app.periodic(0.2, expires=None)
@app.task
async def tick() -> None:
    with Path("ticks").open("a") as file:
        file.write("x")

@app.periodic(crontab(hour=7, minute=0), timezone="Asia/Tokyo", name="in tokyo")
@app.task
async def morning() -> None: ...
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "proj.py").write_text(PROJECT)
    return tmp_path


def aiotq(project: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return run_aiotq(words, project, os.environ, timeout=60)


def said(project: Path, *words: str) -> str:
    ended = aiotq(project, *words)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@contextmanager
def running(project: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen([sys.executable, "-m", "aiotq", *words], cwd=project, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=30)


def ticks(project: Path) -> int:
    return len((project / "ticks").read_text()) if (project / "ticks").exists() else 0


async def test_a_worker_with_beat_sends_and_stops_cleanly(project: Path) -> None:
    with running(project, "worker", "proj:app", "-B", "--no-banner") as process:
        await wait_until(lambda: ticks(project) >= 3, "three ticks", timeout=30)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)

    assert process.returncode == 0, log
    assert "is live: 2 periodic tasks" in log


async def test_beat_sends_and_stops_cleanly(project: Path) -> None:
    with running(project, "beat", "proj:app") as beat, running(project, "worker", "proj:app"):
        await wait_until(lambda: ticks(project) >= 3, "three ticks", timeout=30)
        beat.send_signal(signal.SIGINT)
        _, log = beat.communicate(timeout=30)

    assert beat.returncode == 0, log
    assert "stopped" in log
    assert "Traceback" not in log


def test_a_periodic_task_is_added_shown_paused_resumed_fired_and_removed(project: Path) -> None:
    app = "proj:app"
    cron = ("--cron", "0 7 * * *", "--timezone", "Europe/Berlin", "--misfire", "1h", "--overlap", "skip")
    assert "next due" in said(project, "schedule", "add", app, "mine", "proj.morning", *cron)

    listed: list[dict[str, Any]] = json.loads(said(project, "schedule", "list", app, "--json"))
    assert [each["name"] for each in listed] == ["in tokyo", "mine", "proj.tick"]
    (mine,) = [each for each in listed if each["name"] == "mine"]
    assert (mine["source"], mine["timezone"], mine["policy"]) == ("runtime", "Europe/Berlin", {"misfire": 3600.0})
    assert "in tokyo" in said(project, "schedule", "list", app)
    assert "crontab(minute='0', hour='7')" in said(project, "schedule", "show", app, "mine")

    assert "paused" in said(project, "schedule", "pause", app, "mine")
    assert "(paused)" in said(project, "schedule", "list", app)
    assert "resumed" in said(project, "schedule", "resume", app, "mine")
    assert len(said(project, "schedule", "fire", app, "mine").strip()) == 36
    assert "removed" in said(project, "schedule", "remove", app, "mine", "--yes")
    ended = aiotq(project, "schedule", "show", app, "mine")
    assert (ended.returncode, "no periodic task's" in ended.stderr) == (1, True)


@pytest.mark.parametrize(
    "words",
    [
        ("-A", "proj", "schedule", "list"),
        ("schedule", "-A", "proj:app", "list"),
        ("schedule", "list", "-A", "proj"),
        ("schedule", "list", "proj:app"),
        ("schedule", "proj:app", "list"),
        ("schedule", "-b", "memory://", "proj", "list"),
        ("dead", "-A", "proj", "list"),
        ("dead", "proj", "list"),
    ],
)
def test_the_app_may_be_named_before_the_command_of_a_group_and_behind_it(
    project: Path, words: tuple[str, ...]
) -> None:
    assert ("proj.tick" if "schedule" in words else "no dead letters") in said(project, *words)


def test_the_next_occurrences_are_printed_in_their_zone(project: Path) -> None:
    lines = said(project, "schedule", "next", "proj:app", "3", "--name", "in tokyo").splitlines()

    assert len(lines) == 4
    assert all("07:00:00 JST" in line for line in lines[1:])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "proj:app", "a", "proj.morning"), "when? Give one of --cron"),
        (("add", "proj:app", "a", "proj.morning", "--cron", "61 * * * *"), "minute"),
        (("add", "proj:app", "a", "proj.morning", "--cron", "0 0 30 2 *"), "never"),
        (("add", "proj:app", "a", "proj.mornin", "--every", "1h"), "did you mean 'proj.morning'"),
        (("add", "proj:app", "a", "proj.morning", "--every", "1h", "--args", "[1]"), "can't be called so"),
        (("add", "proj:app", "in tokyo", "proj.morning", "--every", "1h"), "another one's"),
        (("next", "proj:app", "many"), "is not a number of occurrences"),
        (("lst", "proj:app"), "No such command 'lst'"),
        (("proj:app", "lst"), "No such command 'lst'"),
        (("remove", "proj:app", "proj.tick", "--yes"), "in code"),
    ],
)
def test_wrong_words_are_answered(project: Path, words: tuple[str, ...], said: str) -> None:
    ended = aiotq(project, "schedule", *words)

    assert ended.returncode in {1, 2}
    assert said in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
