"""Soft time limits of functions in threads: what they leave behind in the interpreter, which is nothing."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest

from aiotq.exceptions import SoftTimeLimitExceeded
from aiotq.tasks.soft_time_limits import SoftLimitedThread

#: A limit that has struck, and then code that is traced. On Python 3.11 that would never go on.
TRACED = """
import sys, threading
from aiotq.exceptions import SoftTimeLimitExceeded
from aiotq.tasks.soft_time_limits import SoftLimitedThread

is_running = threading.Event()

def work():
    try:
        is_running.set()
        while True:
            pass
    except SoftTimeLimitExceeded:
        return "struck"

limited = SoftLimitedThread(work, 0.01)
threading.Thread(target=lambda: (is_running.wait(), limited.ring())).start()
assert limited.run() == "struck"
sys.settrace(lambda frame, event, argument: None)

def traced():
    return "traced"

print(traced())
"""


def test_code_that_is_traced_goes_on_after_a_limit_struck() -> None:
    done = subprocess.run([sys.executable, "-c", TRACED], capture_output=True, text=True, timeout=20, check=False)

    assert (done.stdout, done.stderr) == ("traced\n", "")


def test_a_limit_that_rings_as_the_function_ends_is_raised_once_or_not_at_all() -> None:
    for _ in range(200):
        is_running = threading.Event()
        limited = SoftLimitedThread(is_running.set, 0.0)
        ringing = threading.Thread(target=lambda limited=limited, running=is_running: (running.wait(), limited.ring()))
        ringing.start()
        try:
            limited.run()
        except SoftTimeLimitExceeded:
            pass
        finally:
            ringing.join(5)


def test_one_that_rings_before_the_function_began_keeps_it_from_running() -> None:
    limited = SoftLimitedThread(lambda: pytest.fail("it ran"), 0.5)
    limited.ring()

    with pytest.raises(SoftTimeLimitExceeded, match=r"soft time limit of 0\.5 s exceeded"):
        limited.run()
