"""What a figure means nothing without: the machine, its disk, the versions, and what else was running."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

_FSYNCS = 50
_PACKAGES = ("aiotq", "anyio", "orjson", "msgpack", "redis", "hiredis", "aio-pika", "aiormq", "pamqp", "uvloop")


def describe(directory: Path) -> dict[str, str]:
    """Return the facts, by name; `directory` is where the files of the benchmarks are kept."""
    load = " ".join(f"{value:.2f}" for value in os.getloadavg())
    kind, fsync = file_system(directory), 1e3 * fsync_seconds(directory)
    return {
        "cpu": f"{_cpu_model()}, {os.cpu_count()} cores",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 1e9:.1f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()} ({sys.executable})",
        "sqlite": sqlite3.sqlite_version,
        "redis": _redis_version(),
        "rabbitmq": _rabbitmq_version(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in _PACKAGES),
        "disk": f"{directory} ({kind}), writing and syncing 4 kB takes {fsync:.2f} ms (median of {_FSYNCS})",
        "load before": f"{load} (1, 5 and 15 minutes)",
    }


def file_system(directory: Path) -> str:
    """Return the type of the file system on which `directory` lies."""
    here = f"{directory.resolve()}/"
    found, longest = "unknown", 0
    try:
        mounts = Path("/proc/self/mounts").read_text()
    except OSError:
        return found
    for line in mounts.splitlines():
        _, place, kind, *_ = line.split()
        inside = place.rstrip("/") + "/"
        if here.startswith(inside) and len(inside) >= longest:
            found, longest = kind, len(inside)
    return found


def fsync_seconds(directory: Path) -> float:
    """Return how long writing 4 kB and waiting until they are on the disk takes: what a durable send can't be below."""
    seconds: list[float] = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(_FSYNCS):
            began = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _redis_version() -> str:
    program = shutil.which("redis-server")
    if program is None:
        return "(not installed)"
    text = subprocess.run([program, "--version"], check=False, capture_output=True, text=True).stdout
    return next((word.removeprefix("v=") for word in text.split() if word.startswith("v=")), "unknown")


def _rabbitmq_version() -> str:
    places = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*"))
    return places[-1].name.removeprefix("rabbitmq_server-") if places else "(not installed)"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "(not installed)"
