"""`aiotq worker --reload`: workers that are stopped cleanly and started again when the project's code changes."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import logging
import os
from collections.abc import AsyncGenerator, Callable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

from ..supervising.kept_worker import ChildCommand
from ..supervising.supervisor import STOPPING, Supervisor, default_name, listen
from .app_option import CommandFailed

logger = logging.getLogger("aiotq.workers")

#: Changed files that are named in the log.
_MOST_NAMED: Final = 3
#: Milliseconds for which changes are gathered: an editor writes a file in several steps, a checkout many files.
_DEBOUNCE: Final = 400


class WatchFiles(Protocol):
    """What we use of the library `watchfiles`."""

    PythonFilter: Callable[..., Any]

    def awatch(
        self, *paths: Path, watch_filter: Any, stop_event: asyncio.Event, debounce: int
    ) -> AsyncGenerator[set[tuple[int, str]], None]: ...


def run_reloading(child: ChildCommand, *, name: str | None, count: int) -> bool:
    """Run `count` worker processes until a signal stops them, others when code changes; whether all is well.

    Raises:
        CommandFailed: `watchfiles` is not installed.
    """
    try:
        library = cast("WatchFiles", importlib.import_module("watchfiles"))
    except ImportError as exc:
        raise CommandFailed("--reload needs watchfiles, which is not installed: pip install 'aiotq[reload]'") from exc

    async def run() -> bool:
        return await Reloading(library, child, places_of(child.app), name=name or default_name(), count=count).run()

    return asyncio.run(run())


def places_of(app: str) -> list[Path]:
    """Return where the code of `app` is: the working directory, and the directory of its package if elsewhere."""
    here = Path.cwd()
    top = app.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):  # the worker will say so
        spec = None
    found = [Path(place) for place in spec.submodule_search_locations or ()] if spec is not None else []
    return [here, *(place for place in found if not place.is_relative_to(here) and place.is_dir())]


class Reloading:
    """Runs one fleet after the other, each with the code as it is then."""

    def __init__(
        self, library: WatchFiles, child: ChildCommand, paths: Sequence[Path], *, name: str, count: int
    ) -> None:
        self._library = library
        self._child = child
        self._paths = paths
        self._name = name
        self._count = count
        self._fleet: Supervisor | None = None
        self._changes: set[str] = set()
        self._changed = asyncio.Event()
        self._ending = asyncio.Event()

    async def run(self) -> bool:
        """Return when a signal has ended it; whether the last workers were well."""
        listen(self._signalled)
        logger.info("watching the code in %s", ", ".join(map(str, self._paths)))
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(self._watch(), name="aiotq.watching")
            life = 0
            is_well = True
            while not self._ending.is_set():
                life += 1
                self._changes.clear()
                self._changed.clear()
                is_well = await self._live(f"{self._name}-r{life}" if life > 1 else self._name)
            await watching
        return is_well

    def _signalled(self, number: int) -> None:
        if number in STOPPING:
            self._ending.set()
            self._changed.set()
        if self._fleet is not None:
            self._fleet.pass_on(number)

    async def _watch(self) -> None:
        watch = self._library.awatch(
            *self._paths, watch_filter=self._library.PythonFilter(), stop_event=self._ending, debounce=_DEBOUNCE
        )
        async for changes in watch:
            self._changes.update(path for _, path in changes)
            self._changed.set()

    async def _live(self, name: str) -> bool:
        """Run one fleet until the code changes or a signal comes; workers that failed wait for a change here."""
        fleet = self._fleet = Supervisor(self._child, name=name, count=self._count)
        async with asyncio.TaskGroup() as group:
            running = group.create_task(fleet.keep(), name="aiotq.workers")
            changed = group.create_task(self._changed.wait(), name="aiotq.changed")
            await asyncio.wait({running, changed}, return_when=asyncio.FIRST_COMPLETED)
            if not changed.done():
                logger.warning("the workers have ended; starting new ones when the code changes")
                await changed
            if not self._ending.is_set():
                logger.warning("%s changed: restarting", self._named())
                fleet.stop()
            is_well = await running
        self._fleet = None
        return is_well

    def _named(self) -> str:
        names = sorted(os.path.relpath(path) for path in self._changes)
        more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
        return ", ".join(names[:_MOST_NAMED]) + more
