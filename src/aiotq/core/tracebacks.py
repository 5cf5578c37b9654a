"""What is shown of an exception: its text and the frames of the user's code, whatever its own methods do."""

from __future__ import annotations

import functools
import importlib.util
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any


@functools.cache
def folder_of(package: str) -> str:
    """Return where the modules of a package are, with a slash at its end; it is not imported for that."""
    spec = importlib.util.find_spec(package)
    origin = None if spec is None else spec.origin
    assert origin is not None, package
    return f"{Path(origin).parent}/"


def text_of(error: object) -> str:
    """Return `str(error)`, or that it can't be had: the method is the user's."""
    try:
        return str(error)
    except Exception:  # the type's own __str__
        return "<its text can't be had>"


def described(error: BaseException) -> str:
    """Return `error` with its type, in one line."""
    return f"{type(error).__name__}: {text_of(error)}"


def arguments_of(error: BaseException) -> tuple[Any, ...]:
    """Return what `error` was made of, or nothing if that can't be had."""
    try:
        # An OSError keeps its file names beside its `args`.
        told: Any = error.__reduce__()[1] if isinstance(error, OSError) else error.args
        return tuple(told)
    except Exception:  # the type's own methods
        return ()


def users_frames(error: BaseException) -> TracebackType | None:
    """Return the traceback of `error` without frames of this library; all of it, if there are no others."""
    kept: list[TracebackType] = []
    each = error.__traceback__
    while each is not None:
        if not _is_ours(each.tb_frame.f_code.co_filename):
            kept.append(each)
        each = each.tb_next
    if not kept:
        return error.__traceback__
    shown: TracebackType | None = None
    for each in reversed(kept):
        shown = TracebackType(shown, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return shown


def formatted(error: BaseException) -> str:
    """Return the traceback of `error` as text, with the user's frames only, in its causes too."""
    try:
        whole = traceback.TracebackException(type(error), error, users_frames(error))
        todo = [whole]
        while todo:
            each = todo.pop()
            theirs = [frame for frame in each.stack if not _is_ours(frame.filename)]
            each.stack[:] = theirs or each.stack
            todo += [found for found in (each.__cause__, each.__context__, *(each.exceptions or ())) if found]
        return "".join(whole.format())
    except Exception:  # its own methods, which the traceback module asks for more than its text
        lines = traceback.format_tb(users_frames(error))
        return "".join(["Traceback (most recent call last):\n", *lines, f"{described(error)}\n"])


def logged(error: BaseException, *, whole: bool) -> Any:
    """Return `error` as the `exc_info` of a log: with the user's frames, or with the `whole` traceback.

    None, if a log could not show it; its text should then stand in the message.
    """
    try:
        bool(error)  # as logging and traceback do
    except Exception:  # the type's own __bool__
        return None
    return type(error), error, error.__traceback__ if whole else users_frames(error)


def _is_ours(file: str) -> bool:
    return file.startswith((folder_of("aiotq"), folder_of("anyio")))
