"""Refusing canvases that can't be run, before anything of them is sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, cast

from ..calling.envelopes import Callee, check_carried, refuse_key
from ..core.values import replace
from ..exceptions import CallError
from ..tasks.options import CallOptions, check_options
from .composites import Chain, Chord, Group
from .signature import LINKS, Canvas, Signature, as_callbacks

#: What a signature has beside the options of its call.
_NOT_OPTIONS: Final = frozenset({"link", "link_error", "attempt", "replacements"})


#: Parts in parts; Python's stack ends somewhere, and forms are read no deeper.
_MAX_DEPTH: Final = 200


def check_depth(canvas: Canvas[Any]) -> None:
    """Raise `CallError` if `canvas` is nested too deep for those who walk through it, and through its callbacks."""
    level: Sequence[Canvas[Any]] = [canvas]
    for _ in range(_MAX_DEPTH):
        level = [part for each in level for part in (*each.parts, *callbacks_of(each))]
        if not level:
            return
    raise CallError(
        f"a workflow nested more than {_MAX_DEPTH} deep can't be sent (in a chain of chords each is in the one "
        "before): have a task in it send the rest"
    )


def callbacks_of(canvas: Canvas[Any]) -> Sequence[Canvas[Any]]:
    """Return the callbacks of a signature; other canvases have none of their own."""
    if not isinstance(canvas, Signature) or LINKS.isdisjoint(options := cast("Signature[Any]", canvas).options):
        return ()
    return [each for option in sorted(LINKS & options.keys()) for each in as_callbacks(option, options[option])]


def check_workflow(canvas: Canvas[Any], find: Callable[[str], Callee | None]) -> None:
    """Refuse a canvas with a step that can't be called so; `find` gives the tasks that are known here.

    Those that start it are checked when their messages are made.

    Raises:
        CallError: the text says which, and why.
    """
    _check(canvas, find, is_first=True)


def _check(canvas: Canvas[Any], find: Callable[[str], Callee | None], *, is_first: bool) -> None:
    if canvas.when_failed == "skip" and isinstance(canvas, (Chain, Chord)):
        refuse_skip()
    match canvas:
        case Signature():
            if not is_first:
                _check_call(cast("Signature[Any]", canvas), find(canvas.task) or canvas.task)
        case Chain(tasks):
            if not tasks:
                raise CallError("an empty chain has nothing to call and no value: leave it out")
            for at, step in enumerate(tasks):
                _check(step, find, is_first=is_first and at == 0)
        case Group(tasks):
            for member in tasks:
                plain = member if member.when_failed == "fail" else replace(cast(Any, member), when_failed="fail")
                _check(plain, find, is_first=is_first)
        case Chord(header, body):
            _check(header, find, is_first=is_first)
            _check(body, find, is_first=False)
        case _:
            raise CallError(f"{canvas!r} can't be sent")


def _check_call(call: Signature[Any], task: Callee | str) -> None:
    check_call_options(call, task)
    check_arguments(call, task, call.args, 0 if call.immutable else 1)


def check_call_options(call: Signature[Any], task: Callee | str) -> None:
    """Raise `InvalidOption` if an option of `call`, which is sent later, is unknown or has an impossible value."""
    options = {option: given for option, given in call.options.items() if option not in _NOT_OPTIONS}
    if options:
        refuse_key(call.task, options)
        check_options(call.task, cast(CallOptions, options), runs_in=None if isinstance(task, str) else task.runs_in)
        check_carried(call.task, options)


def check_arguments(call: Signature[Any], task: Callee | str, args: Sequence[Any], further: int = 0) -> None:
    """Raise `InvalidArguments` if `call` can't be made with `args` and so many `further` ones before them."""
    if isinstance(task, str):
        return
    if call.mode == "once":
        task.check((None,) * further + tuple(args), call.kwargs)
        return
    (items,) = args
    for item in items:
        task.check((item,) if call.mode == "map" else tuple(item), {})


def refuse_skip() -> None:
    """Refuse to go on behind a chain or chord as though it had not been there: what it was given is gone by then."""
    raise CallError(
        'allow_failure("skip") is for single tasks and for members of groups: a chain or chord that is a step of a '
        'chain can be left by allow_failure("continue")'
    )
