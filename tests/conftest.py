"""What every test must leave behind: nothing that still runs.

The checks of threads and tasks are autouse, so they are set up before a test's other fixtures and look after those were
torn down: a service that a fixture stops is no leak. What a fixture of a wider scope started is there before the
test, and is not counted.
"""

from __future__ import annotations

import asyncio
import compileall
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest

import aiotq

from .forked import close_forked
from .servers import close_shared, take_back_schemas
from .watchdog import no_process_left, pytest_configure, pytest_runtest_teardown, pytest_sessionfinish

__all__ = ["no_process_left", "pytest_configure", "pytest_runtest_teardown", "pytest_sessionfinish"]

# Started in the background by a shell, we have SIGINT ignored, and SIGHUP by nohup; every process that a test starts
# would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# A process that tests start would compile what it imports, where it may not write down what comes of it
# (PYTHONDONTWRITEBYTECODE): half of its start, and there are a thousand of them.
if "PYTEST_XDIST_WORKER" not in os.environ:
    compileall.compile_dir(Path(aiotq.__file__).parent, quiet=2)

# How long an example takes is the machine's business, which may have much else to do.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")

#: A task that was told to end needs a few turns of the loop to do it; one that waits for something stays.
LAST_TURNS = 10
#: A thread that was told to end needs a moment. Seconds, for all of a test's threads together.
LAST_MOMENT = 2.0


@pytest.fixture(autouse=True, scope="session")
def _end_servers(no_process_left: None) -> Iterator[None]:
    """End the servers that tests of this process shared, and what forked their programs."""
    with ExitStack() as at_the_end:
        at_the_end.callback(close_forked)
        at_the_end.callback(close_shared)
        yield


@pytest.fixture(autouse=True)
def _reuse_schemas() -> Iterator[None]:
    """Let the next test have the tables that this one used: to make them takes a tenth of a second."""
    yield
    take_back_schemas()


@pytest.fixture(autouse=True)
def no_thread_left(_reuse_schemas: None) -> Iterator[None]:
    """Fail a test that leaves a thread which would keep the process from exiting."""
    before = set(threading.enumerate())

    yield

    left = [thread for thread in threading.enumerate() if thread not in before and not thread.daemon]
    for thread in left:
        thread.join(LAST_MOMENT / len(left))
    alive = [thread.name for thread in left if thread.is_alive()]
    if alive:
        pytest.fail(f"the test left threads running: {', '.join(alive)}", pytrace=False)


@pytest.fixture(autouse=True)
def no_task_left(request: pytest.FixtureRequest, no_thread_left: None) -> None:
    """Fail an async test that leaves an asyncio task running; a sync test is not given a loop for it."""
    asynchronous = request.node.get_closest_marker("asyncio")  # pytest-asyncio's auto mode sets it
    if asynchronous is None:
        return
    if asynchronous.kwargs.get("loop_scope", "function") != "function":
        pytest.fail("tests have a loop each: what is left on a shared one could not be charged to a test")
    request.getfixturevalue("_watch_loop")


@pytest.fixture
async def _watch_loop() -> AsyncIterator[None]:
    before = asyncio.all_tasks()

    yield

    for _ in range(LAST_TURNS):
        await asyncio.sleep(0)
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left:
        names = "\n  ".join(sorted(f"{task.get_name()}: {task.get_coro()!r}" for task in left))
        pytest.fail(f"the test left asyncio tasks running:\n  {names}", pytrace=False)


@pytest.fixture
def no_shared_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Apps have no tasks that other modules of tests share, and what a test shares is forgotten after it."""
    monkeypatch.setattr("aiotq.tasks.registry._shared_tasks", {})
