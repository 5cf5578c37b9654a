"""Instructions that a drained task takes in a worker on Redis: by what `result_index` lists, and without counting ends.

python -m benchmarks.indexed [TASKS]

It needs redis-server, and valgrind, which counts the same whatever else the machine does; two minutes for 1,000 tasks.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from typing import Final

from aiotq import AioTQ
from aiotq.worker.observers import Observers

_VALGRIND: Final = ("valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null")
#: What is counted: nothing listed (with and without the code that counts ends), failures (of which there are none),
#: all; and calls with some arguments of their own, all listed.
KINDS: Final = ("uncounted", "none", "failures", "all", "none-args", "all-args")


def _app(kind: str) -> AioTQ:
    app = AioTQ("indexed", result_index={"uncounted": "none"}.get(kind, kind.partition("-")[0]))

    @app.task(name="nothing")
    async def nothing(*args: object, **kwargs: object) -> None: ...

    return app


async def send(kind: str, size: int) -> None:
    """Send `size` calls."""
    args = (104_217, "anna@example.org") if kind.endswith("-args") else ()
    async with (app := _app(kind)):
        await app.send_many(app.tasks["nothing"].s(*args) for _ in range(size))


async def drain(kind: str, size: int) -> None:
    """Run them."""
    if kind == "uncounted":
        setattr(Observers, "count", lambda *_: None)  # noqa: B010  # it has a type of its own
    async with (app := _app(kind)), app.worker() as worker:
        while worker.completed < size:  # noqa: ASYNC110  # nobody is told
            await asyncio.sleep(0.05)


def counted(kind: str, size: int, url: str) -> int:
    """Return the instructions of a worker that drains `size` calls."""
    environment = {**os.environ, "PYTHONHASHSEED": "0", "AIOTQ_BROKER_URL": url}
    words = [sys.executable, "-m", "benchmarks.indexed"]
    subprocess.run([*words, "send", kind, str(size)], env=environment, check=True, capture_output=True)
    done = subprocess.run(
        [*_VALGRIND, *words, "drain", kind, str(size)], env=environment, capture_output=True, text=True, check=True
    )
    found = re.search(r"I\s+refs:\s+([\d,]+)", done.stderr)
    assert found is not None, done.stderr
    return int(found[1].replace(",", ""))


def main(words: list[str]) -> None:
    if words[:1] in (["send"], ["drain"]):
        asyncio.run((send if words[0] == "send" else drain)(words[1], int(words[2])))
        return
    size = int(words[0]) if words else 1_000
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with tempfile.TemporaryDirectory() as directory:
        options = ("--port", port, "--save", "", "--appendonly", "no", "--dir", directory)
        server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            time.sleep(1.0)
            found = {
                kind: (
                    counted(kind, 3 * size, f"redis://127.0.0.1:{port}/{2 * place}")
                    - counted(kind, size, f"redis://127.0.0.1:{port}/{2 * place + 1}")
                )
                / (2 * size)
                for place, kind in enumerate(KINDS)
            }
        finally:
            server.terminate()
            server.wait()
    for kind, count in found.items():
        base = found["none-args" if kind.endswith("-args") else "none"]
        print(f"{kind}: {count:,.0f} instructions a task ({100 * (count / base - 1):+.2f} %)")


if __name__ == "__main__":
    main(sys.argv[1:])
