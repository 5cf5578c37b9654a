"""What a worker's log looks like: lines for people, or JSON for machines (`--log-format`, `worker_log_format`)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from ..core import logs
from ..core.json_logs import JsonFormatter
from ..tasks.request import running_request
from .app_option import UsageError

_FORMATS: Final = ("text", "json")

LogFormat = Annotated[
    str | None, typer.Option("--log-format", metavar="FORMAT", help="text, or json: one object a line, and no banner.")
]


def start_logging(level: str, wanted: str | None, label: str | None) -> logging.Handler:
    """Write logs to stderr in the `wanted` format, as text if none is; by the handler that is returned.

    Raises:
        UsageError: there is no such format.
    """
    if wanted not in (None, *_FORMATS):
        raise UsageError(f"--log-format must be {' or '.join(_FORMATS)}, not {wanted!r}")
    handler = logs.configure(level, sys.stderr, label=label)
    use_format(handler, wanted or "text", label)
    return handler


def use_format(handler: logging.Handler, wanted: str, label: str | None) -> None:
    """Write logs in the `wanted` format from now on."""
    if wanted == "json":
        handler.setFormatter(JsonFormatter(label=label, about=_about_running_task))


def _about_running_task() -> Mapping[str, Any]:
    request = running_request.get()
    return {} if request.id is None else {"task": request.task, "task_id": request.id}
