"""What the children in test_process_pool run: importable by name, as tasks are."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from aiotq.exceptions import SoftTimeLimitExceeded


def add(x: int, y: int) -> int:
    return x + y


def pid() -> int:
    return os.getpid()


def burn(seconds: float) -> tuple[int, float, float]:
    """Compute for `seconds`; say who did, from when to when."""
    start = time.monotonic()
    x = 1
    while time.monotonic() - start < seconds:
        x = x * 31 % 1_000_003
    return os.getpid(), start, time.monotonic()


def announce(where: str) -> None:
    """Write the process's id to the file `where`, which is not there before it is whole."""
    Path(where + ".part").write_text(str(os.getpid()))
    Path(where + ".part").rename(where)


def announce_and_burn(where: str) -> None:
    announce(where)
    burn(60)


def announce_and_wait(where: str, release: str) -> int:
    announce(where)
    while not Path(release).exists():
        time.sleep(0.005)
    return os.getpid()


def burn_together(seconds: float, mine: str, others: str) -> tuple[int, float, float]:
    """As `burn`, when the other one is there too."""
    announce(mine)
    while not Path(others).exists():
        time.sleep(0.001)
    return burn(seconds)


#: A program which announces itself in the file that is its argument.
PROGRAM = ["/bin/sh", "-c", 'echo $$ > "$0.part"; mv "$0.part" "$0"; exec sleep 60']


def start_a_program(where: str) -> None:
    subprocess.run([*PROGRAM, where], check=True)


def leave_a_program_behind(where: str) -> None:
    subprocess.Popen([*PROGRAM, where])
    while not Path(where).exists():
        time.sleep(0.01)
    os._exit(7)


def die(exit_code: int) -> None:
    os._exit(exit_code)


def die_by(signal_number: int) -> None:
    os.kill(os.getpid(), signal_number)
    time.sleep(60)


def fork_and_die(where: str) -> None:
    """Leave a forked process in a session of its own, which has copies of all that this one had open."""
    if os.fork() == 0:
        os.setsid()
        announce_and_burn(where)
    while not Path(where).exists():
        time.sleep(0.01)
    os._exit(7)


def close_everything() -> None:
    os.closerange(3, 1000)
    time.sleep(60)


def use_multiprocessing() -> int:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(pid)


def catch_the_soft_limit() -> str:
    try:
        burn(60)
    except SoftTimeLimitExceeded:
        return "cleaned up"
    return "never interrupted"


def ignore_the_soft_limit(where: str) -> None:
    announce(where)
    while True:
        try:
            burn(60)
        except SoftTimeLimitExceeded:
            continue


async def aadd(x: int, y: int) -> int:
    await asyncio.sleep(0)
    return x + y


async def araise(error: BaseException) -> None:
    raise error


async def catch_the_soft_limit_awaiting() -> tuple[str, bool]:
    cleaned = False

    async def member() -> None:
        nonlocal cleaned
        try:
            await asyncio.sleep(60)
        finally:
            cleaned = True

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(member())
    except SoftTimeLimitExceeded as exc:
        await asyncio.sleep(0)  # it is over: what awaits now is not cancelled
        return str(exc), cleaned
    return "never interrupted", cleaned


async def catch_the_soft_limit_computing() -> str:
    await asyncio.sleep(0)
    try:
        burn(60)
    except SoftTimeLimitExceeded:
        await asyncio.sleep(0)
        return "cleaned up"
    return "never interrupted"


async def await_for_ever() -> None:
    await asyncio.Event().wait()


class Holder:
    @staticmethod
    def add(x: int, y: int) -> int:
        return x + y


#: What a decorator makes of a function: callable, and found where the function was.
class Called:
    def __init__(self) -> None:
        self.fn = add

    def __call__(self, *args: Any) -> int:
        return self.fn(*args)


called = Called()

value = 5


def echo(value: Any) -> Any:
    return value


def return_a_lock() -> object:
    return threading.Lock()


class Bomb:
    """Can be pickled, and not unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return explode, ()


def explode() -> None:
    raise ValueError("boom")


def return_a_bomb() -> Bomb:
    return Bomb()


#: What a task leaves behind in its child.
kept: list[bytes] = []


def grow(size: int) -> int:
    """Hold `size` bytes more; return the process's id."""
    kept.append(b"x" * size)
    return os.getpid()


class LateBomb:
    """Is found out when much of a value was sent."""

    def __init__(self, size: int) -> None:
        self.before = bytes(size)
        self.lock = threading.Lock()


def return_a_late_bomb(size: int) -> LateBomb:
    return LateBomb(size)


def peak() -> int:
    """Return the most memory that this process had, in bytes. (What getrusage tells may be from before its exec.)"""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def large(size: int) -> tuple[bytes, int]:
    """Return so many bytes, and the most memory that this process had before."""
    return b"x" * size, peak()


def length(given: bytes, before: int) -> tuple[int, int]:
    """Return how many bytes were given, and how much the most memory of this process grew for them."""
    return len(given), peak() - before


def imported(module: str) -> tuple[bool, int]:
    """Return whether a module was imported before this, and the process's parent."""
    return module in sys.modules, os.getppid()


class MandatoryArguments(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(f"error {code}")
        self.code, self.reason = code, reason


class TextFromArguments(Exception):
    """Pickle's way would make its text "error error 7"."""

    def __init__(self, code: Any) -> None:
        super().__init__(f"error {code}")


class HoldsALock(Exception):
    def __init__(self) -> None:
        super().__init__("held")
        self.lock = threading.Lock()


class NeedsItsLock(HoldsALock):
    def __str__(self) -> str:
        return f"held: {self.lock.locked()}"


def raise_mandatory_arguments() -> None:
    raise MandatoryArguments(7, reason="why")


def raise_text_from_arguments() -> None:
    raise TextFromArguments(7)


def raise_holding_a_lock() -> None:
    raise HoldsALock


def raise_needing_its_lock() -> None:
    raise NeedsItsLock


def raise_local() -> None:
    class LocalError(Exception):
        pass

    raise LocalError("from here")


def raise_chained() -> None:
    try:
        raise KeyError("the first")
    except KeyError as exc:
        error = ValueError("the second")
        error.add_note("a note")
        raise error from exc


def raise_it(error: BaseException) -> None:
    raise error


def ignored_signals() -> list[str]:
    return [s.name for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is signal.SIG_IGN]


def session_and_pid() -> tuple[int, int]:
    return os.getsid(0), os.getpid()


def say(text: str) -> None:
    print(text, end="")
