"""Instructions that ten paths take, counted by valgrind's cachegrind: the same whatever else the machine does.

python -m benchmarks.instructions            # count, and print each beside what is stored
python -m benchmarks.instructions --check    # the same; exits with 1 if one takes more than 5 % more
python -m benchmarks.instructions --store    # store what was counted; the commit says why

One process imports and warms up all paths, and forks one child for a size and one for twice that size of each: their
difference is the path's own. What is stored holds for one build of the interpreter; with another one, and where
valgrind is missing, there is nothing to compare with, which is said, and is no failure.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from aiotq import AioTQ, chain, chord, crontab
from aiotq.core.inside import core_of
from aiotq.wire.content_types import standard_registry
from aiotq.wire.message import Message, pack, unpack

_STORED: Final = Path(__file__).with_name("instructions.json")
#: More than a path may vary, and less than what anybody would let pass.
_TOLERANCE: Final = 0.05
_VALGRIND: Final = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
#: Seconds that all of it may take.
_TIMEOUT: Final = 500


async def _calls(size: int, *, read: bool = False) -> None:
    """Calls in bulk on memory, run here and awaited."""
    app = AioTQ("instructions", broker="memory://")

    @app.task
    async def nothing() -> None: ...

    async with app, app.events.capture() if read else nullcontext(), app.worker():
        for _ in range(0, size, 50):
            await (await app.send_many(nothing.s() for _ in range(50))).get()


async def _in_a_row(size: int) -> None:
    app = AioTQ("instructions", broker="memory://")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker():
        for x in range(size):
            await (await add.delay(x, y=1)).get()


async def _sent(size: int) -> None:
    app = AioTQ("instructions", broker="memory://")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app:
        for x in range(size):
            await add.delay(x, y=1)


async def _failing(size: int) -> None:
    app = AioTQ("instructions", broker="memory://")

    @app.task(autoretry_for=(KeyError,), max_retries=1, default_retry_delay=0.0)
    async def fail() -> None:
        raise KeyError("nothing")

    async with app, app.worker():
        for _ in range(size):
            with suppress(KeyError):
                await (await fail.delay()).get()


async def _chains(size: int) -> None:
    app = AioTQ("instructions", broker="memory://")

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    async with app, app.worker():
        for _ in range(size):
            await (await chain(add.s(1, 1), *(add.s(1) for _ in range(4))).delay()).get()


async def _chords(size: int) -> None:
    app = AioTQ("instructions", broker="memory://")

    @app.task
    async def one() -> int:
        return 1

    @app.task
    async def total(numbers: list[int]) -> int:
        return sum(numbers)

    async with app, app.worker():
        for _ in range(size):
            await (await chord([one.s() for _ in range(10)], total.s()).delay()).get()


def _packed(size: int) -> None:
    message = Message("01a22e1d-1db7-79bd-a1ae-e1d1c373ba20", "proj.add", b"[[2,2],{},{}]", reply_to="ab", sent_at=1e9)
    for _ in range(size):
        unpack(pack(message))


def _documents(size: int) -> None:
    codec = core_of(AioTQ("instructions", broker="memory://")).codec
    for _ in range(size):
        codec.encode("01a22e1d", "SUCCESS", {"rows": [1, 2.5, "three"]}, done_at=1e9, worker="w", name="proj.add")


def _serialized(size: int) -> None:
    value: Any = {"orders": [{"id": n, "at": datetime(2026, 1, 1, tzinfo=UTC), "sum": 1.5} for n in range(3)]}
    registry = standard_registry()
    for name in ("json", "msgpack"):
        serializer = registry.get(name)
        for _ in range(size):
            serializer.decode(serializer.encode(value))


def _crontabs(size: int) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    schedule = crontab("*/7", "2-5", day_of_week="mon-fri")
    for _ in range(size):
        due = schedule.next(now, UTC)
        assert due is not None
        now = due


#: By name: what is done, and how often for the smaller count.
PATHS: Final[dict[str, tuple[Callable[[int], Any], int]]] = {
    "a call in bulk": (_calls, 200),
    "a call in bulk, events read": (lambda size: _calls(size, read=True), 200),
    "a call in a row": (_in_a_row, 100),
    "a call sent": (_sent, 200),
    "a call that fails twice": (_failing, 50),
    "a chain of five": (_chains, 30),
    "a chord of ten": (_chords, 15),
    "a message packed and read": (_packed, 1000),
    "a result document": (_documents, 1000),
    "a value in json and msgpack": (_serialized, 300),
    "the next time of a crontab": (_crontabs, 300),
}


def counting() -> None:
    """Run under valgrind: fork the children that are counted, and say which is which."""
    for do, _ in PATHS.values():  # warm: what is made once for a process is in neither count
        _do(do, 50)
    for name, (do, size) in PATHS.items():
        for times in (1, 2):
            sys.stdout.flush()
            child = os.fork()
            if child == 0:
                gc.collect()
                _do(do, size * times)
                os._exit(0)
            os.waitpid(child, 0)
            print(json.dumps([child, name, times, size]), flush=True)


def _do(do: Callable[[int], Any], size: int) -> None:
    if asyncio.iscoroutine(work := do(size)):
        asyncio.run(work)


def counted() -> dict[str, float]:
    """Return the instructions of each path, once."""
    done = subprocess.run(
        [*_VALGRIND, sys.executable, "-m", "benchmarks.instructions", "--counting"],
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
        timeout=_TIMEOUT,
    )
    refs = {
        int(pid): int(count.replace(",", ""))
        for pid, count in re.findall(r"==(\d+)== I\s+refs:\s+([\d,]+)", done.stderr)
    }
    counts: dict[str, dict[int, int]] = {}
    sizes: dict[str, int] = {}
    for line in done.stdout.splitlines():
        pid, name, times, size = json.loads(line)
        counts.setdefault(name, {})[times] = refs[pid]
        sizes[name] = size
    return {name: (both[2] - both[1]) / sizes[name] for name, both in counts.items()}


def build() -> str:
    """Name what an instruction count depends on, beside our own code."""
    flags = sysconfig.get_config_var("CONFIG_ARGS") or ""
    return f"{platform.machine()} {sys.version} {flags}".replace("\n", " ")


def main(words: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit with 1 if a path takes more than 5 %% more")
    parser.add_argument("--store", action="store_true", help="store what was counted")
    parser.add_argument("--counting", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.counting:
        counting()
        return 0
    stored: dict[str, Any] = json.loads(_STORED.read_text()) if _STORED.exists() else {}
    if given.check and (shutil.which("valgrind") is None or stored.get("build") != build()):
        why = "valgrind is not installed" if shutil.which("valgrind") is None else "another build of the interpreter"
        print(f"instructions are not compared: {why}; stored are those of {stored.get('build')}")
        return 0
    found = counted()
    known = stored.get("instructions", {}) if stored.get("build") == build() else {}
    if given.check and report(found, known, quiet=True):  # what only happens now and then is no growth
        found = {name: min(count, found[name]) for name, count in counted().items()}
    if given.store:
        _STORED.write_text(
            json.dumps({"build": build(), "instructions": {n: round(c) for n, c in found.items()}}, indent=1) + "\n"
        )
        return 0
    return report(found, known)


def report(found: dict[str, float], stored: dict[str, float], *, quiet: bool = False) -> int:
    """Print each count beside what is stored; return 1 if one is too large, or there is none to compare it with."""
    status = 0
    for name, count in found.items():
        known = stored.get(name)
        more = count / known - 1 if known else None
        grew = stored and (more is None or more > _TOLERANCE)
        status = 1 if grew else status
        change = "not stored" if more is None else f"{100 * more:+.1f} %"
        if not quiet:
            print(f"{name:30} {count:12,.0f}  {change}{'  GREW' if grew else ''}")
    if status and not quiet:
        print("A path takes more than it did. If that is meant: python -m benchmarks.instructions --store")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
