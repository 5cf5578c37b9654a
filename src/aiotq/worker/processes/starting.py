"""How child processes are started: as fresh interpreters, or forked from a server that has imported what they need.

Never forked from the worker itself: it has a loop and threads.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...exceptions import InvalidOption
from .preload import PRELOADED

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext

FORKSERVER: Final = "forkserver"
#: One server starts at a time: what it imports is told to it in the environment.
_starting: Final = threading.Lock()


@dataclass(frozen=True, slots=True)
class StartMethod:
    """`spawn` or `forkserver`; `modules` are what a child needs, and `preload` what the user named beside that."""

    name: str = "spawn"
    modules: Sequence[str] = ()
    preload: Sequence[str] = ()

    def check(self) -> None:
        """See that children can be started so.

        Raises:
            InvalidOption: this system has no fork server, or there is no module of a name in `preload`.
        """
        if self.name == FORKSERVER:
            import multiprocessing  # noqa: PLC0415  # 8 ms of everybody's start, for those who use processes

            if FORKSERVER not in multiprocessing.get_all_start_methods():
                raise InvalidOption(f"worker_process_start: there is no {FORKSERVER} on {sys.platform}: use 'spawn'")
        for module in self.preload:
            if not _is_there(module):
                raise InvalidOption(f"worker_process_preload: there is no module {module!r}")

    def context(self) -> SpawnContext | ForkServerContext:
        """Return what starts children; a fork server is there afterwards, and lives as long as this process."""
        import multiprocessing  # noqa: PLC0415  # as above

        if self.name != FORKSERVER:
            return multiprocessing.get_context("spawn")
        from multiprocessing.forkserver import ensure_running  # noqa: PLC0415  # as above

        context = multiprocessing.get_context(FORKSERVER)
        context.set_forkserver_preload([PRELOADED.module])
        with _told(self.all_modules()):
            ensure_running()
        return context

    def all_modules(self) -> list[str]:
        """Return all that is imported before a child is ready."""
        return sorted({*self.modules, *self.preload} - {"__main__"})  # which is `__mp_main__` there, and imported


@contextmanager
def _told(modules: Sequence[str]) -> Generator[None]:
    with _starting:
        os.environ[PRELOADED.variable] = json.dumps({"path": sys.path, "modules": modules})
        try:
            yield
        finally:
            del os.environ[PRELOADED.variable]


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a package that it is in can't be imported; a module without a spec
        return module in sys.modules
