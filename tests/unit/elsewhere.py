"""A program that hides what only POSIX has, as far as the interpreter itself can do without, and then uses the library.

`python -m tests.unit.elsewhere DIRECTORY`; prints what it did.
"""

from __future__ import annotations

import asyncio
import asyncio.subprocess  # the standard library of this system needs these itself
import multiprocessing.connection  # noqa: F401
import os
import runpy
import select
import signal
import socket
import sys
import tempfile  # noqa: F401
from pathlib import Path
from typing import Any, Final

import anyio  # noqa: F401
import typer  # noqa: F401
import uvicorn  # noqa: F401

_MODULES: Final = ("fcntl", "resource", "termios", "tty", "pty", "pwd", "grp", "syslog", "readline")
_SIGNALS: Final = ("SIGHUP", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTTIN", "SIGTTOU", "SIGALRM", "SIGCHLD", "SIGQUIT")
_OF_SIGNAL: Final = ("setitimer", "ITIMER_REAL", "pthread_sigmask", "SIG_BLOCK", "SIG_SETMASK", "alarm")
_OF_OS: Final = (
    *("fork", "killpg", "setsid", "getsid", "getuid", "geteuid", "getgid", "sysconf", "pidfd_open", "initgroups"),
    *("setuid", "setgid", "register_at_fork", "waitid", "WNOHANG", "uname", "nice", "getpgid", "pwrite", "mkfifo"),
)
_OF_LOOP: Final = (
    *("add_reader", "remove_reader", "add_signal_handler", "remove_signal_handler"),
    *("create_unix_connection", "create_unix_server"),
)


def hide() -> None:
    """Take away what Windows does not have."""
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]  # importing it fails
    for module, names in ((signal, (*_SIGNALS, *_OF_SIGNAL)), (os, _OF_OS), (select, ("poll",))):
        for name in names:
            if hasattr(module, name):
                delattr(module, name)
    del asyncio.open_unix_connection
    pair, family = socket.socketpair, socket.AF_UNIX
    del socket.AF_UNIX
    setattr(socket, "socketpair", lambda: pair(family))  # noqa: B010

    def refuse(*_: Any, **__: Any) -> Any:
        raise NotImplementedError

    for name in _OF_LOOP:
        setattr(asyncio.get_event_loop_policy().new_event_loop().__class__, name, refuse)


async def use(url: str) -> list[object]:
    """Call tasks of a worker in this process, and look at what there is."""
    from aiotq import AioTQ, chain  # noqa: PLC0415

    app = AioTQ("elsewhere", broker=url)

    @app.task
    async def add(x: int, y: int) -> int:
        return x + y

    @app.task
    def double(x: int) -> int:
        return 2 * x

    async with app, app.worker():
        results = [await add.delay(2, 2), await chain(add.s(1, 2), double.s()).delay()]
        got = [await each.get(timeout=20) for each in results]
        assert await app.control.ping()
        assert [each.name for each in await app.control.fleet()]
        await add.apply_async((1, 1), countdown=1000)
        delayed = [each.delayed for each in await app.admin.queues(["default"])]
    return [*got, *delayed]


JOBS: Final = """
from aiotq import AioTQ

app = AioTQ("jobs", broker="sqlite:///jobs.db")

@app.task
async def add(x: int, y: int) -> int:
    return x + y
"""


def command(*words: str) -> None:
    """Give a command in this process."""
    sys.argv = ["aiotq", *words]
    try:
        runpy.run_module("aiotq", run_name="__main__")
    except SystemExit as exc:
        print(words[0], exc.code, flush=True)


def main(directory: str) -> None:
    os.chdir(directory)
    hide()
    print("memory", asyncio.run(use("memory://")))
    print("sqlite", asyncio.run(use("sqlite:///here.db")))
    Path("jobs.py").write_text(JOBS, encoding="utf-8")
    sys.path.insert(0, directory)
    command("call", "jobs", "jobs.add", "--args", "[2, 2]")
    command("worker", "jobs", "--burst", "--no-banner")
    command("queues", "jobs")
    command("worker", "jobs", "-D")
    command("worker", "jobs", "--workers", "2")


if __name__ == "__main__":
    main(sys.argv[1])
