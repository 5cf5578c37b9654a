"""`aiotq beat`: a process that sends periodic tasks; any number of them may run."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from typing import Final

from ..app import AioTQ
from ..beat.scheduler import Scheduler
from ..core.inside import core_of
from ..core.system import handle_signals, signals_here
from ..supervising.systemd import say, watched_by_systemd
from .app_option import Target, connected
from .command import command
from .http import Http, read_address, serving_health
from .logs import log_as, start_logging
from .reaching import reached
from .worker import Level, LogFormat, Name

logger = logging.getLogger("aiotq.beat")

_STOPPING: Final = signals_here("SIGTERM", "SIGINT", "SIGHUP")


@command()
def beat(
    target: Target, name: Name = None, level: Level = "INFO", log_format: LogFormat = None, http: Http = None
) -> None:
    """Send periodic tasks until SIGTERM, SIGHUP or SIGINT (Ctrl-C).

    Any number may run: one sends, the others wait, and each occurrence is sent once. aiotq worker --beat does the same.
    """
    address = None if http is None else read_address(http)
    handler = start_logging(level, log_format, None)
    app = target.load()
    log_as(handler, app, level, log_format, None)
    asyncio.run(_serve(app, name, address))


async def _serve(app: AioTQ, name: str | None, address: tuple[str, int] | None) -> None:
    asked = asyncio.Event()
    handle_signals(_STOPPING, asked.set)
    async with serving_health(app, address):
        if not await reached(app, asked.wait):
            return
        scheduler = Scheduler(core_of(app), name=name, is_embedded=False)
        async with connected(app), scheduler:
            gc.freeze()
            gc.enable()  # `main` disables it for what is short
            logger.info("scheduler %s is ready (pid %d)", scheduler.name, os.getpid())
            core = core_of(app)
            with watched_by_systemd(lambda: scheduler.silence <= core.allowed_silence):
                async with asyncio.TaskGroup() as group:
                    stopping = group.create_task(_stop_when(asked, scheduler), name="aiotq.stopping")
                    await scheduler.wait()
                    stopping.cancel()
    logger.info("scheduler %s stopped", scheduler.name)


async def _stop_when(asked: asyncio.Event, scheduler: Scheduler) -> None:
    await asked.wait()
    say("STOPPING=1")
    await scheduler.stop()
