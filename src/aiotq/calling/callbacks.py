"""Callbacks of calls (`link`, `link_error`): whether they could be called; and options of calls in workflows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from ..canvas.planner import takes_exceptions
from ..canvas.signature import LINKS, Canvas, Signature, as_callbacks
from ..canvas.structure import first_calls, with_first_calls
from ..canvas.validation import callbacks_of, check_arguments, check_call_options, check_workflow
from ..core.values import replace, shown
from ..exceptions import InvalidArguments
from .envelopes import Callee
from .middleware import OutgoingCall

#: Options of a signature that are not those of its call, which middleware and signals see.
_OF_SIGNATURE: Final = LINKS | {"attempt"}


def check_callbacks(canvas: Canvas[Any], find: Callable[[str], Callee | None]) -> None:
    """Raise `InvalidArguments` for callbacks that could not be called; those of tasks not known here may be."""
    for part in canvas.parts:
        check_callbacks(part, find)
    if not isinstance(canvas, Signature) or canvas.options.keys().isdisjoint(LINKS):
        return
    call = cast("Signature[Any]", canvas)
    for option in sorted(LINKS):
        for callback in as_callbacks(option, call.options.get(option)):
            check_workflow(callback, find)
            check_firsts(callback, find)
            check_callbacks(callback, find)
            for first in first_calls(callback):
                task = find(first.task)
                if task is None or first.immutable:
                    given = 0
                elif option == "link":
                    given = 1
                else:
                    given = 3 if takes_exceptions(task, first) else 1
                try:
                    check_arguments(first, task or first.task, first.args, given)
                except InvalidArguments as exc:
                    raise InvalidArguments(f"{call.task}: {option} {shown(callback)} can't be called: {exc}") from None


def call_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the call itself, of all that a signature has."""
    return {option: given for option, given in options.items() if option not in _OF_SIGNATURE}


def signature_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the other options of a signature: its callbacks, and the attempt that its call begins at."""
    return {option: given for option, given in options.items() if option in _OF_SIGNATURE}


def check_firsts(callback: Canvas[Any], find: Callable[[str], Callee | None]) -> None:
    """Raise `InvalidOption` if one of the calls that `callback` begins with has an impossible option."""
    for first in first_calls(callback):
        check_call_options(first, find(first.task) or first.task)


def queues_in(canvas: Canvas[Any]) -> Iterator[str]:
    """Return the queues that `canvas` names for its calls, and for those of its callbacks."""
    for part in canvas.parts:
        yield from queues_in(part)
    for callback in callbacks_of(canvas):
        yield from queues_in(callback)
    if isinstance(canvas, Signature) and (queue := cast("Signature[Any]", canvas).options.get("queue")) is not None:
        yield queue


def forwarded(whole: Canvas[Any], given: Sequence[OutgoingCall]) -> Canvas[Any]:
    """Return `whole` with its first calls as middleware forwards them."""
    changed = [
        replace(
            first,
            task=call.task,
            args=call.args,
            kwargs=call.kwargs,
            options={**signature_options(first.options), **call.options},
        )
        for first, call in zip(first_calls(whole), given, strict=True)
    ]
    return with_first_calls(whole, changed)
