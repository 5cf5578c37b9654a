"""Log lines for machines; the command line sets them up (`--log-format json`), a program may."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

from .logs import format_error, giving, state_of

#: What every record has; anything else was given with `extra=`.
_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", *giving("")}


class JsonFormatter(logging.Formatter):
    """One JSON object a line, for machines: time, level, logger, message, and what there is of the rest.

    {"time": "2026-01-31T12:00:00.123Z", "level": "INFO", "logger": "aiotq.task", "message": "Task …",
     "task": "proj.add", "task_id": "…"}

    `about` says what runs where a line is logged (`task`, `task_id`, …), given the `state` of the task that the line
    tells if it does. An exception is the text of its traceback
    (`exception`), and what was logged with `extra=` is an object of that name; `worker` is `label`.
    """

    def __init__(
        self, *, label: str | None = None, about: Callable[[str | None], Mapping[str, Any]] | None = None
    ) -> None:
        super().__init__()
        self._label = label
        self._about = about

    def format(self, record: logging.LogRecord) -> str:
        time_of = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "time": time_of.replace("+00:00", "Z"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._label:
            fields["worker"] = self._label
        state = state_of(record)
        if self._about is not None:
            fields.update(self._about(state))
        if state is not None:
            fields["state"] = state
        if record.exc_info and record.exc_info[1] is not None:
            fields["exception"] = format_error(record.exc_info[1]).rstrip()
        elif record.exc_text:
            fields["exception"] = record.exc_text
        if record.stack_info:
            fields["stack"] = record.stack_info
        if extra := {name: given for name, given in vars(record).items() if name not in _STANDARD}:
            fields["extra"] = extra
        try:
            return json.dumps(fields, default=repr, allow_nan=False)
        except (TypeError, ValueError, RecursionError):  # keys that are no strings, an object in itself, no number
            return json.dumps({**fields, "extra": repr(fields.get("extra"))}, default=repr)
