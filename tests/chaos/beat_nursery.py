"""Keeps so many schedulers running, each a process that can be killed: forked, since one that is started takes longer.

python -m tests.chaos.beat_nursery COUNT
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys

from .beat_app import app


def main(count: int) -> int:
    """Return how many of those that were asked to end failed."""
    logging.basicConfig(level="INFO", format="%(process)d %(message)s")
    ours, theirs = os.pipe()  # the children end when this process is gone
    children: set[int] = set()
    stopping: list[int] = []

    def stop(number: int, _: object) -> None:
        stopping.append(number)
        for child in children:
            os.kill(child, signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    failed = 0
    while True:
        while len(children) < count and not stopping:
            children.add(_fork(ours, theirs))
        ended, status = os.wait()
        children.discard(ended)
        failed += bool(stopping and status)
        if stopping and not children:
            return failed


def _fork(ours: int, theirs: int) -> int:
    child = os.fork()
    if child:
        return child
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = 1
    try:
        os.close(theirs)
        asyncio.run(_schedule(ours))
        code = 0
    finally:
        os._exit(code)


async def _schedule(ours: int) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, asked.set)
    loop.add_reader(ours, asked.set)
    async with app.beat():
        logging.getLogger("beat").info("is ready")
        await asked.wait()
        loop.remove_reader(ours)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))
