"""Log lines and tracebacks that a person can read; the command line sets them up, a program may."""

from __future__ import annotations

import logging
import os
import re
import time
import traceback
from collections.abc import Mapping
from types import TracebackType
from typing import Final, TextIO

from .. import states
from .tracebacks import folder_of

#: What a line says of the task that it names, up to its details; coloured if the line gives the task a state.
_VERB: Final = re.compile(r"^(Task \S+:? )(.+?)(?= in |: | \(|$)")
_COLOURS: Final = {"DEBUG": "2", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}
#: Code that stands between an entry point and the user's: ours, and what we call it through.
_MACHINERY: Final = ("aiotq", "anyio", "importlib")  # besides what is frozen into the interpreter
_OURS: Final = ("aiotq.", "py.warnings")


def configure(level: str, stream: TextIO, *, label: str | None = None) -> logging.Handler:
    """Have every logger of this process, and Python's warnings, write lines for people to `stream`.

    `label` is put before each message, to tell apart processes that share a stream. Lines are coloured when the
    stream is a terminal that has them (`has_colours`).
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ReadableFormatter(label=label, coloured=has_colours(stream)))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(True)
    return handler


def has_colours(stream: TextIO) -> bool:
    """Whether what is written to `stream` may be coloured: a terminal, unless NO_COLOR is set (no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class ReadableFormatter(logging.Formatter):
    """`2026-01-31 12:00:00.123 INFO    Task proj.add[…] succeeded in 0.002 s: 4`; others' loggers with their name."""

    def __init__(self, *, label: str | None = None, coloured: bool = False) -> None:
        super().__init__()
        self._label = f"{label}: " if label else ""
        self._coloured = coloured

    def formatMessage(self, record: logging.LogRecord) -> str:
        name = "" if record.name.startswith(_OURS) or record.name == "aiotq" else f"{record.name}: "
        level = f"{record.levelname:7}"
        if self._coloured and (colour := _COLOURS.get(record.levelname)):
            level = f"\x1b[{colour}m{level}\x1b[0m"
        message = record.message.rstrip()
        if self._coloured and (state := state_of(record)) is not None:
            colour = _colour(state, record.levelno)
            message = _VERB.sub(lambda found: f"{found[1]}\x1b[{colour}m{found[2]}\x1b[0m", message, count=1)
        return f"{self.formatTime(record)} {level} {self._label}{name}{message}"

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(record.created))}.{int(record.msecs):03}"

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        return format_error(ei[1]).rstrip() if ei[1] is not None else ""


def _colour(state: str, level: int) -> str:
    return "32" if state == states.SUCCESS else "31" if level >= logging.ERROR else "33"


def giving(state: str) -> Mapping[str, str]:
    """Return the `extra` of a line that says that its task has come to `state`."""
    return {"task_state": state}


def state_of(record: logging.LogRecord) -> str | None:
    """Return the state that a line gives its task (`giving`); None of one that tells no such thing."""
    state: str | None = getattr(record, "task_state", None)
    return state


def format_error(error: BaseException) -> str:
    """Return the traceback of `error` from the first frame that is the user's; all of it if none is."""
    described = traceback.TracebackException.from_exception(error)
    _leave_out_machinery(described)
    return "".join(described.format())


def user_frames(error: BaseException) -> list[traceback.FrameSummary]:
    """Return the frames of `error` from the first that is the user's, none if none is."""
    return _from_first_of_users(traceback.extract_tb(error.__traceback__))


def is_machinery(frame: traceback.FrameSummary) -> bool:
    """Whether a frame is ours, or of what we call the user's code through."""
    return frame.filename.startswith(("<frozen ", *map(folder_of, _MACHINERY)))


def _leave_out_machinery(described: traceback.TracebackException) -> None:
    if users := _from_first_of_users(described.stack):
        described.stack[:] = users
    for other in (described.__cause__, described.__context__, *(described.exceptions or ())):
        if other is not None:
            _leave_out_machinery(other)


def _from_first_of_users(stack: list[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    first = next((index for index, frame in enumerate(stack) if not is_machinery(frame)), len(stack))
    return stack[first:]


class WarnOnce:
    """A warning of what is tried again: given once for each reason, however often it fails, until it works again."""

    def __init__(self, logger: logging.Logger, text: str) -> None:
        self._logger = logger
        self._text = text
        self._reasons: set[str] = set()

    def make(self, reason: Exception) -> None:
        if str(reason) not in self._reasons:
            self._reasons.add(str(reason))
            self._logger.warning("%s, trying again: %s", self._text, reason)

    def withdraw(self) -> None:
        """It works: the next failure is news."""
        self._reasons.clear()
