"""`import aiotq` in fresh interpreters: how long it takes, and that it brings no broker's client along."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from .figures import Benchmark, Figure, Samples

#: What only some brokers need and nobody shall pay for without them.
_CLIENTS = ("redis", "aio_pika", "aiormq", "hiredis")


async def import_time(size: int) -> Samples:
    """Start `size` interpreters which import aiotq, and in turn as many which don't; the difference is the import's.

    Modules are compiled and in the disk cache: a first, unmeasured import sees to it.
    """
    _start("import aiotq")
    pairs = [(_start("import aiotq"), _start("pass")) for _ in range(size)]
    return {
        "import aiotq": [1e3 * (ours[0] - bare[0]) for ours, bare in pairs],
        "its CPU": [1e3 * (ours[1] - bare[1]) for ours, bare in pairs],
        "bare interpreter": [1e3 * bare[0] for _, bare in pairs],
        "broker clients imported": [float(_clients_imported())],
    }


def _start(code: str) -> tuple[float, float]:
    """Run `code` in a fresh interpreter; return the seconds that passed, and those of CPU."""
    began = time.perf_counter()
    process = os.spawnv(os.P_NOWAIT, sys.executable, [sys.executable, "-c", code])
    _, status, used = os.wait4(process, 0)
    seconds = time.perf_counter() - began
    if status != 0:
        raise subprocess.CalledProcessError(os.waitstatus_to_exitcode(status), code)
    return seconds, used.ru_utime + used.ru_stime


def _clients_imported() -> int:
    code = f"import aiotq, sys; print(sum(name in sys.modules for name in {_CLIENTS}))"
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


BENCHMARKS = (
    Benchmark(
        "import",
        "fresh interpreters, less as many bare ones",
        "none",
        import_time,
        10,
        2,
        (
            Figure("import aiotq", "ms", at_most=120),
            Figure("its CPU", "ms"),
            Figure("bare interpreter", "ms"),
            Figure("broker clients imported", "", at_most=0),
        ),
    ),
)
