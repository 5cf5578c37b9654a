"""The logging of `aiotq worker`: lines for people, or JSON for machines (`--log-format`, `worker_log_format`)."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from ..app import AioTQ
from ..core import logs
from ..core.json_logs import JsonFormatter
from ..signals import after_setup_logger, after_setup_task_logger, setup_logging
from ..tasks.request import running_request
from ..worker.run import Run
from .app_option import UsageError

LEVELS: Final = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
FORMATS: Final = ("text", "json")


def start_logging(level: str, wanted: str | None, label: str | None) -> logging.Handler:
    """Write logs to stderr in the `wanted` format, as text if none is; by the handler that is returned.

    Raises:
        UsageError: there is no such level or format.
    """
    if level.upper() not in LEVELS:
        raise UsageError(f"--level must be one of {', '.join(LEVELS)}, not {level!r}")
    if wanted not in (None, *FORMATS):
        raise UsageError(f"--log-format must be {' or '.join(FORMATS)}, not {wanted!r}")
    handler = logs.configure(level.upper(), sys.stderr, label=label)
    if wanted == "json":
        handler.setFormatter(JsonFormatter(label=label))
    return handler


def log_as(handler: logging.Handler, app: AioTQ, level: str, wanted: str | None, label: str | None) -> str:
    """Log as the app's settings and its code say, now that it is imported, but for what is `wanted`; return the format.

    If anybody is connected to the signal `setup_logging`, the handler is taken away: logging is theirs.
    """
    form = wanted or app.conf.worker_log_format
    if form == "json":
        chosen = app.conf.worker_log_headers
        handler.setFormatter(JsonFormatter(label=label, about=partial(about_running_task, chosen)))
    how = {
        "loglevel": logging.getLevelNamesMapping()[level.upper()],
        "logfile": None,
        "format": None,
        "colorize": None,
    }
    if setup_logging.receivers:
        logging.getLogger().removeHandler(handler)
        setup_logging.send_now(None, **how)
    else:
        after_setup_logger.send_now(None, logger=logging.getLogger(), **how)
        after_setup_task_logger.send_now(None, logger=logging.getLogger("aiotq.task"), **how)
    return form


def about_running_task(chosen: Sequence[str], state: str | None) -> Mapping[str, Any]:
    """Return what a line of JSON says of the task that runs where it is logged; with its headers that were `chosen`.

    A line that tells its `state` also has the seconds that it ran (`duration`), and those it could have run before and
    did not (`wait`).
    """
    request = running_request.get()
    if request.id is None:
        return {}
    told: dict[str, Any] = {
        "task": request.task,
        "task_id": request.id,
        "root_id": request.root_id,
        "parent_id": request.parent_id,
        "attempt": request.attempt,
        "worker": request.hostname,
        "queue": request.delivery_info.get("queue"),
    }
    if state is not None and isinstance(request.slot, Run):
        told |= _times(request.slot)
    if headers := {name: request.headers[name] for name in chosen if name in request.headers}:
        told["headers"] = headers
    return {name: known for name, known in told.items() if known is not None}


def _times(run: Run) -> Mapping[str, float]:
    if not run.started_at:
        return {}
    duration = time.perf_counter() - run.started_at
    message = run.delivery.message
    could_start = max((moment for moment in (message.sent_at, message.eta) if moment is not None), default=None)
    times = {"duration": round(duration, 6)}
    if could_start is not None:
        times["wait"] = round(max(0.0, time.time() - duration - could_start), 6)
    return times
