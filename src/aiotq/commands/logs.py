"""The logging of `aiotq worker`: lines for people, or JSON for machines (`--log-format`, `worker_log_format`)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ..app import AioTQ
from ..core import logs
from ..core.json_logs import JsonFormatter
from ..signals import after_setup_logger, after_setup_task_logger, setup_logging
from ..tasks.request import running_request
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
        handler.setFormatter(JsonFormatter(label=label, about=lambda: about_running_task(chosen)))
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


def about_running_task(chosen: Sequence[str]) -> Mapping[str, Any]:
    """Return what a line of JSON says of the task that runs where it is logged; with its headers that were `chosen`."""
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
    if headers := {name: request.headers[name] for name in chosen if name in request.headers}:
        told["headers"] = headers
    return {name: known for name, known in told.items() if known is not None}
