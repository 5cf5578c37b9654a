"""Run tests while processes of theirs stand still now and then, as on a machine with too much to do.

    python scripts/standstills.py [--seconds 2] [--every 5] -- .venv/bin/python -m pytest -n 2 tests/chaos

Again and again one process below the command, or all of them, is stopped for some seconds and goes on then: the test
itself, a worker, a server. A test that fails of it races with something: mend the test, or what it found. What was
stopped, and when, is written to standard error. Linux only.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

#: How often all of them stand still, and not one.
ALL = 0.25


def main() -> int:
    """Return the exit code of the command."""
    options = argparse.ArgumentParser(description="Run tests while processes of theirs stand still now and then.")
    options.add_argument("--seconds", type=float, default=2.0, help="for how long (%(default)s)")
    options.add_argument("--every", type=float, default=5.0, help="the longest time between two (%(default)s)")
    options.add_argument("command", nargs="+")
    given = options.parse_args()
    running = subprocess.Popen(given.command)
    try:
        while running.poll() is None:
            time.sleep(random.uniform(0.2, given.every))
            if there := below(running.pid):
                stand_still(there if random.random() < ALL else [random.choice(there)], given.seconds)
    except KeyboardInterrupt:
        pass  # it had it too
    return running.wait()


def below(pid: int) -> list[int]:
    """The processes below `pid` that are not stopped already. Source: proc(5), /proc/pid/stat."""
    children: dict[int, list[tuple[int, str]]] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, parent = place.read_text().rpartition(")")[2].split()[:2]
            children.setdefault(int(parent), []).append((int(place.parent.name), state))
    found, left = list[int](), [pid]
    while left:
        for child, state in children.get(left.pop(), []):
            left.append(child)
            if state not in "TZ":
                found.append(child)
    return found


def stand_still(pids: list[int], seconds: float) -> None:
    what = words_of(pids[0]) if len(pids) == 1 else f"all {len(pids)}"
    print(f"{time.strftime('%H:%M:%S')} standing still for {seconds:g} s: {what}", file=sys.stderr, flush=True)
    try:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def words_of(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").replace("\0", " ")
    except OSError:  # it ended just now
        words = ""
    return f"{pid} {words[:100]}"


if __name__ == "__main__":
    sys.exit(main())
