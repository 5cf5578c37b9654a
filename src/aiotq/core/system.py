"""What differs between systems: signals, and what a process is told of itself. Windows has less of both."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

#: Fields of `getrusage` that are told.
_FIELDS: Final = ("maxrss", "minflt", "majflt", "nvcsw", "nivcsw")


def signals_here(*names: str) -> tuple[signal.Signals, ...]:
    """Return those signals of `names` that this system has."""
    return tuple(signal.Signals[name] for name in names if hasattr(signal, name))


def handle_signals(numbers: Iterable[signal.Signals], act: Callable[[], object]) -> None:
    """Have the running loop call `act` when one of these signals comes.

    One that this process was started to ignore (SIGHUP by nohup) stays ignored.
    """
    loop = asyncio.get_running_loop()
    for number in numbers:
        if signal.getsignal(number) is signal.SIG_IGN:
            continue
        try:
            loop.add_signal_handler(number, act)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda _number, _frame: loop.call_soon_threadsafe(act))


def resident_bytes() -> int | None:
    """Return the memory that this process has now; None where the system does not tell (macOS, Windows)."""
    with suppress(OSError, ValueError, IndexError, AttributeError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return None


def most_resident_bytes() -> int | None:
    """Return the most memory that this process has had; None where the system does not tell (Windows)."""
    if resource is None:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def used() -> Mapping[str, float]:
    """Return what this process has used: `utime` and `stime` in seconds, and what getrusage tells beside them."""
    if resource is None:
        times = os.times()
        return {"utime": times.user, "stime": times.system}
    found = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "utime": found.ru_utime,
        "stime": found.ru_stime,
        **{name: getattr(found, f"ru_{name}") for name in _FIELDS},
    }


def machine_load() -> float:
    """Return the load of the machine over the last minute; 0 where it has none."""
    with suppress(OSError, AttributeError):
        return round(os.getloadavg()[0], 2)
    return 0.0
