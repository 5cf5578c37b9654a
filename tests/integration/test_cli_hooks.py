"""Signals and worker lifespans on the command line, where a process has more to tell than a worker alone."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Final

import pytest

from .shells import Shell

HOOKED: Final = """
import asyncio
import logging
import sys
from pathlib import Path

from aiotq import AioTQ, signals

app = AioTQ("hooked", broker="sqlite:///hooked.db")


def note(text):
    with Path("story").open("a") as story:
        story.write(f"{text}\\n")


@app.task
async def add(x, y):
    note("a task runs")
    return x + y


@app.worker_lifespan
async def resource():
    note("opened")
    yield 7
    note("closed")


@signals.celeryd_init.connect(sender="anna")
def configure(instance, conf, options, **more):
    note(f"celeryd_init {instance.name} {options.concurrency}")
    conf.worker_lease = 20.0  # nothing is connected yet


@signals.worker_init.connect
def begun(sender, **more):
    note(f"worker_init {sender.name}")


@signals.worker_ready.connect
async def ready(sender, **more):
    await asyncio.sleep(0)
    note("worker_ready")


@signals.worker_shutting_down.connect
def stopping(sig, how, exitcode, **more):
    note(f"worker_shutting_down {sig} {how} {exitcode}")


@signals.worker_shutdown.connect
def stopped(**more):
    note("worker_shutdown")
"""

LOGGING: Final = """

@signals.setup_logging.connect
def set_up(loglevel, **more):
    logging.basicConfig(level=loglevel, format="THEIRS %(message)s", stream=sys.stderr)
"""

MORE_LOGGING: Final = """

@signals.after_setup_logger.connect
def add_to(logger, loglevel, **more):
    note(f"after_setup_logger {logger.name} {loglevel}")


@signals.after_setup_task_logger.connect
def add_to_tasks(logger, **more):
    note(f"after_setup_task_logger {logger.name}")
"""

BROKEN: Final = """

@app.worker_lifespan
async def broken():
    raise ConnectionError("no database")
    yield
"""


def hooked(directory: Path, more: str = "") -> Shell:
    (directory / "hooked.py").write_text(HOOKED + more)
    return Shell(directory)


def story(shell: Shell) -> list[str]:
    return (shell.directory / "story").read_text().splitlines()


async def test_a_workers_process_tells_its_life_in_order(tmp_path: Path) -> None:
    shell = hooked(tmp_path, MORE_LOGGING)
    shell.output("call", "hooked:app", "hooked.add", "--args", "[2, 2]")
    async with shell.started("worker", "hooked:app", "-n", "anna", "-c", "7") as worker:
        await worker.line("succeeded")
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0, worker.text
    assert story(shell) == [
        "after_setup_logger root 20",
        "after_setup_task_logger aiotq.task",
        "celeryd_init anna 7",
        "worker_init anna",
        "opened",
        *sorted(["worker_ready", "a task runs"], key=story(shell).index),
        "worker_shutting_down SIGTERM Warm 0",
        "worker_shutdown",
        "closed",
    ]


async def test_an_app_may_set_up_logging_itself(tmp_path: Path) -> None:
    shell = hooked(tmp_path, LOGGING)
    async with shell.started("worker", "hooked:app", "--no-banner") as worker:
        await worker.line("^THEIRS .*is ready")
        worker.send(signal.SIGTERM)
        assert await worker.ended() == 0, worker.text
    lines = worker.text.splitlines()
    assert [line for line in lines if not line.startswith("THEIRS ")] == []


@pytest.mark.parametrize("words", [(), ("--workers", "2")])
def test_a_lifespan_that_fails_ends_the_worker_with_the_reason(tmp_path: Path, words: tuple[str, ...]) -> None:
    shell = hooked(tmp_path, BROKEN)

    complaint = shell.error("worker", "hooked:app", *words)

    assert "worker lifespan hooked.broken failed at the worker's start: ConnectionError: no database" in complaint
    assert "worker_ready" not in story(shell)
