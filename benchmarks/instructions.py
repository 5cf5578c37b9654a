"""Instructions that a no-op call takes on memory, sent, run and awaited: with the code for events off, without it, on.

python -m benchmarks.instructions [CALLS]

It needs valgrind, which counts the same whatever else the machine does, and takes a minute for 2,000 calls.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import Final

from aiotq import AioTQ
from aiotq.worker.events import WorkerEvents

#: Calls that are under way at a time.
_AT_ONCE: Final = 100
_VALGRIND: Final = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
#: What is counted: events as they are by default, without any of their code in the worker, and with a reader.
KINDS: Final = ("off", "absent", "read")


async def run(kind: str, size: int) -> None:
    """Send `size` calls and await them."""
    if kind == "absent":
        setattr(WorkerEvents, "run", _for_ever)  # noqa: B010  # it has a type of its own
    app = AioTQ("instructions", broker="memory://")

    @app.task
    async def nothing() -> None: ...

    reader: AbstractAsyncContextManager[object] = app.events.capture() if kind == "read" else nullcontext()
    async with app, reader, app.worker():
        for _ in range(0, size, _AT_ONCE):
            results = await app.send_many(nothing.s() for _ in range(_AT_ONCE))
            await results.get()


async def _for_ever(_: WorkerEvents) -> None:
    await asyncio.Event().wait()


def counted(kind: str, size: int) -> int:
    """Return the instructions of a process that runs `size` calls."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [*_VALGRIND, sys.executable, "-m", "benchmarks.instructions", kind, str(size)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1].replace(",", ""))


def main(words: list[str]) -> None:
    if words[:1] and words[0] in KINDS:
        asyncio.run(run(words[0], int(words[1])))
        return
    size = int(words[0]) if words else 2_000
    a_call = {kind: (counted(kind, 2 * size) - counted(kind, size)) / size for kind in KINDS}
    for kind, count in a_call.items():
        print(f"events {kind}: {count:,.0f} instructions a call ({100 * (count / a_call['absent'] - 1):+.2f} %)")


if __name__ == "__main__":
    main(sys.argv[1:])
