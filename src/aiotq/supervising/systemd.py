"""Tells systemd how a process is: that it is ready, that it stops, and that it lives (`Type=notify`, `WatchdogSec=`).

Nothing happens where systemd did not ask for it. Source: sd_notify(3).
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

logger = logging.getLogger("aiotq.worker")

#: Signs of life in the time that systemd waits for one.
_SIGNS: Final = 3
#: Seconds that the thread has to end.
_LAST: Final = 1.0


@contextmanager
def watched_by_systemd(is_well: Callable[[], bool]) -> Generator[None, None, None]:
    """Say that this process is ready, and give signs of life while `is_well()`, until it is left.

    A thread gives them: a task that blocks the event loop is no reason to kill the worker.
    """
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        yield
        return
    say(f"READY=1\nMAINPID={os.getpid()}")
    over = threading.Event()
    thread = _watchdog(is_well, over)
    try:
        yield
    finally:
        over.set()
        if thread is not None:
            thread.join(_LAST)


def say(what: str) -> None:
    """Send `what` to systemd; nothing without one, and what fails is said in the log."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):  # Linux' abstract sockets
        address = "\0" + address[1:]
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as to_systemd:
            to_systemd.settimeout(_LAST)
            to_systemd.sendto(what.encode(), address)
    except OSError as exc:
        logger.warning("systemd could not be told %r: %s", what.partition("\n")[0], exc)


def _watchdog(is_well: Callable[[], bool], over: threading.Event) -> threading.Thread | None:
    """Return the thread that gives signs of life; None where nobody waits for them."""
    micros, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID")
    if not micros.isdecimal() or int(micros) == 0 or (pid is not None and pid != str(os.getpid())):
        return None
    interval = int(micros) / 1_000_000 / _SIGNS

    def give_signs() -> None:
        while not over.wait(interval):
            if is_well():
                say("WATCHDOG=1")

    thread = threading.Thread(target=give_signs, name="aiotq.systemd", daemon=True)
    thread.start()
    return thread
