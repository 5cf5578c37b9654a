"""What the small process above several workers is to do, and how a command becomes that process.

It executes Python anew, in the same process, so that pid, log and supervision by others stay: else the memory of a
command line would stay as long as the workers run. The plan is in its environment: `ps` shows what was given.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from ..core.bounds import Bounds
from ..core.json_logs import JsonFormatter
from ..core.logs import configure
from . import pidfile, starting
from .http import serving
from .kept_worker import ChildCommand
from .supervisor import Supervisor, default_name

logger = logging.getLogger("aiotq.workers")

_VARIABLE: Final = "_AIOTQ_PLAN"


@dataclass(frozen=True, slots=True)
class Plan:
    """So many workers, each started as `child` says. `bounds`: the least and the most of them; `http_fd`: a socket that
    listens for those who ask how they are, at `http_place`. `pidfile`: what names this process, and its lock."""

    child: ChildCommand
    name: str | None
    count: int
    bounds: tuple[int, int] | None
    level: str
    log_format: str | None
    http_fd: int | None = None
    http_place: str | None = None
    pidfile: tuple[str, int] | None = None

    def execute(self, words: Sequence[str]) -> NoReturn:
        """Become the process that does this; `words` are for who looks at it."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for fd in (self.http_fd, None if self.pidfile is None else self.pidfile[1]):
            if fd is not None:
                os.set_inheritable(fd, True)
        program = str(Path(__file__).with_name("parent.py"))
        # -P: the library's own modules must not stand in the way of Python's.
        os.execve(
            sys.executable,
            [sys.executable, "-P", program, *words],
            {**os.environ, _VARIABLE: json.dumps({**asdict(self), "awaited": starting.passed_on()})},
        )

    async def run(self) -> bool:
        """Run the workers until a signal stops them; whether all is well."""
        bounds = None if self.bounds is None else Bounds(*self.bounds)
        name = self.name or default_name()
        fleet = Supervisor(self.child, name=name, count=self.count, bounds=bounds, reports=self.http_fd is not None)
        if self.http_fd is None or fleet.reports is None:
            return await fleet.run()
        os.set_inheritable(self.http_fd, False)
        async with serving(fleet.reports, socket.socket(fileno=self.http_fd)):
            logger.info("health and metrics at http://%s/", self.http_place)
            return await fleet.run()


def run_plan(plan: Plan) -> bool:
    """Do what `plan` says in this process; whether all was well."""
    return asyncio.run(plan.run())


def main() -> int:
    """Do what the plan in the environment says; return the exit code."""
    given: dict[str, Any] = json.loads(os.environ.pop(_VARIABLE))
    starting.expected(given.pop("awaited"))
    plan = Plan(child=ChildCommand(**given.pop("child")), **given)
    handler = configure(plan.level, sys.stderr, label="workers")
    if plan.log_format == "json":
        handler.setFormatter(JsonFormatter(label="workers"))
    if plan.pidfile is not None:
        pidfile.adopt(*plan.pidfile)
    try:
        return 0 if run_plan(plan) else 1
    finally:
        pidfile.release()
