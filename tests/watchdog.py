"""What ends a test that does not end by itself, and whatever it started.

First pytest-timeout raises in it, which shows where it is, and the test process goes on. That may not help: asyncio
gives the exception to whatever it runs at that moment, hypothesis begins to look for a smaller example, a task may
refuse to be cancelled, a thread may be in C. Then `faulthandler` writes the stacks of all threads and ends the process
(`faulthandler_timeout`). pytest-xdist reports the test as failed and starts another process, and the keeper ends what
the old one had started.

`conftest.py` has these hooks and the fixture from here.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from collections.abc import Generator, Iterator
from typing import Final

import pytest

from .keeper import Keeper, memory_for_files

#: Standard error as it was before the output of tests was captured.
_STDERR: Final = pytest.StashKey[int]()


def pytest_configure(config: pytest.Config) -> None:
    assert sys.__stderr__ is not None
    config.stash[_STDERR] = os.dup(sys.__stderr__.fileno())
    if (memory := memory_for_files()) is not None:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", memory)  # where `tmp_path` is


def _end_when_stuck(config: pytest.Config) -> None:
    """Show all stacks and end this process unless it has gone on within `faulthandler_timeout`."""
    seconds = float(config.getini("faulthandler_timeout"))
    faulthandler.dump_traceback_later(seconds, exit=True, file=config.stash[_STDERR])


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> Generator[None, object, object]:
    """Watch the teardown of a test that failed: pytest and pytest-timeout stop watching a test when it has failed."""
    _end_when_stuck(item.config)
    return (yield)  # pytest stops it


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None, object, object]:
    """Watch the end of a process that runs tests: what fixtures of the session do there, and Python at its exit."""
    if session.config.getoption("dist", "no") != "no":  # here others run them
        return (yield)
    _end_when_stuck(session.config)
    try:
        return (yield)
    finally:
        if hasattr(session.config, "workerinput"):  # one of several, which now waits for them
            faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True, scope="session")
def no_process_left() -> Iterator[None]:
    """Fail a session that leaves a process running, and end that."""
    with Keeper() as keeper:
        yield
        left = keeper.left()
    if left:
        pytest.fail(f"tests left processes running: {', '.join(left)}", pytrace=False)
